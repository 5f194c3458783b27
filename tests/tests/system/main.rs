//! The whole system over real sockets, with real peers.

#![expect(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::indexing_slicing,
    reason = "a test tells one story and stops at the first thing that is not as it must be"
)]

mod admin;
mod aliases;
mod chain;
mod configuration;
mod crash;
mod delivery;
mod dev;
mod ehlo;
mod full;
mod hops;
mod hostile;
mod kept;
mod kit;
mod limits;
mod memory;
mod mx;
mod peers;
mod queue;
mod reload;
mod routes;
mod security;
mod seen;
mod smuggling;
mod stop;
mod submission;
mod usage;
mod users;
mod world;
