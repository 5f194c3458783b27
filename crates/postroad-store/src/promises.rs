//! What the store promises beyond the contract, each looked at from outside or in the order of
//! what it does to its files.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postroad_queue::contract::{START, accept, at, claim, defer, draft, read};
use postroad_queue::{Filter, Store as _, StoreError};
use proptest::prelude::*;

use crate::io::Io;
use crate::{Durability, LocalStore, Options, fuzz};

fn options(path: &Path) -> Options {
    Options {
        segment_size: 1 << 20,
        min_free: 0,
        ..Options::new(path)
    }
}

/// All who wait share one sync; and nobody is told before it.
#[tokio::test]
async fn one_sync_for_all_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    accept(
        &store,
        START,
        &["bob@b.example"],
        b"the first makes the segment",
    )
    .await;
    files.syncs_wait.store(true, Ordering::SeqCst);
    files.trace();
    let commits: Vec<_> = (0..50)
        .map(|_| {
            let incoming = store.begin(START).unwrap();
            tokio::spawn(incoming.commit(START, draft(&["bob@b.example"])))
        })
        .collect();
    // On this one thread, all of them come to where they wait for the writer.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(commits.iter().all(|commit| !commit.is_finished()));
    files.syncs_wait.store(false, Ordering::SeqCst);
    for commit in commits {
        commit.await.unwrap().unwrap();
    }
    let syncs = files
        .trace()
        .iter()
        .filter(|c| *c == "sync seg-00000001.log")
        .count();
    assert!((1..=2).contains(&syncs), "{syncs} syncs");
}

/// A stop lets every commit come to its end, on one thread and with more of them than may wait:
/// none of them waits for the stop in turn.
#[tokio::test]
async fn a_stop_waits_for_commits_and_they_not_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    accept(
        &store,
        START,
        &["bob@b.example"],
        b"the first makes the segment",
    )
    .await;
    let mut large = store.begin(START).unwrap();
    large.write(vec![b'x'; 300_000].into()).await.unwrap();
    files.syncs_wait.store(true, Ordering::SeqCst);
    let mut commits = vec![tokio::spawn(large.commit(START, draft(&["bob@b.example"])))];
    for _ in 0..1200 {
        let incoming = store.begin(START).unwrap();
        commits.push(tokio::spawn(
            incoming.commit(START, draft(&["bob@b.example"])),
        ));
    }
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    while store.begin(START).is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    files.syncs_wait.store(false, Ordering::SeqCst);
    closing.await.unwrap().unwrap();
    let mut kept = 1;
    for commit in commits {
        match commit.await.unwrap() {
            Ok(_) => kept += 1,
            Err(StoreError::Closed) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(store.totals().messages, kept);
    assert!(kept > 1000, "{kept}");
}

/// The first attempt needs no disk: what was just written is handed over in memory.
#[tokio::test]
async fn the_first_attempt_is_from_memory() {
    for (handover_bytes, there) in [(1 << 20, true), (0, false)] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            handover_bytes,
            ..options(dir.path())
        };
        let (store, _) = LocalStore::open(options).unwrap();
        accept(&store, START, &["bob@b.example"], b"text").await;
        let log = std::fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("seg-00000001.log"))
            .unwrap();
        log.write_all_at(&[0; 4096], 0).unwrap();
        let claims = claim(&store, START).await;
        assert_eq!(claims.len(), usize::from(there));
        if there {
            let whole: &[u8] = b"Subject: test\r\n\r\ntext";
            assert_eq!(read(&*claims[0].content).await, whole);
        }
    }
}

/// State is handed to the kernel at once, and to the disk within a second and at the stop.
#[tokio::test]
async fn state_is_synced_soon_and_at_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    accept(&store, START, &["bob@b.example"], b"x").await;
    let synced = || files.trace().iter().any(|c| c == "sync seg-00000001.st");
    let claimed = claim(&store, START).await.remove(0);
    defer(&store, START, &claimed, at(1)).await;
    let soon = async {
        while !synced() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), soon)
        .await
        .unwrap();
    let claimed = claim(&store, at(1)).await.remove(0);
    defer(&store, at(1), &claimed, at(2)).await;
    files.trace();
    store.close().await.unwrap();
    assert!(synced());
}

/// `os` promises to survive a kill, and pays for no more.
#[tokio::test]
async fn without_syncs_where_none_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let options = Options {
        durability: Durability::Os,
        ..options(dir.path())
    };
    let (store, _) = LocalStore::open_with(options.clone(), io).unwrap();
    files.trace();
    let id = accept(&store, START, &["bob@b.example"], &[b'x'; 600_000]).await;
    let syncs: Vec<_> = files
        .trace()
        .into_iter()
        .filter(|c| c.starts_with("sync"))
        .collect();
    assert_eq!(syncs, Vec::<String>::new());
    store.close().await.unwrap();
    drop(store);
    let (store, report) = LocalStore::open(options).unwrap();
    assert!(
        !report.clean,
        "a checkpoint would speak of what may not be there"
    );
    let listed = store.page(&Filter::default(), None, 9).await.unwrap();
    assert_eq!(listed.iter().map(|m| m.id).collect::<Vec<_>>(), [id]);
}

/// Nobody else reads the mail, whoever made the directory.
#[tokio::test]
async fn files_are_their_owners() {
    fn look(path: &Path, wrong: &mut Vec<String>) {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let directory = entry.file_type().unwrap().is_dir();
            if mode != if directory { 0o700 } else { 0o600 } {
                wrong.push(format!("{} {mode:o}", entry.path().display()));
            }
            // What sled has in its directory is sled's.
            if directory && entry.file_name() != "index" {
                look(&entry.path(), wrong);
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (store, _) = LocalStore::open(options(dir.path())).unwrap();
    accept(&store, START, &["bob@b.example"], b"small").await;
    accept(&store, START, &["bob@b.example"], &[b'x'; 600_000]).await;
    let claimed = claim(&store, START).await.remove(0);
    defer(&store, START, &claimed, at(1)).await;
    let mut wrong = Vec::new();
    look(dir.path(), &mut wrong);
    store.close().await.unwrap();
    look(dir.path(), &mut wrong);
    assert_eq!(wrong, Vec::<String>::new());
}

/// A segment has its space from the start: writing into it does not fail for want of any.
#[tokio::test]
async fn segments_are_preallocated() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = LocalStore::open(options(dir.path())).unwrap();
    accept(&store, START, &["bob@b.example"], b"small").await;
    let log = std::fs::metadata(dir.path().join("seg-00000001.log")).unwrap();
    assert_eq!(log.len(), 1 << 20);
    assert!(log.blocks() * 512 >= 1 << 20, "{} blocks", log.blocks());
}

/// The files of a queue with some mail in it.
fn files() -> &'static [(&'static str, Vec<u8>)] {
    static FILES: std::sync::OnceLock<Vec<(&'static str, Vec<u8>)>> = std::sync::OnceLock::new();
    FILES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let (store, _) = LocalStore::open(options(dir.path())).unwrap();
            for n in 0..4 {
                let to = ["bob@b.example", "carol@c.example"];
                accept(&store, START, &to[..1 + n % 2], b"text\r\n").await;
            }
            for (n, claimed) in claim(&store, START).await.into_iter().enumerate() {
                defer(&store, START, &claimed, at(n as u64)).await;
            }
            store.close().await.unwrap();
        });
        ["seg-00000001.log", "seg-00000001.st", "CLEAN"]
            .map(|name| (name, std::fs::read(dir.path().join(name)).unwrap()))
            .to_vec()
    })
}

/// A good file with some of its octets replaced.
fn spliced(file: usize, splices: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = files()[file].1.clone();
    for (at, with) in splices {
        let at = at % bytes.len();
        let end = (at + with.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&with[..end - at]);
    }
    bytes
}

fn splices() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    proptest::collection::vec(
        (any::<usize>(), proptest::collection::vec(any::<u8>(), 1..9)),
        0..4,
    )
}

proptest! {
    #[test]
    fn any_octets_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz::record(&bytes);
        fuzz::state(&bytes);
        fuzz::checkpoint(&bytes);
    }

    #[test]
    fn good_files_gone_bad_too(splices in splices(), from in any::<usize>()) {
        let log = spliced(0, &splices);
        fuzz::record(&log[from % log.len() / 8 * 8..]);
        let journal = spliced(1, &splices);
        fuzz::state(&journal[from % journal.len() / 8 * 8..]);
        let checkpoint = spliced(2, &splices);
        fuzz::checkpoint(&checkpoint[..checkpoint.len() - 4]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A whole queue gone bad opens, and what it then has can be listed and claimed.
    #[test]
    fn a_queue_gone_bad_opens(a in splices(), b in splices(), keep in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("FORMAT"), "1\n").unwrap();
        std::fs::write(dir.path().join(files()[0].0), spliced(0, &a)).unwrap();
        std::fs::write(dir.path().join(files()[1].0), spliced(1, &b)).unwrap();
        if keep {
            std::fs::write(dir.path().join(files()[2].0), &files()[2].1).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let (store, _) = LocalStore::open(options(dir.path())).unwrap();
            let listed = store.page(&Filter::default(), None, 99).await.unwrap();
            assert!(listed.len() <= 4);
            for claimed in claim(&store, at(99)).await {
                let _ = claimed.content.read(0, 9999).await;
            }
        });
    }
}
