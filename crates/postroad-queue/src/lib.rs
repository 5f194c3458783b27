//! The life of a queued message: what is kept of it, when it is tried again, and the contract
//! that every queue store fulfils.

mod id;
mod outcome;
mod schedule;
mod store;

pub use id::{QueueId, QueueIdError};
pub use outcome::{Evidence, Outcome, RecipientState};
pub use schedule::{InvalidSchedule, Next, RetrySchedule};
pub use store::{
    AttemptRecord, BoxFuture, Change, ClaimRequest, Claimed, Content, Draft, Filter, Incoming,
    Lane, LaneSummary, Lease, Listed, ListedRecipient, MessageInfo, Notice, Operation, Store,
    StoreError, Totals,
};
