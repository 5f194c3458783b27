//! What may be lost, on disk: a sled database of its own beside the queue (`cache/`), since that
//! of the index is made anew after every stop that was not clean.
//!
//! It is never the truth and never waited for. sled writes in the background, so that a kill costs
//! the last half second; a value that was only half written is told by its checksum, and is gone.
//! Whatever is wrong with the files, the cache is made anew, and if that fails it is in memory.
//!
//! A space is a tree. A value is cut into pieces of [`PIECE`] octets, since sled is slow, and
//! takes much room, with values over 4 KiB; files of their own would be a thousand small ones.
//! The keys of all spaces are in memory. All numbers are big endian.
//!
//! | key | octets | | value | octets |
//! |---|---|---|---|---|
//! | the entry's key | | | of piece 0: age, length, CRC32C of the whole | 8, 4, 4 |
//! | zero, piece | 1, 1 | | the piece | |

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use postroad_mail::Cache;
use postroad_queue::{CACHE_SPACES_MAX, CacheKeys, MemCache};

use crate::io::Io;
use crate::record::Reader;

/// Octets of a value in one piece; with what stands before it, no more than 4 KiB.
const PIECE: usize = 4000;
/// Octets before the first piece.
const HEADER: usize = 16;
const _: () = assert!(PIECE + HEADER <= 4096);
/// Octets that sled may cache.
const SLED_CACHE: u64 = 4 << 20;

/// A cache on disk.
#[derive(Debug)]
pub(crate) struct SledCache(Mutex<State>);

#[derive(Debug)]
struct State {
    /// None where it has failed: then nothing is kept any more.
    db: Option<sled::Db>,
    spaces: HashMap<String, Space>,
}

#[derive(Debug)]
struct Space {
    tree: sled::Tree,
    keys: CacheKeys,
}

/// The cache that a store has.
#[derive(Debug)]
pub(crate) enum Cached {
    OnDisk(Arc<SledCache>),
    InMemory(Arc<MemCache>),
}

impl Cached {
    pub(crate) fn shared(&self) -> Arc<dyn Cache> {
        match self {
            Self::OnDisk(cache) => Arc::<SledCache>::clone(cache),
            Self::InMemory(cache) => Arc::<MemCache>::clone(cache),
        }
    }

    /// What was put is on disk, as far as it can be.
    pub(crate) fn flush(&self) {
        if let Self::OnDisk(cache) = self {
            cache.flush();
        }
    }
}

/// Opens the one in that directory; else an empty one there; else one in memory.
pub(crate) fn open(io: &Io, path: &Path) -> Cached {
    let db = try_open(io, path).or_else(|| {
        let removed = std::fs::remove_dir_all(path);
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "a damaged cache cannot be removed");
            return None;
        }
        tracing::warn!(path = %path.display(), "the cache was damaged, and is empty now; what was in it will be found out again");
        try_open(io, path)
    });
    match db {
        Some((db, spaces)) => {
            let db = Some(db);
            Cached::OnDisk(Arc::new(SledCache(Mutex::new(State { db, spaces }))))
        }
        None => {
            tracing::warn!(path = %path.display(), "no cache on disk; what is found out is forgotten at the next stop");
            Cached::InMemory(Arc::default())
        }
    }
}

type Opened = (sled::Db, HashMap<String, Space>);

/// `None` where it is damaged; sled panics on some damage.
fn try_open(io: &Io, path: &Path) -> Option<Opened> {
    // sled's own files are for all to read.
    if let Err(error) = io.make_dir(path) {
        tracing::warn!(%error, "no place for a cache");
        return None;
    }
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(SLED_CACHE)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(500))
        .use_compression(false);
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = config.open()?;
        let mut spaces = HashMap::new();
        for name in db.tree_names() {
            let Ok(space) = String::from_utf8(name.to_vec()) else {
                continue;
            };
            // sled's own; nobody's space is called like that, see `tree_name`.
            if let Some(space) = space.strip_prefix(PREFIX) {
                let tree = db.open_tree(&name)?;
                let keys = keys(&tree)?;
                spaces.insert(space.to_owned(), Space { tree, keys });
            }
        }
        Ok::<_, sled::Error>((db, spaces))
    }));
    match opened {
        Ok(Ok(opened)) => Some(opened),
        Ok(Err(error)) => {
            tracing::warn!(%error, path = %path.display(), "the cache cannot be opened");
            None
        }
        Err(_) => None,
    }
}

const PREFIX: &str = "space ";

/// The keys in a tree, by their first pieces.
fn keys(tree: &sled::Tree) -> sled::Result<CacheKeys> {
    let mut keys = CacheKeys::default();
    for pair in tree.iter() {
        let (stored, value) = pair?;
        let Some(key) = stored.strip_suffix(&[0, 0]) else {
            continue;
        };
        if let (Ok(key), Some(age)) = (std::str::from_utf8(key), Reader(&value).long()) {
            keys.insert(key, age);
        }
    }
    Ok(keys)
}

fn piece_key(key: &str, piece: usize) -> Vec<u8> {
    let mut stored = Vec::with_capacity(key.len() + 2);
    stored.extend_from_slice(key.as_bytes());
    stored.extend_from_slice(&[0, u8::try_from(piece).unwrap_or(u8::MAX)]);
    stored
}

impl SledCache {
    /// Does something with the database, where it is there. What fails, or panics, is the last
    /// that is done with it.
    fn with<T: Default>(&self, work: impl FnOnce(&mut State) -> sled::Result<T>) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.db.is_none() {
            return T::default();
        }
        match catch_unwind(AssertUnwindSafe(|| work(&mut state))) {
            Ok(Ok(done)) => return done,
            Ok(Err(error)) => {
                tracing::error!(%error, "the cache has failed; nothing is cached on disk from now on");
            }
            Err(_) => {
                tracing::error!("the cache has failed; nothing is cached on disk from now on");
            }
        }
        state.spaces.clear();
        state.db = None;
        T::default()
    }

    /// What was put is on disk.
    pub(crate) fn flush(&self) {
        self.with(|state| match &state.db {
            Some(db) => db.flush().map(drop),
            None => Ok(()),
        });
    }
}

impl Cache for SledCache {
    fn get(&self, space: &str, key: &str) -> Option<Vec<u8>> {
        self.with(|state| {
            let Some(space) = state.spaces.get_mut(space) else {
                return Ok(None);
            };
            if !space.keys.contains(key) {
                return Ok(None);
            }
            let value = space.read(key)?;
            if value.is_none() {
                space.forget(key)?;
            }
            Ok(value)
        })
    }

    fn put(&self, space: &str, key: &str, value: &[u8]) {
        self.with(|state| {
            if !CacheKeys::may_be(key, value.len()) {
                return state
                    .spaces
                    .get_mut(space)
                    .map_or(Ok(()), |space| space.forget(key));
            }
            if !state.spaces.contains_key(space) {
                if state.spaces.len() >= CACHE_SPACES_MAX {
                    return Ok(());
                }
                let Some(db) = &state.db else {
                    return Ok(());
                };
                let tree = db.open_tree(format!("{PREFIX}{space}"))?;
                let keys = CacheKeys::default();
                state.spaces.insert(space.to_owned(), Space { tree, keys });
            }
            match state.spaces.get_mut(space) {
                Some(space) => space.write(key, value),
                None => Ok(()),
            }
        });
    }

    fn remove(&self, space: &str, key: &str) {
        self.with(|state| match state.spaces.get_mut(space) {
            Some(space) => space.forget(key),
            None => Ok(()),
        });
    }

    fn keys(&self, space: &str, after: Option<&str>, max: usize) -> Vec<String> {
        self.with(|state| {
            let space = state.spaces.get(space);
            Ok(space.map_or_else(Vec::new, |space| space.keys.after(after, max)))
        })
    }
}

impl Space {
    /// `None` where it is not what was written.
    fn read(&self, key: &str) -> sled::Result<Option<Vec<u8>>> {
        let Some(first) = self.tree.get(piece_key(key, 0))? else {
            return Ok(None);
        };
        let mut reader = Reader(&first);
        let (_, length, crc) = (reader.long(), reader.int(), reader.int());
        let (Some(length), Some(crc)) = (length, crc) else {
            return Ok(None);
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut value = reader.0.to_vec();
        let mut piece = 1;
        while value.len() < length {
            match self.tree.get(piece_key(key, piece))? {
                Some(more) if !more.is_empty() => value.extend_from_slice(&more),
                _ => return Ok(None),
            }
            piece += 1;
        }
        let whole = value.len() == length && crc32c::crc32c(&value) == crc;
        Ok(whole.then_some(value))
    }

    fn write(&mut self, key: &str, value: &[u8]) -> sled::Result<()> {
        self.forget(key)?;
        let (age, oldest) = self.keys.put(key);
        if let Some(oldest) = oldest {
            self.remove_pieces(&oldest)?;
        }
        let (start, rest) = value.split_at(value.len().min(PIECE));
        for (piece, more) in rest.chunks(PIECE).enumerate() {
            self.tree.insert(piece_key(key, piece + 1), more)?;
        }
        let mut first = Vec::with_capacity(HEADER + start.len());
        first.extend_from_slice(&age.to_be_bytes());
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        first.extend_from_slice(&length.to_be_bytes());
        first.extend_from_slice(&crc32c::crc32c(value).to_be_bytes());
        first.extend_from_slice(start);
        self.tree.insert(piece_key(key, 0), first)?;
        Ok(())
    }

    fn forget(&mut self, key: &str) -> sled::Result<()> {
        if self.keys.remove(key) {
            self.remove_pieces(key)?;
        }
        Ok(())
    }

    fn remove_pieces(&self, key: &str) -> sled::Result<()> {
        // The first last: as long as it is there, the others are found.
        let mut pieces = 1;
        while self.tree.remove(piece_key(key, pieces))?.is_some() {
            pieces += 1;
        }
        self.tree.remove(piece_key(key, 0)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use postroad_queue::Store as _;
    use postroad_queue::contract;

    use super::*;
    use crate::{LocalStore, Options};

    fn store(path: &Path) -> LocalStore {
        let options = Options {
            min_free: 0,
            ..Options::new(path)
        };
        LocalStore::open(options).unwrap().0
    }

    #[test]
    fn fulfils_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(&Io::default(), dir.path());
        assert!(matches!(cache, Cached::OnDisk(_)));
        contract::cache(&*cache.shared());
    }

    /// It outlives a clean stop, and the one that is copied while it is open, as after a kill;
    /// there is one for all who ask.
    #[tokio::test]
    async fn it_survives() {
        let dir = tempfile::tempdir().unwrap();
        let long = vec![7; 50_000];
        let first = store(dir.path());
        let cache = first.cache();
        cache.put("mta-sts", "a.test", b"policy");
        cache.put("mta-sts", "b.test", &long);
        assert_eq!(first.cache().get("mta-sts", "b.test").unwrap(), long);
        first.close().await.unwrap();
        let killed = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(dir.path().join("cache")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), killed.path().join(entry.file_name())).unwrap();
            }
        }
        drop((cache, first));
        let copy = open(&Io::default(), killed.path()).shared();
        let again = store(dir.path()).cache();
        for cache in [copy, again] {
            assert_eq!(cache.keys("mta-sts", None, 9), ["a.test", "b.test"]);
            assert_eq!(cache.get("mta-sts", "a.test").unwrap(), b"policy");
            assert_eq!(cache.get("mta-sts", "b.test").unwrap(), long);
            assert!(cache.get("other", "a.test").is_none());
            cache.put("mta-sts", "a.test", b"new");
            assert_eq!(cache.get("mta-sts", "a.test").unwrap(), b"new");
        }
    }

    /// A value of which a piece is missing or another is none.
    #[test]
    fn half_a_value_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let Cached::OnDisk(cache) = open(&Io::default(), dir.path()) else {
            panic!("not on disk");
        };
        for (key, break_it) in [
            ("missing", None),
            ("other", Some(vec![9; PIECE])),
            ("short", Some(vec![1; 10])),
            ("empty", Some(Vec::new())),
        ] {
            cache.put("s", key, &[1; 10_000]);
            cache.with(|state| {
                let tree = &state.spaces["s"].tree;
                match &break_it {
                    None => tree.remove(piece_key(key, 1)).map(drop),
                    Some(piece) => tree.insert(piece_key(key, 1), piece.as_slice()).map(drop),
                }
            });
            assert_eq!(cache.get("s", key), None, "{key}");
            assert!(!cache.keys("s", None, 9).contains(&key.to_owned()));
            cache.put("s", key, b"again");
            assert_eq!(cache.get("s", key).unwrap(), b"again");
        }
    }

    /// Files that are not sled's, or are damaged, cost what was in them.
    #[tokio::test]
    async fn damaged_it_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        for (name, octets) in [("db", vec![0xff; 100_000]), ("conf", b"nonsense".to_vec())] {
            let first = store(dir.path());
            first.cache().put("s", "k", b"x");
            first.close().await.unwrap();
            drop(first);
            let path = dir.path().join("cache");
            assert!(path.join(name).exists(), "{name}");
            std::fs::write(path.join(name), octets).unwrap();
            let second = store(dir.path());
            second.cache().put("s", "k2", b"y");
            assert_eq!(second.cache().get("s", "k2").unwrap(), b"y", "{name}");
            second.close().await.unwrap();
        }
        // Not even a directory can be made: in memory, then.
        std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
        std::fs::write(dir.path().join("cache"), "a file").unwrap();
        let third = store(dir.path());
        third.cache().put("s", "k", b"x");
        assert_eq!(third.cache().get("s", "k").unwrap(), b"x");
    }
}
