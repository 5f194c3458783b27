//! A bounded cache in front of a table.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::time::Instant;

use crate::table::{LookupError, SharedTable, Table};

/// Octets that one entry may have for its place: a larger one takes several.
const ENTRY_OCTETS: usize = 1 << 10;

/// How long what, and how much, is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The values of a key.
    pub ttl: Duration,
    /// That there are none.
    pub negative: Duration,
    /// Keys, at most, of up to 1 KiB each with its values; larger ones count as several. What was
    /// asked least goes first.
    pub entries: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(300),
            negative: Duration::from_secs(60),
            entries: 10_000,
        }
    }
}

impl SharedTable {
    /// With a cache. While one asks for a key, others who want the same wait for that answer.
    /// Failures are not remembered.
    #[must_use]
    pub fn cached(self, options: CacheOptions) -> Self {
        Self::new(Cached::new(self, options))
    }
}

struct Cached {
    table: SharedTable,
    options: CacheOptions,
    cache: Cache<String, Arc<Entry>>,
}

struct Entry {
    values: Option<Vec<String>>,
    until: Instant,
}

impl Cached {
    fn new(table: SharedTable, options: CacheOptions) -> Self {
        let weight = |key: &String, entry: &Arc<Entry>| {
            let octets = entry.values.iter().flatten().map(String::len);
            let places = (key.len() + octets.sum::<usize>()) / ENTRY_OCTETS + 1;
            u32::try_from(places).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(options.entries);
        Self {
            table,
            options,
            cache: cache.weigher(weight).build(),
        }
    }
}

impl Table for Cached {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        // The cache's own clock is not tokio's, and cannot be stopped for a test.
        if let Some(entry) = self.cache.get(key).await {
            if Instant::now() < entry.until {
                return Ok(entry.values.clone());
            }
            self.cache.invalidate(key).await;
        }
        let ask = async {
            let values = self.table.lookup(key).await?;
            let ttl = match values {
                Some(_) => self.options.ttl,
                None => self.options.negative,
            };
            let until = Instant::now() + ttl;
            Ok::<_, LookupError>(Arc::new(Entry { values, until }))
        };
        match self.cache.try_get_with_by_ref(key, ask).await {
            Ok(entry) => Ok(entry.values.clone()),
            Err(error) => Err(LookupError::clone(&error)),
        }
    }

    fn name(&self) -> String {
        self.table.name()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    /// Answers when it is let; says which question it was.
    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>, Arc<Notify>);

    impl Table for Counting {
        async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
            let asked = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            match key {
                "none" => Ok(None),
                "fails" => Err(LookupError::unavailable(self, &format!("{asked}"))),
                "slow" => {
                    self.1.notified().await;
                    Ok(Some(vec![format!("{asked}")]))
                }
                "large" => Ok(Some(vec!["x".repeat(11 * ENTRY_OCTETS)])),
                _ => Ok(Some(vec![format!("{asked}")])),
            }
        }

        fn name(&self) -> String {
            "counting".to_owned()
        }
    }

    fn cached() -> (Counting, SharedTable) {
        let counting = Counting::default();
        let table = SharedTable::new(counting.clone()).cached(CacheOptions {
            ttl: Duration::from_secs(300),
            negative: Duration::from_secs(60),
            entries: 10,
        });
        (counting, table)
    }

    #[tokio::test(start_paused = true)]
    async fn for_as_long_as_was_said() {
        let (counting, table) = cached();
        let asked = || counting.0.load(Ordering::Relaxed);
        for (key, seconds) in [("some", 300), ("none", 60)] {
            let before = asked();
            let first = table.lookup(key).await;
            tokio::time::advance(Duration::from_secs(seconds - 1)).await;
            assert_eq!(table.lookup(key).await, first);
            assert_eq!(asked(), before + 1, "{key}");
            tokio::time::advance(Duration::from_secs(1)).await;
            let _ = table.lookup(key).await;
            assert_eq!(asked(), before + 2, "{key}");
        }
        let first = table.lookup("fails").await;
        assert_ne!(table.lookup("fails").await, first);
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all() {
        let (counting, table) = cached();
        let one = |table: SharedTable| tokio::spawn(async move { table.lookup("slow").await });
        let mut all: Vec<_> = (0..10).map(|_| one(table.clone())).collect();
        tokio::task::yield_now().await;
        // Whoever asks for the rest goes; another does it then.
        all.remove(0).abort();
        while counting.0.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        counting.1.notify_waiters();
        for lookup in all {
            assert_eq!(lookup.await.unwrap(), Ok(Some(vec!["2".to_owned()])));
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn bounded() {
        let options = CacheOptions {
            entries: 10,
            ..CacheOptions::default()
        };
        let small = Cached::new(SharedTable::new(Counting::default()), options);
        for n in 0..1000 {
            small.lookup(&format!("k{n}")).await.unwrap();
        }
        small.cache.run_pending_tasks().await;
        assert!((1..=10).contains(&small.cache.weighted_size()));
        small.lookup("large").await.unwrap();
        small.cache.run_pending_tasks().await;
        assert!(!small.cache.contains_key("large"));
        assert!(small.cache.weighted_size() <= 10);
    }
}
