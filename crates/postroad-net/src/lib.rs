//! Postroad's tokio side: listeners, TLS, limits, and the drivers of the protocol sessions.
//!
//! A role (submission, relay) implements [`server::Role`]; [`server::Server`] gives it
//! connections. [`client::Connector`] opens sessions with next hops. The drivers hold no SMTP:
//! they move octets and time between sockets and the machines of `postroad-proto`.
//!
//! ```
//! use postroad_net::Networks;
//!
//! let trusted: Networks = ["127.0.0.0/8", "::1"].iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
//! assert!(trusted.contains([127, 0, 0, 9].into()));
//! assert!(!trusted.contains([192, 0, 2, 1].into()));
//! # Ok::<(), postroad_net::NetworkError>(())
//! ```

pub mod client;
pub mod clock;
mod networks;
pub mod server;
pub mod tls;

pub use networks::{Network, NetworkError, Networks};
