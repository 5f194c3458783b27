use std::path::PathBuf;

use postroad_queue::Finding;

/// When a promise is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// `fdatasync` before every acknowledgement: survives a power loss.
    #[default]
    Sync,
    /// Handed to the kernel: survives `kill -9`, not a power loss.
    Os,
}

/// How a [`crate::LocalStore`] is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made where it is not there.
    pub path: PathBuf,
    /// When a promise is one.
    pub durability: Durability,
    /// Octets of a segment of the log.
    pub segment_size: u64,
    /// Octets of a body in the log; longer ones get a file of their own.
    pub inline_max: usize,
    /// Octets free on the file system, below which nothing more is taken in.
    pub min_free: u64,
    /// Octets of just accepted messages kept in memory for their first attempt.
    pub handover_bytes: usize,
    /// Octets that the index may cache.
    pub index_cache: u64,
}

impl Options {
    /// The defaults, for a queue in that directory.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::Sync,
            segment_size: 64 << 20,
            inline_max: 256 << 10,
            min_free: 512 << 20,
            handover_bytes: 64 << 20,
            index_cache: 16 << 20,
        }
    }
}

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Messages that wait.
    pub messages: u64,
    /// Whether the last stop was clean, so that the log had not to be read.
    pub clean: bool,
    /// Segments there were.
    pub segments: u64,
    /// Octets cut from the end of the newest segment and kept beside it: most likely what was being
    /// written at the crash.
    pub torn: u64,
    /// What is lost or doubtful; empty where all is well.
    pub damage: Vec<Finding>,
    /// Bodies without a message, removed.
    pub orphans: u64,
}
