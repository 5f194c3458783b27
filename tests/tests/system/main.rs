//! The whole system over real sockets, with real peers.

#![expect(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::indexing_slicing,
    reason = "a test tells one story and stops at the first thing that is not as it must be"
)]

mod crash;
mod delivery;
mod hostile;
mod kit;
mod operator;
mod smuggling;
mod submission;
