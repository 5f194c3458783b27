//! The whole system over real sockets, with real peers.

mod kit;
