//! The whole system over real sockets, with real peers.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

mod crash;
mod delivery;
mod hostile;
mod kit;
mod operator;
mod smuggling;
mod submission;
