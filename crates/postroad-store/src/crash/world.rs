//! A store, what was done to it, and what it therefore promises.

use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::contract::START;
use postroad_queue::{Claimed, Operation, Store as _};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::disk::{Cut, power_cut};
use super::model::Model;
use super::survival::{directory, listing, open, runtime};
use crate::LocalStore;
use crate::io::Io;

/// What is done to a store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A message to some of the recipients there are; in a file of its own; from another queue.
    Accept(usize, bool, bool),
    Claim(usize, usize),
    Record(usize, How),
    Operate(usize, Operation),
    Advance(u64),
    Tick,
    Compact(bool),
    /// A clean stop, and a start.
    Reopen,
    /// A kill, and a start.
    Kill,
    Crash(Cut),
}

/// What comes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Deliver,
    Defer(u64),
    Fail,
    FailAndTell,
    /// Delivered to the first, deferred for the rest.
    Partly(u64),
    DeferAndTell(u64),
    GiveBack,
}

/// A claim that nothing has come of yet.
pub(crate) struct Held {
    pub(crate) claimed: Claimed,
    pub(crate) expires: Timestamp,
    /// A retry was asked for meanwhile.
    pub(crate) again: bool,
}

pub(crate) struct World {
    pub(crate) runtime: Runtime,
    dir: TempDir,
    pub(crate) io: Io,
    store: Option<LocalStore>,
    pub(crate) model: Model,
    /// The model at each mark.
    pub(crate) marks: Vec<Model>,
    pub(crate) now: Timestamp,
    pub(crate) claims: Vec<Held>,
    pub(crate) count: usize,
    /// Calls are made to fail.
    pub(crate) faulty: bool,
    /// What a restart has found is on disk once a tick has come to its end, whoever was told.
    pub(crate) found_is_kept: bool,
    /// How much was done before the first that did.
    pub(crate) failed: usize,
}

impl World {
    /// An empty queue.
    pub(crate) fn new(faulty: bool) -> Self {
        let dir = directory();
        let io = Io::default();
        io.0.record(dir.path());
        Self {
            runtime: runtime(),
            dir,
            io,
            store: None,
            model: Model::default(),
            marks: vec![Model::default()],
            now: START,
            claims: Vec::new(),
            count: 0,
            faulty,
            found_is_kept: false,
            failed: usize::MAX,
        }
    }

    /// Whether it could be opened: always, unless calls fail.
    pub(crate) fn open(&mut self) -> bool {
        self.claims.clear();
        match open(self.dir.path(), self.io.clone()) {
            Ok((store, _)) => {
                self.store = Some(store);
                if self.faulty {
                    let look = || self.runtime.block_on(listing(self.store()));
                    let listed = self.io.0.pause(look);
                    self.model.restarted(&listed).unwrap();
                }
                true
            }
            Err(error) => {
                assert!(self.faulty, "{error}: {error:?}");
                false
            }
        }
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&mut self) {
        self.io.0.heal();
        assert!(self.store.is_some() || self.open());
        self.faulty = false;
    }

    pub(crate) fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(*step);
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        if self.store.is_none() && !self.open() {
            self.failed = 0;
            return;
        }
        let (fired, before) = (self.io.0.fired(), self.io.0.len());
        match step {
            Step::Accept(to, big, resumes) => self.accept(to, big, resumes),
            Step::Claim(max, per_lane) => self.claim(max, per_lane),
            Step::Record(pick, how) => self.record(pick, how, fired),
            Step::Operate(pick, operation) => self.operate(pick, operation),
            Step::Advance(seconds) => self.now = self.now + Duration::from_secs(seconds),
            Step::Tick => {
                let ticked = self.tick();
                assert!(ticked || self.faulty);
            }
            Step::Compact(all) => self.compact(all),
            Step::Reopen => self.reopen(),
            Step::Kill => {
                self.kill();
                if self.open() && !self.faulty {
                    self.look();
                }
            }
            Step::Crash(cut) => self.crash(cut),
        }
        if self.io.0.fired() != fired {
            self.failed = self.failed.min(before);
            let live = self.model.messages.values_mut();
            for event in live.flat_map(|message| message.since.last_mut()) {
                event.shaky |= !event.synced;
            }
        }
    }

    pub(crate) fn store(&self) -> &LocalStore {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn mark(&mut self) {
        self.io.0.mark(self.marks.len());
        self.marks.push(self.model.clone());
    }

    /// Whether all state is on disk.
    pub(crate) fn tick(&mut self) -> bool {
        let ticked = self.runtime.block_on(self.store().tick_now()).is_ok();
        if ticked {
            self.model.synced();
            for message in self.model.messages.values_mut() {
                message.acked |= message.live && self.found_is_kept;
            }
            self.mark();
        }
        ticked
    }

    /// All segments that can be; or those that are worth it.
    fn compact(&mut self, all: bool) {
        let store = self.store();
        let compacted = if all {
            self.runtime.block_on(store.compact_now())
        } else {
            self.runtime.block_on(store.tick_now())
        };
        assert!(compacted.is_ok() || self.faulty, "{compacted:?}");
    }

    /// What the store has is what it should have.
    pub(crate) fn look(&mut self) {
        let listed = self.runtime.block_on(listing(self.store()));
        if let Err(wrong) = self.model.reopened(&listed) {
            panic!("{wrong}");
        }
    }

    fn reopen(&mut self) {
        let store = self.store.take().unwrap();
        let closed = self.runtime.block_on(store.close());
        drop(store);
        assert!(closed.is_ok() || self.faulty, "{closed:?}");
        if closed.is_ok() {
            self.model.synced();
            self.mark();
        }
        if self.open() && !self.faulty {
            self.look();
        }
    }

    /// The process is gone, and what it has written is there.
    pub(crate) fn kill(&mut self) {
        self.io.0.kill_at(0);
        self.io.0.kill(true);
        self.store = None;
        self.claims.clear();
        self.io.0.kill(false);
    }

    fn crash(&mut self, cut: Cut) {
        let ops = self.io.0.ops();
        self.kill();
        self.dir = directory();
        power_cut(&ops, cut, self.dir.path());
        self.io = Io::default();
        self.io.0.record(self.dir.path());
        assert!(self.open());
        let listed = self.runtime.block_on(listing(self.store()));
        if cut == Cut::Kept {
            self.look();
        }
        if let Err(wrong) = self.model.crashed(&listed) {
            panic!("after a crash ({cut:?}) {wrong}");
        }
        self.marks = vec![self.model.clone()];
    }
}
