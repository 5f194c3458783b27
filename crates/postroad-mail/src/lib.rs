//! What a mail transaction is made of.
//!
//! This crate is the vocabulary of Postroad: addresses and paths (RFC 5321 section 4.1.2), the
//! envelope with its ESMTP parameters, reply codes and enhanced status codes (RFC 3463), and the
//! one table of all replies that Postroad's server gives. It has no I/O, no clock and no runtime.
//!
//! ```
//! use postroad_mail::{Address, Envelope, Recipient, ReversePath, replies};
//!
//! let to: Address = "\"John Q\"@Example.ORG".parse()?;
//! assert_eq!(to.domain().ascii(), "example.org");
//! assert_eq!(to.to_string(), "\"John Q\"@Example.ORG");
//!
//! let from: ReversePath = "<@relay.example:alice@example.net>".parse()?;
//! assert_eq!(from.to_string(), "alice@example.net"); // the source route is stripped
//!
//! let envelope = Envelope::new(from, Recipient::new(to));
//! assert_eq!(envelope.recipients().len(), 1);
//! assert_eq!(replies::BAD_SEQUENCE.to_string(), "503 5.5.1 Bad sequence of commands");
//! # Ok::<(), postroad_mail::PathError>(())
//! ```

mod address;
mod cache;
mod domain;
mod dsn_params;
mod envelope;
mod hop;
mod origin;
mod path;
pub mod replies;
mod reply;
mod secret;
mod status;
mod time;
mod unitext;
mod xtext;

pub use address::{Address, LocalPart};
pub use cache::{CACHE_VALUE_MAX, Cache};
pub use domain::Domain;
pub use dsn_params::{Notify, NotifyError, OriginalRecipient, Ret};
pub use envelope::{AuthParam, BodyKind, Envelope, Recipient};
pub use hop::{Protocol, Tlsa};
pub use origin::{Origin, TlsInfo, escape_peer_text};
pub use path::{ForwardPath, PathError, ReversePath};
pub use reply::Reply;
pub use secret::Secret;
pub use status::{Class, EnhancedCode, ReplyCode, Severity};
pub use time::Timestamp;
pub use xtext::{XtextError, xtext_decode, xtext_encode};
