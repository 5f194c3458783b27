//! The outbound role as a whole: a queue in memory, next hops on loopback, a clock that stands
//! still, and a DNS that says what the test wants.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test stops at the first thing that is not as it must be, and nobody else uses its parts"
)]

mod connections;
mod doubts;
mod explained;
mod hop;
mod kit;
mod lists;
mod notices;
mod put_off;
mod routes;
mod terms;
mod transactions;
mod ways;
