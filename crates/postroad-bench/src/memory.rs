//! How much memory a server takes while it is under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::group::Group;

/// How often it is looked at, at most.
const INTERVAL: Duration = Duration::from_millis(100);

/// Looking costs the kernel time for every process: the pause is at least this many times as
/// long, so that the two hundred processes of a Postfix are not slowed by being watched.
const PAUSES: u32 = 30;

/// Watches a group in a thread of its own.
#[derive(Debug)]
pub(crate) struct Watch {
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// Where there is no thread for it.
    pub(crate) fn start(group: Arc<Group>) -> anyhow::Result<Self> {
        let (peak, done) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (shared, end) = (Arc::clone(&peak), Arc::clone(&done));
        let thread = std::thread::Builder::new()
            .name("memory".to_owned())
            .spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let started = clock::now();
                    shared.fetch_max(group.memory(), Ordering::Relaxed);
                    std::thread::park_timeout(INTERVAL.max(started.elapsed() * PAUSES));
                }
            })?;
        Ok(Self {
            peak,
            done,
            thread: Some(thread),
        })
    }

    /// Ends; gives the most that was seen, in octets.
    pub(crate) fn stop(mut self, group: &Group) -> u64 {
        self.end();
        self.peak.load(Ordering::Relaxed).max(group.memory())
    }

    fn end(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}
