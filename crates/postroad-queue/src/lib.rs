//! The life of a queued message: what is kept of it, when it is tried again, and the contract
//! that every queue store fulfils.
//!
//! A message is written, committed, claimed when it is due, and what came of the attempt is
//! recorded:
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # runtime.block_on(async {
//! use std::time::Duration;
//!
//! use postroad_mail::{Envelope, Origin, Recipient, Timestamp, replies};
//! use postroad_queue::{
//!     AttemptRecord, Change, ClaimRequest, Draft, Evidence, Filter, Lane, MemStore, Outcome, Store,
//! };
//!
//! let store = MemStore::new(1 << 20);
//! let now = Timestamp::from_millis(1_795_524_541_000);
//! let mut incoming = store.begin(now)?;
//! incoming.write("hello\r\n".into()).await?;
//! let to = Recipient::new("bob@far.example".parse()?);
//! let draft = Draft {
//!     envelope: Envelope::new("<alice@example.org>".parse()?, to),
//!     origin: Origin::default(),
//!     head: "Subject: hi\r\n\r\n".into(),
//!     lanes: vec![Lane::new("far.example")],
//!     resumes: None,
//! };
//! let id = incoming.commit(now, draft).await?;
//!
//! let request = ClaimRequest { max: 10, per_lane: 1, lease: Duration::from_secs(600) };
//! let job = store.claim(now, &request).await?.remove(0);
//! assert_eq!((job.message.id, job.recipients.as_slice()), (id, &[0][..]));
//! // Nobody else gets it while the lease lasts.
//! assert!(store.claim(now, &request).await?.is_empty());
//!
//! let evidence = Evidence {
//!     at: now,
//!     hop: Some("mx.far.example[192.0.2.1]:25".to_owned()),
//!     remote_mta: Some("mx.far.example".to_owned()),
//!     reply: replies::OK,
//!     remote: true,
//!     tls: None,
//! };
//! let outcome = Outcome::Delivered(evidence);
//! let record = AttemptRecord {
//!     changes: vec![Change { recipient: 0, outcome }],
//!     counts: true,
//!     ..AttemptRecord::default()
//! };
//! store.record(now, &job.lease, record).await?;
//! assert!(store.page(&Filter::default(), None, 10).await?.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
pub mod contract;
mod filter;
mod health;
pub mod history;
mod id;
pub mod jobs;
mod mem;
mod outcome;
mod resume;
mod schedule;
mod store;
pub mod transfer;
mod wakers;

pub use cache::{CACHE_ENTRIES_MAX, CACHE_KEY_MAX, CACHE_SPACES_MAX, CacheKeys, MemCache};
pub use health::{Finding, Health, Verified};
pub use id::{Mint, QueueId, QueueIdError};
pub use mem::MemStore;
pub use outcome::{Evidence, Outcome, RecipientState};
pub use resume::{Resume, Resumed};
pub use schedule::{InvalidSchedule, Next, RetrySchedule};
pub use store::{
    AttemptRecord, BoxFuture, Change, ClaimRequest, Claimed, Content, Draft, Filter, Incoming,
    Lane, LaneState, LaneSummary, Lease, Listed, ListedRecipient, MessageInfo, Notice, Operation,
    Store, StoreError, Totals, piece,
};
pub use wakers::Wakers;
