//! How a store does, for those who watch it.

use postroad_mail::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::QueueId;

/// How a store does. Counts are since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// What is wrong now and keeps mail from being taken in or state from being written, in a
    /// sentence; none where all is well.
    pub fault: Option<String>,
    /// Since when.
    pub fault_since: Option<Timestamp>,
    /// Octets free where it keeps its files; none where that means nothing.
    pub free: Option<u64>,
    /// Below so many, new mail is refused.
    pub min_free: u64,
    /// Octets of its files, but for bodies in files of their own: those are there only as long as
    /// they are needed.
    pub disk: u64,
    /// Octets of those that mail in the queue needs.
    pub live: u64,
    /// Commits refused for want of space.
    pub refused_full: u64,
    /// Commits refused because writing or syncing failed.
    pub refused_error: u64,
    /// Results of attempts that could not be written down at once: they are tried again, and hold
    /// until a restart.
    pub states_unwritten: u64,
    /// Syncs of state that failed.
    pub sync_failures: u64,
    /// Messages found damaged.
    pub damaged: u64,
    /// Segments that compaction has emptied.
    pub compactions: u64,
    /// Octets that it has copied for that.
    pub compacted: u64,
}

/// What [`crate::Store::verify`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verified {
    /// Messages read, and found to be what was written.
    pub messages: u64,
    /// Octets read.
    pub octets: u64,
    /// What is wrong, in the order in which it was found; at most [`Verified::FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
}

/// Something that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The message, where it can be told.
    pub id: Option<QueueId>,
    /// The file, or whatever the store has in its place.
    pub place: String,
    /// The segment, in stores that have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<u32>,
    /// Octets from the start of the file to where the damage begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong, and what it means for the mail.
    pub detail: String,
}

impl Verified {
    /// Findings that are listed; the others are counted.
    pub const FINDINGS_MAX: usize = 10_000;

    /// Adds a finding, as far as there is room.
    pub fn find(&mut self, finding: Finding) {
        if self.findings.len() < Self::FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Whether all is as it was written.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.findings.is_empty()
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place)?;
        if let Some(offset) = self.offset {
            write!(f, " at octet {offset}")?;
        }
        if let Some(id) = self.id {
            write!(f, ", message {id}")?;
        }
        write!(f, ": {}", self.detail)
    }
}
