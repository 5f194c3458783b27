//! What may be lost: a cache in memory, and the bookkeeping that every cache of a store shares.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postroad_mail::{CACHE_VALUE_MAX, Cache};

/// Entries of one space of a [`Cache`], at most; beyond, the oldest is forgotten.
pub const CACHE_ENTRIES_MAX: usize = 10_000;
/// Octets of a key, at most; what has a longer one is not kept.
pub const CACHE_KEY_MAX: usize = 512;
/// Spaces, at most; what is put into others is not kept.
pub const CACHE_SPACES_MAX: usize = 64;

/// The keys of a space, and how old each is: for caches.
#[derive(Debug, Default)]
pub struct CacheKeys {
    ages: BTreeMap<String, u64>,
    by_age: BTreeMap<u64, String>,
}

impl CacheKeys {
    /// Whether that key may be kept at all, with a value of so many octets.
    #[must_use]
    pub const fn may_be(key: &str, value: usize) -> bool {
        key.len() <= CACHE_KEY_MAX && value <= CACHE_VALUE_MAX
    }

    /// A key is there, of that age; a higher number is younger.
    pub fn insert(&mut self, key: &str, age: u64) {
        self.remove(key);
        if let Some(other) = self.by_age.insert(age, key.to_owned()) {
            self.ages.remove(&other);
        }
        self.ages.insert(key.to_owned(), age);
    }

    /// A key is younger than all others from now on; gives its age. Where there were too many,
    /// the oldest is to be forgotten.
    pub fn put(&mut self, key: &str) -> (u64, Option<String>) {
        let age = (self.by_age.last_key_value()).map_or(0, |(age, _)| age.saturating_add(1));
        self.insert(key, age);
        let many = self.ages.len() > CACHE_ENTRIES_MAX;
        let oldest = many.then(|| self.by_age.pop_first()).flatten();
        let oldest = oldest.map(|(_, key)| key);
        if let Some(oldest) = &oldest {
            self.ages.remove(oldest);
        }
        (age, oldest)
    }

    /// A key goes; whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let age = self.ages.remove(key);
        if let Some(age) = age {
            self.by_age.remove(&age);
        }
        age.is_some()
    }

    /// Whether it is there.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.ages.contains_key(key)
    }

    /// Keys in order, behind `after`, at most `max`.
    #[must_use]
    pub fn after(&self, after: Option<&str>, max: usize) -> Vec<String> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.ages.range::<str, _>((from, Bound::Unbounded));
        keys.take(max).map(|(key, _)| key.clone()).collect()
    }
}

/// A [`Cache`] in memory, for queues that are.
#[derive(Debug, Default)]
pub struct MemCache(Mutex<HashMap<String, Space>>);

#[derive(Debug, Default)]
struct Space {
    keys: CacheKeys,
    values: HashMap<String, Box<[u8]>>,
}

impl MemCache {
    fn spaces(&self) -> MutexGuard<'_, HashMap<String, Space>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache for MemCache {
    fn get(&self, space: &str, key: &str) -> Option<Vec<u8>> {
        let spaces = self.spaces();
        let value = spaces.get(space)?.values.get(key)?;
        Some(value.to_vec())
    }

    fn put(&self, space: &str, key: &str, value: &[u8]) {
        let mut spaces = self.spaces();
        if !CacheKeys::may_be(key, value.len()) {
            if let Some(space) = spaces.get_mut(space) {
                space.forget(key); // what is there is out of date
            }
            return;
        }
        if !spaces.contains_key(space) && spaces.len() >= CACHE_SPACES_MAX {
            return;
        }
        let space = spaces.entry(space.to_owned()).or_default();
        space.values.insert(key.to_owned(), value.into());
        if let (_, Some(oldest)) = space.keys.put(key) {
            space.values.remove(&oldest);
        }
    }

    fn remove(&self, space: &str, key: &str) {
        if let Some(space) = self.spaces().get_mut(space) {
            space.forget(key);
        }
    }

    fn keys(&self, space: &str, after: Option<&str>, max: usize) -> Vec<String> {
        let spaces = self.spaces();
        let space = spaces.get(space);
        space.map_or_else(Vec::new, |space| space.keys.after(after, max))
    }
}

impl Space {
    fn forget(&mut self, key: &str) {
        self.keys.remove(key);
        self.values.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fulfils_the_contract() {
        crate::contract::cache(&MemCache::default());
    }
}
