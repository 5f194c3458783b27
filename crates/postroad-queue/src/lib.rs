//! The life of a queued message: what is kept of it, when it is tried again, and the contract
//! that every queue store fulfils.

pub mod contract;
mod filter;
mod id;
pub mod jobs;
mod mem;
mod outcome;
mod schedule;
mod store;
mod wakers;

pub use id::{Mint, QueueId, QueueIdError};
pub use mem::MemStore;
pub use outcome::{Evidence, Outcome, RecipientState};
pub use schedule::{InvalidSchedule, Next, RetrySchedule};
pub use store::{
    AttemptRecord, BoxFuture, Change, ClaimRequest, Claimed, Content, Draft, Filter, Incoming,
    Lane, LaneSummary, Lease, Listed, ListedRecipient, MessageInfo, Notice, Operation, Store,
    StoreError, Totals, piece,
};
pub use wakers::Wakers;
