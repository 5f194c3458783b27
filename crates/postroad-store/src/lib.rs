//! The local queue store: a segment log that is the truth, and a sled index over it that may be
//! deleted at any time.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use postroad_mail::{Envelope, Origin, Recipient, Timestamp};
//! use postroad_queue::{Draft, Filter, Lane, Store};
//! use postroad_store::{LocalStore, Options};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path().join("queue");
//! let options = Options { min_free: 0, ..Options::new(&directory) };
//! // Opening may read the whole log, and blocks.
//! let opening = options.clone();
//! let (store, report) = tokio::task::spawn_blocking(|| LocalStore::open(opening)).await??;
//! assert_eq!(report.messages, 0);
//!
//! let now = Timestamp::from_millis(1_800_000_000_000);
//! let mut incoming = store.begin(now)?;
//! incoming.write("Hello\r\n".into()).await?;
//! let to = Recipient::new("bob@example.org".parse()?);
//! let draft = Draft {
//!     envelope: Envelope::new("<alice@example.com>".parse()?, to),
//!     origin: Origin::default(),
//!     head: "Subject: example\r\n\r\n".into(),
//!     lanes: vec![Lane::new("example.org")],
//!     resumes: None,
//! };
//! let id = incoming.commit(now, draft).await?; // now it is on disk
//!
//! store.close().await?;
//! drop(store);
//! let (store, report) = LocalStore::open(options)?;
//! assert!(report.clean && report.messages == 1);
//! assert_eq!(store.page(&Filter::default(), None, 10).await?[0].id, id);
//! # Ok(()) }
//! ```

mod cache;
mod checkpoint;
mod compact;
#[cfg(test)]
mod compaction_tests;
mod content;
mod copies;
#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod flows_tests;
pub mod fuzz;
mod handover;
mod history;
mod incoming;
mod index;
mod inner;
mod io;
mod listing;
mod options;
mod place;
#[cfg(test)]
mod promises;
mod read;
mod record;
mod recover;
mod scan;
mod space;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod watch;
mod writer;

pub use history::{FileHistory, HistoryFiles, HistoryOptions};
pub use options::{Durability, Options, RecoveryReport};
pub use store::LocalStore;
