//! What has arrived at the sink.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::clock;
use crate::source::FIELD;

/// How often a waiting caller looks again.
const LOOK: Duration = Duration::from_millis(2);

/// Counts, and a bit for each message that may come.
#[derive(Debug)]
pub(crate) struct Tally {
    since: Instant,
    seen: Vec<AtomicU64>,
    distinct: AtomicU64,
    duplicates: AtomicU64,
    /// Messages without a number, or with one that was not sent.
    strange: AtomicU64,
    last: AtomicU64,
    first_connection: AtomicU64,
    refusing: AtomicBool,
}

impl Tally {
    pub(crate) fn new(messages: u64, refusing: bool) -> Self {
        let words = usize::try_from(messages / 64 + 1).unwrap_or(1);
        Self {
            since: clock::now(),
            seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
            distinct: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            strange: AtomicU64::new(0),
            last: AtomicU64::new(0),
            first_connection: AtomicU64::new(0),
            refusing: AtomicBool::new(refusing),
        }
    }

    /// Notes a connection; gives whether it is to be served.
    pub(crate) fn connected(&self) -> bool {
        let now = self.now().max(1);
        let _ =
            self.first_connection
                .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        !self.refusing.load(Ordering::Relaxed)
    }

    /// Notes a message that begins like this.
    pub(crate) fn arrived(&self, head: &[u8]) {
        self.last.store(self.now(), Ordering::Relaxed);
        let Some((word, bit)) = number(head).and_then(|n| self.place(n)) else {
            self.strange.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            self.distinct.fetch_add(1, Ordering::Release);
        } else {
            self.duplicates.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Messages that have come, each counted once.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Acquire)
    }

    /// Messages that came once more.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Messages that nobody sent.
    pub(crate) fn strange(&self) -> u64 {
        self.strange.load(Ordering::Relaxed)
    }

    /// When the last one came.
    pub(crate) fn last(&self) -> Instant {
        self.since + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }

    /// When the first connection came, if one did.
    pub(crate) fn first_connection(&self) -> Option<Instant> {
        match self.first_connection.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.since + Duration::from_nanos(nanos)),
        }
    }

    /// Waits until so many have come; gives when the last did.
    ///
    /// # Errors
    /// Where nothing more comes for as long as `patience`.
    pub(crate) fn wait(&self, messages: u64, patience: Duration) -> anyhow::Result<Instant> {
        let mut progress = (self.distinct(), clock::now());
        loop {
            let distinct = self.distinct();
            if distinct >= messages {
                return Ok(self.last());
            }
            if distinct > progress.0 {
                progress = (distinct, clock::now());
            } else if progress.1.elapsed() > patience {
                bail!(
                    "lost messages: {distinct} of {messages} have arrived, and none for {patience:?}"
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    fn place(&self, number: u64) -> Option<(&AtomicU64, u64)> {
        let word = self.seen.get(usize::try_from(number / 64).ok()?)?;
        Some((word, 1 << (number % 64)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The number in a message's header.
fn number(head: &[u8]) -> Option<u64> {
    let field = memchr::memmem::find(head, FIELD.as_bytes())? + FIELD.len();
    let rest = head.get(field..)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_duplicated_messages_are_seen() {
        let tally = Tally::new(100, false);
        let message = |n: u64| format!("Received: from x\r\nX-Bench: {n:010}\r\n\r\nbody");
        for n in [0, 63, 64, 100, 64] {
            tally.arrived(message(n).as_bytes());
        }
        tally.arrived(message(1000).as_bytes());
        tally.arrived(b"Subject: none\r\n\r\n");
        assert_eq!(
            (tally.distinct(), tally.duplicates(), tally.strange()),
            (4, 1, 2)
        );
        assert!(tally.wait(4, Duration::ZERO).is_ok());
        let error = tally.wait(5, Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("lost messages: 4 of 5"));
    }

    #[test]
    fn a_refusing_sink_notes_connections() {
        let tally = Tally::new(1, true);
        assert!(tally.first_connection().is_none());
        assert!(!tally.connected());
        assert!(tally.first_connection().is_some());
    }
}
