//! What the store's threads share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use postroad_mail::Timestamp;
use postroad_queue::jobs::Jobs;
use postroad_queue::{
    Content, Finding, Health, Lane, MessageInfo, Mint, QueueId, StoreError, Wakers,
};

use crate::handover::Handover;
use crate::index::Stale;
use crate::io::Io;
use crate::options::Options;
use crate::place::{Mark, Place, Segment};
use crate::watch::Watch;

/// A message as a claim hands it out.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) info: Arc<MessageInfo>,
    pub(crate) lanes: Arc<[Lane]>,
    pub(crate) content: Arc<dyn Content>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) io: Io,
    pub(crate) wakers: Wakers,
    pub(crate) closed: AtomicBool,
    /// Nothing is written any more.
    pub(crate) sealed: AtomicBool,
    /// What the table says is not all on disk, or what is on disk is damaged: the next start is
    /// to read the log.
    pub(crate) doubtful: AtomicBool,
    pub(crate) free: AtomicU64,
    /// The file that keeps room for state is there.
    pub(crate) reserved: AtomicBool,
    pub(crate) watch: Watch,
    /// What the opening found to be damaged.
    pub(crate) found: Vec<Finding>,
    table: Mutex<Jobs<Place>>,
    mint: Mutex<Mint>,
    segments: Mutex<BTreeMap<u32, Segment>>,
    handover: Mutex<Handover>,
    pub(crate) doomed: Mutex<Vec<QueueId>>,
    /// State records that journals are owed.
    pub(crate) marks: Mutex<Vec<Mark>>,
    /// What the index does not know yet.
    pub(crate) stale: Stale,
    /// One writes state at a time, so that each record knows the one before it.
    pub(crate) journal: Mutex<()>,
    /// One syncs journals at a time: who finds nothing to be synced knows that it has been.
    pub(crate) syncing: Mutex<()>,
    /// Held, shared, from writing a state to its being in the table; alone, by whoever must see
    /// both as one: the checkpoint, and compaction.
    changing: RwLock<()>,
}

/// What an opening comes to.
pub(crate) struct Opened {
    pub(crate) table: Jobs<Place>,
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) found: Vec<Finding>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn new(options: Options, io: Io, seed: u64, opened: Opened) -> Self {
        Self {
            options,
            io,
            wakers: Wakers::default(),
            closed: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            free: AtomicU64::new(u64::MAX),
            reserved: AtomicBool::new(false),
            watch: Watch::default(),
            found: opened.found,
            table: Mutex::new(opened.table),
            mint: Mutex::new(Mint::new(seed)),
            segments: Mutex::new(opened.segments),
            handover: Mutex::default(),
            doomed: Mutex::default(),
            marks: Mutex::new(opened.marks),
            stale: Stale::default(),
            journal: Mutex::new(()),
            syncing: Mutex::new(()),
            changing: RwLock::new(()),
        }
    }

    /// To be held from writing a state to its being in the table.
    pub(crate) fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.changing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is between writing a state and its being in the table, as long as this is held.
    pub(crate) fn no_change(&self) -> RwLockWriteGuard<'_, ()> {
        self.changing
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Jobs<Place>> {
        lock(&self.table)
    }

    pub(crate) fn segments(&self) -> MutexGuard<'_, BTreeMap<u32, Segment>> {
        lock(&self.segments)
    }

    pub(crate) fn handover(&self) -> MutexGuard<'_, Handover> {
        lock(&self.handover)
    }

    pub(crate) fn mint(&self, now: Timestamp) -> QueueId {
        lock(&self.mint).next(now)
    }

    pub(crate) fn log_path(&self, segment: u32) -> PathBuf {
        self.options.path.join(format!("seg-{segment:08}.log"))
    }

    pub(crate) fn journal_path(&self, segment: u32) -> PathBuf {
        self.options.path.join(format!("seg-{segment:08}.st"))
    }

    pub(crate) fn big_dir(&self) -> PathBuf {
        self.options.path.join("big")
    }

    pub(crate) fn big_path(&self, id: QueueId) -> PathBuf {
        self.big_dir().join(id.to_string())
    }

    pub(crate) fn refuse_if_closed(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    pub(crate) fn health(&self) -> Health {
        let (disk, live) = self.usage();
        Health {
            free: Some(self.free.load(Ordering::Relaxed)),
            min_free: self.options.min_free,
            disk,
            live,
            ..self.watch.health()
        }
    }
}
