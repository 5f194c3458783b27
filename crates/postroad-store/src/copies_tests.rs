//! Two records of one message, as compaction leaves them when something comes in between.

use std::path::Path;

use nix::errno::Errno;
use postroad_queue::Store as _;
use postroad_queue::contract::{START, accept, at, claim, defer, deliver};

use crate::compaction_tests::{compacting, half_delivered, killed, listing, logs, open, options};
use crate::crash::{Fault, calls};
use crate::io::Io;
use crate::{LocalStore, Options};

/// A copy that came too late, and another of the same message in the same segment that did not: the
/// second counts.
#[tokio::test]
async fn a_record_is_void_and_not_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    let mut claimed = half_delivered(&store).await;
    let compacting = compacting(&store, &files, dir.path()).await;
    let m = claimed.remove(0);
    defer(&store, at(1), &m, at(60)).await;
    files.inject(Fault {
        only: Some(|p| p.ends_with("seg-00000002.st")),
        torn: false,
        ..Fault::once(calls::WRITE, 1, Errno::EIO)
    });
    files
        .syncs_wait
        .store(false, std::sync::atomic::Ordering::SeqCst);
    compacting.await.unwrap().unwrap();
    assert_eq!(files.fired(), 1, "the first copy came to nothing");
    files.heal();
    store.tick_now().await.unwrap();
    store.tick_now().await.unwrap();
    let before: Vec<_> = listing(&store).await.iter().map(|m| m.id).collect();
    assert!(before.contains(&m.lease.id));
    let k = killed(dir.path());
    let (again, _) = LocalStore::open(options(k.path())).unwrap();
    let after: Vec<_> = listing(&again).await.iter().map(|m| m.id).collect();
    assert_eq!(before, after, "LOST");
}

/// Where the newer record is damaged the older one counts again: also at the start after that.
#[tokio::test]
async fn an_older_record_that_counts_again_goes_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let x = {
        let store = open(dir.path());
        let x = accept(&store, START, &["x@d.example"], &[b'q'; 300]).await;
        accept(&store, START, &["m@d.example"], &[b'm'; 300]).await;
        store.close().await.unwrap();
        x
    };
    let flip = |path: &Path, what: &[u8]| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(what.len()).position(|w| w == what).unwrap();
        bytes[at + 5] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&dir.path().join("seg-00000001.log"), &[b'q'; 200]);
    let (store, _) = LocalStore::open(options(dir.path())).unwrap();
    store.compact_now().await.unwrap();
    let k = killed(dir.path());
    flip(&k.path().join("seg-00000002.log"), &[b'm'; 200]);
    let (again, _) = LocalStore::open(options(k.path())).unwrap();
    let first: Vec<_> = listing(&again)
        .await
        .iter()
        .map(|m| m.id)
        .filter(|i| *i != x)
        .collect();
    assert_eq!(first.len(), 1, "the older record counts");
    again.tick_now().await.unwrap();
    let k2 = killed(k.path());
    let (third, _) = LocalStore::open(options(k2.path())).unwrap();
    let second: Vec<_> = listing(&third)
        .await
        .iter()
        .map(|m| m.id)
        .filter(|i| *i != x)
        .collect();
    assert_eq!(first, second, "LOST");
}

/// Mail that has long been on disk is not put at risk by compaction, also where nothing is synced.
#[tokio::test]
async fn what_is_written_anew_is_synced_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        durability: crate::Durability::Os,
        ..options(dir.path())
    };
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options.clone(), io).unwrap();
    for _ in 0..12 {
        accept(&store, START, &["u@d.example"], &[b'x'; 1500]).await;
    }
    files.trace();
    store.compact_now().await.unwrap();
    let trace = files.trace();
    let gone = trace
        .iter()
        .position(|t| t.contains("remove seg-00000001.log"))
        .unwrap();
    assert!(
        trace[..gone].iter().any(|t| t.starts_with("sync seg-")),
        "unlinked unsynced"
    );
}

/// A new record that may be on disk, and was not acknowledged as written, counts for nothing.
#[tokio::test]
async fn a_record_that_was_refused_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    let mut claimed = half_delivered(&store).await;
    files.inject(Fault {
        only: Some(|p| p.ends_with("seg-00000002.log")),
        torn: false,
        ..Fault::from(calls::SYNC | calls::TRUNCATE, 1, Errno::EIO)
    });
    assert!(store.compact_now().await.is_err());
    assert!(files.fired() > 1);
    files.heal();
    let m = claimed.remove(0);
    deliver(&store, at(2), &m).await;
    store.tick_now().await.unwrap();
    store.tick_now().await.unwrap();
    assert!(!listing(&store).await.iter().any(|l| l.id == m.lease.id));
    let k = killed(dir.path());
    let (again, _) = LocalStore::open(options(k.path())).unwrap();
    assert!(
        !listing(&again).await.iter().any(|l| l.id == m.lease.id),
        "BACK"
    );
}

/// A read that fails once is tried again.
#[tokio::test]
async fn one_failed_read_keeps_no_segment() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    for _ in 0..12 {
        accept(&store, START, &["u@d.example"], &[b'x'; 1500]).await;
    }
    let mut claimed = claim(&store, START).await;
    for claimed in claimed.drain(..8) {
        deliver(&store, at(1), &claimed).await;
    }
    files.inject(Fault {
        only: Some(|p| p.ends_with("seg-00000001.log")),
        torn: false,
        ..Fault::from(calls::READ, 2, Errno::EIO)
    });
    let _ = store.tick_now().await;
    files.heal();
    for _ in 0..5 {
        let _ = store.tick_now().await;
    }
    assert!(!logs(dir.path()).contains(&"seg-00000001.log".to_owned()));
}

/// Also on a disk that is full from the start.
#[tokio::test]
async fn the_reserve_of_an_earlier_process_is_of_use() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        store.tick_now().await.unwrap();
        store.close().await.unwrap();
    }
    assert!(dir.path().join("RESERVE").exists());
    let options = Options {
        min_free: u64::MAX,
        ..options(dir.path())
    };
    let (store, _) = LocalStore::open(options).unwrap();
    store.tick_now().await.unwrap();
    assert!(dir.path().join("RESERVE").exists());
    assert!(store.inner().give_up_reserve(), "there, and of no use");
}
