//! The relay role: port 25 in, delivery out, bounces.
//!
//! [`Inbound`] is served by `postroad_net::server::Server`; [`Outbound`] takes what is due from
//! a store, asks a router where it goes, delivers it, and writes down what came of it, with the
//! notices that are owed.
//!
//! ```
//! use postroad_mta::DomainPatterns;
//!
//! let ours = DomainPatterns::parse(["example.org", "*.example.org"])?;
//! assert!(ours.contains(&"lists.example.org".parse()?));
//! assert!(!ours.contains(&"notexample.org".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bounce;
mod inbound;
mod outbound;

pub use inbound::{DomainPatternError, DomainPatterns, Inbound, InboundConfig};
pub use outbound::{Clock, MaildirObserver, Outbound, OutboundConfig, SystemClock};
