//! Checks of passwords, off the async threads, as many at a time as there are processors.
//!
//! On threads of their own, not on tokio's for blocking work: of those there are many, and the
//! allocator keeps for each what a check on it has needed once, 19 MiB of an ordinary hash.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::{Semaphore, oneshot};
use tracing::error;

/// Checks that run or wait for a processor, at most; beyond, the client is asked to try later.
const WAITING_MAX: usize = 256;

/// Checks hashes, a bounded number at a time. Its threads start when they are first needed, and
/// end when it is dropped.
pub(crate) struct Checker {
    threads_max: usize,
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// Too many checks wait.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many passwords are being checked")]
pub(crate) struct Overloaded;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Each has a place, so that there are [`WAITING_MAX`] at most.
    waiting: VecDeque<Check>,
    threads: usize,
    idle: usize,
    over: bool,
}

type Check = Box<dyn FnOnce() + Send>;

impl Checker {
    pub(crate) fn new() -> Self {
        Self::on(thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    fn on(threads_max: usize) -> Self {
        Self {
            threads_max,
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            shared: Arc::default(),
        }
    }

    /// Does work that ends in [`crate::hashing::is_password`], once a processor is free. Where
    /// nobody waits for it any more by then, it is not done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Overloaded> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Overloaded)?;
        let (reply, replied) = oneshot::channel();
        self.hand_over(Box::new(move || {
            if reply.is_closed() {
                return;
            }
            let done = work();
            drop(place);
            // Who asked may have gone meanwhile.
            let _ = reply.send(done);
        }))?;
        // No reply comes from a check that has panicked.
        replied.await.map_err(|_| Overloaded)
    }

    fn hand_over(&self, check: Check) -> Result<(), Overloaded> {
        let mut state = self.shared.state();
        if state.idle <= state.waiting.len() && state.threads < self.threads_max {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("password".to_owned());
            match thread.spawn(move || shared.serve()) {
                Ok(_) => state.threads += 1,
                Err(error) => {
                    error!(%error, threads = state.threads, "a thread to check passwords on cannot be started");
                    if state.threads == 0 {
                        return Err(Overloaded);
                    }
                }
            }
        }
        state.waiting.push_back(check);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.shared.changed.notify_all();
    }
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker")
            .field("threads_max", &self.threads_max)
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// What each thread does.
    fn serve(&self) {
        while let Some(check) = self.next() {
            // The thread must outlive it: there are not many.
            if catch_unwind(AssertUnwindSafe(check)).is_err() {
                error!("the check of a password ended by a fault of ours");
            }
        }
    }

    fn next(&self) -> Option<Check> {
        let mut state = self.state();
        loop {
            if state.over {
                return None;
            }
            if let Some(check) = state.waiting.pop_front() {
                return Some(check);
            }
            state.idle += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};
    use std::task::Poll;
    use std::time::Duration;

    use futures_util::future::join_all;
    use futures_util::poll;
    use postroad_proto::sasl::Secret;

    use super::*;
    use crate::hashing::{cheap_hash, hash_password, is_password};

    #[tokio::test]
    async fn checks_are_bounded_in_number() {
        let (checker, hash) = (Checker::new(), cheap_hash());
        let (go_on, told) = mpsc::channel::<()>();
        let told = Arc::new(Mutex::new(told));
        let check = || {
            let (hash, secret) = (hash.clone(), Secret::new("nobody".to_owned()));
            let told = Arc::clone(&told);
            checker.run(move || {
                let _ = told.lock().unwrap().recv();
                is_password(&hash, &secret)
            })
        };
        let mut checks: Vec<_> = (0..WAITING_MAX + 10).map(|_| Box::pin(check())).collect();
        let mut refused = 0;
        for check in &mut checks {
            refused += usize::from(matches!(poll!(check), Poll::Ready(Err(Overloaded))));
        }
        assert_eq!(refused, 10);
        drop(go_on);
        checks.truncate(WAITING_MAX);
        let done = join_all(checks).await;
        assert!(done.into_iter().all(|right| right.unwrap()));
        // And afterwards there is room again.
        assert!(check().await.unwrap());
    }

    #[tokio::test]
    async fn the_async_thread_stays_free() {
        let checker = Checker::new();
        let hash = hash_password("right").unwrap();
        let secret = Secret::new("wrong".to_owned());
        let mut checking = std::pin::pin!(checker.run(move || is_password(&hash, &secret)));
        let mut turns = 0;
        let right = loop {
            tokio::select! {
                biased;
                right = &mut checking => break right,
                () = tokio::task::yield_now() => turns += 1,
            }
        };
        assert!(!right.unwrap() && turns > 10, "{turns} turns");
    }

    /// The allocator keeps for each thread what a check on it has needed: so that this is
    /// bounded, they must be.
    #[tokio::test]
    async fn a_few_threads_do_all_checks() {
        let checker = Checker::on(3);
        // None of three goes on before there are three at the same time.
        let together = Arc::new(Barrier::new(3));
        let running = Arc::new(AtomicUsize::new(0));
        let checks = (0..WAITING_MAX / 3 * 3).map(|_| {
            let (together, running) = (Arc::clone(&together), Arc::clone(&running));
            checker.run(move || {
                let most = running.fetch_add(1, Ordering::SeqCst) + 1;
                together.wait();
                running.fetch_sub(1, Ordering::SeqCst);
                let thread = thread::current();
                (thread.id(), thread.name().map(str::to_owned), most)
            })
        });
        let mut ids = HashSet::new();
        for done in join_all(checks).await {
            let (id, name, most) = done.unwrap();
            assert_eq!(name.as_deref(), Some("password"));
            assert!(most <= 3, "{most} at the same time");
            ids.insert(id);
        }
        assert_eq!(ids.len(), 3);
    }

    #[tokio::test]
    async fn a_panic_costs_neither_the_thread_nor_the_place() {
        let checker = Checker::on(1);
        let thread = checker.run(|| thread::current().id()).await.unwrap();
        for _ in 0..3 {
            let panicked = checker.run(|| panic!("on purpose")).await;
            assert!(panicked.is_err());
        }
        let same = checker.run(|| thread::current().id()).await.unwrap();
        assert_eq!(same, thread);
        assert_eq!(checker.places.available_permits(), WAITING_MAX);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_done() {
        let checker = Checker::on(1);
        let (go_on, told) = mpsc::channel::<()>();
        let mut first = Box::pin(checker.run(move || told.recv().is_ok()));
        assert!(poll!(first.as_mut()).is_pending());
        let (done, seen) = mpsc::channel::<()>();
        let mut second = Box::pin(checker.run(move || done.send(())));
        assert!(poll!(second.as_mut()).is_pending());
        drop(second);
        // Its place is taken for as long as it is in the queue.
        assert_eq!(checker.places.available_permits(), WAITING_MAX - 2);
        go_on.send(()).unwrap();
        assert!(first.await.unwrap());
        checker.run(|| ()).await.unwrap();
        assert_eq!(seen.try_recv(), Err(mpsc::TryRecvError::Disconnected));
        assert_eq!(checker.places.available_permits(), WAITING_MAX);
    }

    #[tokio::test]
    async fn threads_start_with_the_first_check_and_end_with_the_checker() {
        let checker = Checker::on(2);
        assert_eq!(checker.shared.state().threads, 0);
        checker.run(|| ()).await.unwrap();
        assert!(checker.shared.state().threads > 0);
        // Each thread holds it.
        let shared = Arc::downgrade(&checker.shared);
        drop(checker);
        let ended = async {
            while shared.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        assert!(ended.is_ok(), "threads go on");
    }
}
