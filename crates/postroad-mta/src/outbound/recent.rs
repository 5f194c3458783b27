//! What is known of things met lately: bounded in number, forgotten by age.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use postroad_mail::Timestamp;

/// A map in two halves: whatever is touched is in the young one, and when that is full or old, it
/// becomes the old one, and what was in that is forgotten. So nothing is ever searched for age,
/// and forgetting costs a moment per entry.
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Entries of one half, at most, but for those that must be kept.
    half: usize,
    /// Entries that are not touched for so long are forgotten, at the latest after twice as long.
    age: Duration,
    turned: Timestamp,
    /// What must not be forgotten now.
    is_needed: fn(&V) -> bool,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(max: usize, age: Duration, is_needed: fn(&V) -> bool) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: max.div_ceil(2).max(1),
            age,
            turned: Timestamp::default(),
            is_needed,
        }
    }

    /// An entry, where there is one; it is young again.
    pub(crate) fn touch(&mut self, key: &K) -> Option<&mut V> {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.young.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// An entry, made where there is none.
    pub(crate) fn touch_or(&mut self, key: K, now: Timestamp, make: impl FnOnce() -> V) -> &mut V {
        self.turn(now);
        let moved = self.old.remove(&key);
        self.young
            .entry(key)
            .or_insert_with(|| moved.unwrap_or_else(make))
    }

    /// An entry as it is.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(&self.old)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn turn(&mut self, now: Timestamp) {
        if self.turned == Timestamp::default() {
            self.turned = now;
        }
        if self.young.len() < self.half && now.since(self.turned) < self.age {
            return;
        }
        self.turned = now;
        let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        let is_needed = self.is_needed;
        self.young
            .extend(forgotten.into_iter().filter(|(_, value)| is_needed(value)));
    }
}

impl<K: Eq + Hash, V> fmt::Debug for Recent<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recent({} entries)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1000 + seconds * 1000)
    }

    #[test]
    fn bounded_and_what_is_used_stays() {
        let mut recent = Recent::new(10, HOUR, |_: &u32| false);
        for n in 0..1000 {
            recent.touch_or(n, at(0), || n);
            assert!(recent.touch(&0).is_some() || n == 0, "{n}");
            assert!(recent.len() <= 10);
        }
        assert_eq!(recent.peek(&999), Some(&999));
        assert_eq!(recent.peek(&500), None);
        assert_eq!(recent.remove(&0), Some(0));
        assert!(recent.peek(&0).is_none() && !recent.is_empty());
    }

    #[test]
    fn what_is_needed_stays_and_what_is_old_goes() {
        let mut recent = Recent::new(100, HOUR, |needed: &bool| *needed);
        recent.touch_or("needed", at(0), || true);
        recent.touch_or("idle", at(0), || false);
        for hours in 1..4 {
            recent.touch_or("other", at(hours * 3600), || false);
        }
        let mut left: Vec<_> = recent.iter().map(|(key, _)| *key).collect();
        left.sort_unstable();
        assert_eq!(left, ["needed", "other"]);
    }
}
