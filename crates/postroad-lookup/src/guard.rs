//! A time limit and a circuit breaker around a table.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::table::{LookupError, SharedTable, Table};

/// How long to wait for a table, and when to stop asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardOptions {
    /// For one lookup, with all that it needs: a free connection, connecting, the answer.
    pub timeout: Duration,
    /// After so many failures in a row the table is left alone.
    pub failures: u32,
    /// For so long; then one lookup tries again, for all.
    pub pause: Duration,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            failures: 5,
            pause: Duration::from_secs(10),
        }
    }
}

impl SharedTable {
    /// With a time limit, and a circuit breaker: while the table fails, most lookups fail at once.
    ///
    /// A failure is [`LookupError::Unavailable`] and what takes too long. An answer that makes no
    /// sense is none: somebody is there.
    #[must_use]
    pub fn guarded(self, options: GuardOptions) -> Self {
        Self::new(Guarded {
            table: self,
            options,
            breaker: Mutex::new(Breaker::Closed { failures: 0 }),
        })
    }
}

struct Guarded {
    table: SharedTable,
    options: GuardOptions,
    breaker: Mutex<Breaker>,
}

#[derive(Clone, Debug)]
enum Breaker {
    /// Lookups go through.
    Closed { failures: u32 },
    /// None does until then.
    Open { until: Instant, last: String },
    /// One is under way to see whether the others could.
    Probing { last: String },
}

/// What a lookup is to the breaker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Usual,
    Probe,
}

impl Table for Guarded {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        let mut pass = Pass {
            guarded: self,
            turn: Some(self.turn()?),
        };
        let limit = self.options.timeout;
        let found = timeout(limit, self.table.lookup(key)).await;
        let found = found.unwrap_or_else(|_| {
            Err(LookupError::unavailable(
                &self.table,
                &format!("no answer within {limit:?}"),
            ))
        });
        if let Some(turn) = pass.turn.take() {
            match &found {
                Err(LookupError::Unavailable { detail, .. }) => self.failed(turn, detail),
                Ok(_) | Err(LookupError::Invalid { .. }) => self.answered(turn),
            }
        }
        found
    }

    fn name(&self) -> String {
        self.table.name()
    }
}

impl Guarded {
    fn with<T>(&self, f: impl FnOnce(&mut Breaker) -> T) -> T {
        f(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether, and as what, a lookup may go through now.
    fn turn(&self) -> Result<Turn, LookupError> {
        let now = Instant::now();
        self.with(|breaker| {
            let (wait, last) = match breaker {
                Breaker::Closed { .. } => return Ok(Turn::Usual),
                Breaker::Open { until, last } if *until <= now => {
                    let last = std::mem::take(last);
                    *breaker = Breaker::Probing { last };
                    return Ok(Turn::Probe);
                }
                Breaker::Open { until, last } => (until.duration_since(now), last),
                Breaker::Probing { last } => (Duration::ZERO, last),
            };
            Err(LookupError::unavailable(
                &self.table,
                &format!(
                    "not asked, as it failed {} times in a row, the last time: {last}; it is asked again in {}s",
                    self.options.failures.max(1),
                    wait.as_secs()
                ),
            ))
        })
    }

    fn failed(&self, turn: Turn, detail: &str) {
        let until = Instant::now() + self.options.pause;
        let open = || Breaker::Open {
            until,
            last: detail.to_owned(),
        };
        let opened = self.with(|breaker| match (turn, &mut *breaker) {
            (Turn::Probe, _) => {
                *breaker = open();
                false
            }
            (Turn::Usual, Breaker::Closed { failures }) => {
                *failures += 1;
                let opens = *failures >= self.options.failures;
                if opens {
                    *breaker = open();
                }
                opens
            }
            // One that was under way when others had failed already.
            (Turn::Usual, Breaker::Open { .. } | Breaker::Probing { .. }) => false,
        });
        if opened {
            tracing::warn!(
                table = self.name(),
                failures = self.options.failures,
                pause = ?self.options.pause,
                last = detail,
                "a table fails and is left alone for a while; mail that needs it waits"
            );
        }
    }

    fn answered(&self, turn: Turn) {
        let closes = self.with(|breaker| {
            let closed = matches!(breaker, Breaker::Closed { .. });
            // An answer to an old question says nothing about now: the probe does.
            if closed || turn == Turn::Probe {
                *breaker = Breaker::Closed { failures: 0 };
            }
            !closed && turn == Turn::Probe
        });
        if closes {
            tracing::info!(table = self.name(), "a table that failed answers again");
        }
    }
}

/// A lookup under way. One that is given up is no failure, but where it was the probe, another
/// must be.
struct Pass<'a> {
    guarded: &'a Guarded,
    turn: Option<Turn>,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.turn == Some(Turn::Probe) {
            self.guarded.with(|breaker| {
                if let Breaker::Probing { last } = breaker {
                    let last = std::mem::take(last);
                    *breaker = Breaker::Open {
                        until: Instant::now(),
                        last,
                    };
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use super::*;
    use crate::test_log::Log;

    const PAUSE: Duration = Duration::from_secs(10);

    /// Answers, fails, says nonsense or hangs, as it is told.
    #[derive(Clone, Default)]
    struct Moody(Arc<AtomicU8>, Arc<AtomicUsize>);

    impl Table for Moody {
        async fn lookup(&self, _: &str) -> Result<Option<Vec<String>>, LookupError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            match self.0.load(Ordering::Relaxed) {
                0 => Ok(None),
                1 => Err(LookupError::unavailable(self, "down")),
                2 => Err(LookupError::invalid(self, "nonsense")),
                _ => std::future::pending().await,
            }
        }

        fn name(&self) -> String {
            "moody".to_owned()
        }
    }

    impl Moody {
        fn set(&self, mood: u8) {
            self.0.store(mood, Ordering::Relaxed);
        }

        fn asked(&self) -> usize {
            self.1.swap(0, Ordering::Relaxed)
        }
    }

    fn guarded() -> (Moody, SharedTable) {
        let moody = Moody::default();
        let table = SharedTable::new(moody.clone()).guarded(GuardOptions {
            timeout: Duration::from_secs(5),
            failures: 3,
            pause: PAUSE,
        });
        (moody, table)
    }

    async fn fail(table: &SharedTable, times: usize) -> String {
        let mut last = String::new();
        for _ in 0..times {
            last = table.lookup("x").await.unwrap_err().to_string();
        }
        last
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_is_bounded_and_counts() {
        let (moody, table) = guarded();
        moody.set(3);
        let start = Instant::now();
        let error = fail(&table, 3).await;
        assert_eq!(error, "moody cannot be asked now: no answer within 5s");
        assert_eq!(start.elapsed(), Duration::from_secs(15));
        let error = fail(&table, 5).await;
        assert!(error.contains("it failed 3 times in a row"), "{error}");
        assert!(
            error.contains("no answer within 5s; it is asked again in 10s"),
            "{error}"
        );
        assert_eq!(start.elapsed(), Duration::from_secs(15));
        assert_eq!(moody.asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn opens_probes_and_closes() {
        let log = Log::start();
        let (moody, table) = guarded();
        moody.set(1);
        fail(&table, 2).await;
        moody.set(0);
        assert_eq!(table.lookup("x").await, Ok(None));
        // In a row: an answer in between, even nonsense, starts it over.
        moody.set(1);
        fail(&table, 2).await;
        moody.set(2);
        fail(&table, 1).await;
        moody.set(1);
        fail(&table, 2).await;
        assert_eq!(moody.asked(), 8);
        assert!(log.lines().is_empty());
        fail(&table, 3).await;
        assert_eq!(moody.asked(), 1);
        let logged = log.lines();
        assert_eq!(logged.len(), 1, "{logged:?}");
        assert!(logged[0].starts_with("WARN a table fails and is left alone"));
        assert!(
            logged[0].contains("table=\"moody\" failures=3 pause=10s last=\"down\""),
            "{logged:?}"
        );

        // The probe fails: another pause.
        tokio::time::advance(PAUSE).await;
        fail(&table, 4).await;
        assert_eq!(moody.asked(), 1);
        tokio::time::advance(PAUSE - Duration::from_secs(1)).await;
        fail(&table, 1).await;
        assert_eq!(moody.asked(), 0);
        assert!(log.lines().is_empty());

        moody.set(0);
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..4 {
            assert_eq!(table.lookup("x").await, Ok(None));
        }
        assert_eq!(moody.asked(), 4);
        let logged = log.lines();
        assert_eq!(
            logged,
            ["INFO a table that failed answers again table=\"moody\""]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_one_given_up_is_followed() {
        let (moody, table) = guarded();
        moody.set(1);
        fail(&table, 3).await;
        tokio::time::advance(PAUSE).await;
        moody.set(3);
        moody.asked();
        let probing = table.clone();
        let probe = tokio::spawn(async move { probing.lookup("x").await });
        tokio::task::yield_now().await;
        assert_eq!(moody.asked(), 1);
        fail(&table, 2).await;
        assert_eq!(moody.asked(), 0);
        probe.abort();
        assert!(probe.await.unwrap_err().is_cancelled());
        moody.set(0);
        assert_eq!(table.lookup("x").await, Ok(None));
    }

    /// Answers `slow` when it is told to; all else fails.
    #[derive(Clone, Default)]
    struct Late(Arc<tokio::sync::Notify>, Arc<AtomicUsize>);

    impl Table for Late {
        async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            if key == "slow" {
                self.0.notified().await;
                return Ok(None);
            }
            Err(LookupError::unavailable(self, "down"))
        }

        fn name(&self) -> String {
            "late".to_owned()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_old_question_closes_nothing() {
        let late = Late::default();
        let table = SharedTable::new(late.clone()).guarded(GuardOptions {
            failures: 3,
            ..GuardOptions::default()
        });
        let asking = table.clone();
        let old = tokio::spawn(async move { asking.lookup("slow").await });
        tokio::task::yield_now().await;
        fail(&table, 3).await;
        late.0.notify_one();
        assert_eq!(old.await.unwrap(), Ok(None));
        let error = fail(&table, 2).await;
        assert!(error.contains("it failed 3 times in a row"), "{error}");
        assert_eq!(late.1.load(Ordering::Relaxed), 4);
    }
}
