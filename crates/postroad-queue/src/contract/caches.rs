//! What every cache of a store does.

use postroad_mail::{CACHE_VALUE_MAX, Cache};

use crate::cache::{CACHE_ENTRIES_MAX, CACHE_KEY_MAX, CACHE_SPACES_MAX};

/// All of it, with an empty cache.
pub fn cache(cache: &dyn Cache) {
    what_is_put_is_there(cache);
    values_of_any_length(cache);
    spaces_are_apart_and_few(cache);
    the_oldest_is_forgotten(cache);
}

fn what_is_put_is_there(cache: &dyn Cache) {
    let get = |key: &str| cache.get("a", key);
    assert_eq!(get("k"), None);
    assert!(cache.keys("a", None, 10).is_empty());
    cache.put("a", "k", b"one");
    assert_eq!(get("k").as_deref(), Some(&b"one"[..]));
    cache.put("a", "k", b"two");
    assert_eq!(get("k").as_deref(), Some(&b"two"[..]));
    for key in ["", "kk", "a\0b", "\u{fc}"] {
        cache.put("a", key, key.as_bytes());
        assert_eq!(get(key).as_deref(), Some(key.as_bytes()), "{key:?}");
    }
    assert_eq!(cache.keys("a", None, 10), ["", "a\0b", "k", "kk", "\u{fc}"]);
    assert_eq!(cache.keys("a", Some("a\0b"), 2), ["k", "kk"]);
    assert_eq!(cache.keys("a", Some("b"), 1), ["k"]);
    cache.remove("a", "k");
    cache.remove("a", "never there");
    cache.remove("never there", "k");
    assert_eq!(get("k"), None);
    assert_eq!(cache.keys("a", Some("a\0b"), 9), ["kk", "\u{fc}"]);
}

fn values_of_any_length(cache: &dyn Cache) {
    let value: Vec<u8> = (0..CACHE_VALUE_MAX)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    for length in [
        0,
        1,
        3999,
        4000,
        4001,
        4096,
        8192,
        30_000,
        CACHE_VALUE_MAX,
        5,
    ] {
        cache.put("length", "k", &value[..length]);
        assert!(cache.get("length", "k").as_deref() == Some(&value[..length]));
        assert_eq!(cache.keys("length", None, 9), ["k"]);
    }
    // What is too long is not kept, and takes what was there with it.
    cache.put("length", "k", &vec![0; CACHE_VALUE_MAX + 1]);
    assert_eq!(cache.get("length", "k"), None);
    let long = "k".repeat(CACHE_KEY_MAX + 1);
    cache.put("length", &long, b"x");
    assert_eq!(cache.get("length", &long), None);
    cache.put("length", &long[1..], b"x");
    assert!(cache.get("length", &long[1..]).is_some());
}

fn spaces_are_apart_and_few(cache: &dyn Cache) {
    cache.put("one", "k", b"1");
    cache.put("other", "k", b"2");
    cache.remove("one", "k");
    assert_eq!(cache.get("one", "k"), None);
    assert_eq!(cache.get("other", "k").as_deref(), Some(&b"2"[..]));
    for n in 0..2 * CACHE_SPACES_MAX {
        cache.put(&format!("many {n}"), "k", b"x");
    }
    let kept = (0..2 * CACHE_SPACES_MAX)
        .filter(|n| cache.get(&format!("many {n}"), "k").is_some())
        .count();
    assert!((1..CACHE_SPACES_MAX).contains(&kept), "{kept}");
}

fn the_oldest_is_forgotten(cache: &dyn Cache) {
    let key = |n: usize| format!("key{n:06}");
    for n in 0..CACHE_ENTRIES_MAX {
        cache.put("a", &key(n), b"x");
    }
    // The three that were left from before are gone, or go first; that one is young again.
    cache.put("a", &key(0), b"y");
    for n in 0..5 {
        cache.put("a", &key(CACHE_ENTRIES_MAX + n), b"z");
    }
    let all = cache.keys("a", None, usize::MAX);
    assert_eq!(all.len(), CACHE_ENTRIES_MAX);
    assert_eq!(cache.get("a", &key(0)).as_deref(), Some(&b"y"[..]));
    assert!((1..=5).all(|n| cache.get("a", &key(n)).is_none()));
    assert!((6..20).all(|n| cache.get("a", &key(n)).is_some()));
    assert_eq!(cache.get("a", "kk"), None);
}
