//! Postroad's tokio side: listeners, TLS, limits, and the drivers of the protocol sessions.

pub mod client;
pub mod clock;
pub mod server;
