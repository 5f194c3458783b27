//! What is no longer needed goes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::StoreError;

use crate::inner::{Inner, lock};
use crate::place::Segment;
use crate::watch::{Work, because, now};

/// Segments' worth of octets beyond twice what the queue needs, at most, once compaction has
/// caught up: 128 MiB, where segments have the usual size.
pub(crate) const SLACK: u64 = 2;
/// A file that keeps a little room, for state to be written where the disk is full.
const RESERVE: &str = "RESERVE";
const RESERVE_MAX: u64 = 1 << 20;
/// A segment of which less than one in so many octets is needed is compacted.
const SPARSE: u64 = 4;
/// Likewise one that is older than this …
const OLD: Duration = Duration::from_secs(3600);
/// … of which less than one in so many octets is needed.
const SPARSE_OLD: u64 = 2;

impl Inner {
    /// Once a second and at the end: state to the disk, then what is no longer needed goes.
    ///
    /// # Errors
    /// Where some state is not on disk.
    pub(crate) fn tick(&self) -> Result<(), StoreError> {
        self.look_at_space();
        self.keep_reserve();
        self.handover().forget_old(now());
        let all_written = self.write_marks();
        let doomed = std::mem::take(&mut *lock(&self.doomed));
        let dead: Vec<u32> = {
            let segments = self.segments();
            let dead = segments.iter().filter(|(_, s)| s.sealed && s.live == 0);
            dead.map(|(number, _)| *number).collect()
        };
        let synced = if doomed.is_empty() && dead.is_empty() {
            self.sync_state()
        } else {
            self.sync_journals()
        };
        match &synced {
            Ok(()) if all_written => self.watch.works(Work::State),
            Ok(()) => {}
            Err(error) => {
                self.unsynced(error);
                lock(&self.doomed).extend(&doomed);
            }
        }
        if synced.is_ok() {
            for id in doomed {
                let _ = self.io.remove(&self.big_path(id)); // else swept at the next start
            }
        }
        for number in dead {
            self.drop_segment(number, synced.is_ok());
        }
        synced
    }

    /// Some state is not on disk.
    pub(crate) fn unsynced(&self, error: &StoreError) {
        let error = because(error);
        self.watch.fails(Work::State, &error);
        tracing::error!(
            error,
            "what came of deliveries and orders is not synced: after a power loss, mail may go out again; see to the disk of the queue"
        );
    }

    /// Where state is not synced, only a segment goes whose own journal is what fails: with all
    /// that it says.
    fn drop_segment(&self, number: u32, synced: bool) {
        let suspect = self.segments().get(&number).is_some_and(|s| s.suspect);
        let held = lock(&self.marks)
            .iter()
            .any(|mark| mark.holds == Some(number));
        if held || !(synced || suspect) {
            return;
        }
        if let Err(error) = self.unlink(number) {
            tracing::warn!(
                error = because(&error),
                segment = number,
                "segment not removed"
            );
        }
    }

    fn unlink(&self, number: u32) -> Result<(), StoreError> {
        // Before its file: nobody is to look for that any more.
        let Some(segment) = self.segments().remove(&number) else {
            return Ok(());
        };
        if let Err(error) = self.io.remove(&self.log_path(number)) {
            self.segments().insert(number, segment);
            return Err(error);
        }
        if segment.indexed {
            self.stale.gone(number);
        }
        self.io.sync_dir(&self.options.path)?;
        self.io.remove(&self.journal_path(number))
    }

    /// The file that keeps a little room for state is deleted. Whether it was there.
    pub(crate) fn give_up_reserve(&self) -> bool {
        let path = self.options.path.join(RESERVE);
        self.reserved.swap(false, Ordering::AcqRel) && self.io.remove(&path).is_ok()
    }

    /// It is made anew where there is room again.
    pub(crate) fn keep_reserve(&self) {
        if self.reserved.load(Ordering::Acquire) {
            return;
        }
        let path = self.options.path.join(RESERVE);
        let size = (self.options.segment_size / 64).min(RESERVE_MAX);
        // One that an earlier process has left is as good, also where there is no room for another.
        let there = self
            .io
            .length(&path)
            .is_ok_and(|length| length == Some(size));
        let room = self.free.load(Ordering::Relaxed) >= self.options.min_free.max(4 * size);
        let made =
            there || room && self.io.remove(&path).is_ok() && self.io.create(&path, size).is_ok();
        self.reserved.store(made, Ordering::Release);
    }

    /// Free space has been taken, by us; it is looked at again at the next tick.
    pub(crate) fn take_space(&self, octets: u64) {
        let less = |free: u64| Some(free.saturating_sub(octets));
        let _ = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn look_at_space(&self) {
        let Some(free) = self.io.free(&self.options.path) else {
            return;
        };
        let enough = |free: u64| free >= self.options.min_free;
        let before = self.free.swap(free, Ordering::Relaxed);
        if enough(free) {
            self.watch.works(Work::Space);
            return;
        }
        let min_free = self.options.min_free;
        let why = format!("{free} octets are free, {min_free} must be (limits.min_free)");
        self.watch.fails(Work::Space, &why);
        if enough(before) {
            tracing::error!(free, min_free, path = %self.options.path.display(), "too little space is free: new mail is refused with 452 until there is more, what is queued goes on; make room on that file system");
        }
    }

    /// Octets of all segments, and of what the queue needs of them. Bodies in files of their own
    /// count in neither: they go as soon as they are not needed.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let segments = self.segments();
        let disk = segments.values().map(Segment::disk).sum();
        let live = segments.values().map(|s| s.live_octets).sum();
        (disk, live)
    }

    /// Whether nothing more is to be written into that segment, so that compaction can empty it:
    /// its journal is not to be trusted, or has become longer than the log.
    pub(crate) fn is_to_be_left(&self, number: u32) -> bool {
        let segments = self.segments();
        let segment = segments.get(&number).filter(|s| !s.sealed);
        segment.is_some_and(|s| s.suspect || s.state_end > self.options.segment_size)
    }

    /// Octets that the files may have, where so many are needed.
    pub(crate) fn space_max(&self, live: u64) -> u64 {
        let slack = self.options.segment_size.saturating_mul(SLACK);
        live.saturating_mul(2).saturating_add(slack)
    }

    /// The segment that is best compacted now; none where that would gain too little. One whose
    /// journal cannot be trusted comes first.
    pub(crate) fn sparsest(&self, now: Timestamp) -> Option<u32> {
        let (disk, live) = self.usage();
        let crowded = disk > self.space_max(live);
        let segments = self.segments();
        let worth = |segment: &Segment| {
            let (all, live) = (segment.disk(), segment.live_octets);
            segment.suspect
                || live.saturating_mul(SPARSE) < all
                || (crowded || now.since(segment.since) > OLD)
                    && live.saturating_mul(SPARSE_OLD) < all
        };
        let share = |segment: &Segment| {
            (
                !segment.suspect,
                segment.live_octets.saturating_mul(1000) / segment.disk().max(1),
            )
        };
        segments
            .iter()
            .filter(|(_, s)| {
                s.sealed && s.live > 0 && s.stuck.is_none_or(|until| now >= until) && worth(s)
            })
            .min_by_key(|(_, segment)| share(segment))
            .map(|(number, _)| *number)
    }
}
