//! The local queue store: a segment log that is the truth, and a sled index over it that may be
//! deleted at any time.
//!
//! ```no_run
//! # async fn example() -> Result<(), postroad_queue::StoreError> {
//! use postroad_store::{LocalStore, Options};
//!
//! let options = Options::new("/var/lib/postroad/queue");
//! // Opening reads the log, and blocks.
//! let opened = tokio::task::spawn_blocking(move || LocalStore::open(options)).await;
//! let (store, report) = opened.expect("opening does not panic")?;
//! println!("{} messages wait", report.messages);
//! # drop(store); Ok(()) }
//! ```

mod checkpoint;
mod content;
pub mod fuzz;
mod incoming;
mod index;
mod inner;
mod io;
mod options;
#[cfg(test)]
mod promises;
mod record;
mod recover;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use options::{Durability, Options, RecoveryReport};
pub use store::LocalStore;
