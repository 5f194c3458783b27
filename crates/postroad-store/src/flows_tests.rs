//! Whose mail a message is, is known after every kind of start.

use std::path::Path;

use bytes::Bytes;
use postroad_queue::contract::{START, accept_from, at, defer, draft, request};
use postroad_queue::{QueueId, Store as _};

use crate::{LocalStore, Options, RecoveryReport};

fn open(path: &Path) -> (LocalStore, RecoveryReport) {
    let options = Options {
        segment_size: 1 << 16,
        min_free: 0,
        ..Options::new(path)
    };
    LocalStore::open(options).unwrap()
}

/// Twenty messages of one sender, then one of each of three others: of a second one, of a user
/// with the first one's reverse-path, and a notice.
async fn filled(store: &LocalStore) -> [QueueId; 3] {
    for _ in 0..20 {
        accept_from(store, START, "<many@a.example>", "x@b.test").await;
    }
    let second = accept_from(store, at(1), "<one@a.example>", "x@b.test").await;
    let mut of_user = draft(&["x@b.test"]);
    of_user.envelope.from = "<many@a.example>".parse().unwrap();
    of_user.origin.user = Some("erin".to_owned());
    let mut incoming = store.begin(at(2)).unwrap();
    incoming.write(Bytes::from_static(b"hello")).await.unwrap();
    let user = incoming.commit(at(2), of_user).await.unwrap();
    let notice = accept_from(store, at(3), "<>", "x@b.test").await;
    [second, user, notice]
}

async fn first_four(store: &LocalStore, others: [QueueId; 3]) {
    let claims = store.claim(at(9), &request(4, 100)).await.unwrap();
    for id in others {
        assert!(claims.iter().any(|c| c.lease.id == id), "{claims:?}");
    }
}

#[tokio::test]
async fn after_a_clean_stop_and_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let others = filled(&store).await;
    store.close().await.unwrap();
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.clean);
    first_four(&store, others).await;
    drop(store);
    std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
    let (store, report) = open(dir.path());
    assert!(!report.clean);
    first_four(&store, others).await;
}

/// What compaction has written anew too.
#[tokio::test]
async fn after_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let others = filled(&store).await;
    for claimed in store.claim(at(3), &request(100, 100)).await.unwrap() {
        defer(&store, at(3), &claimed, at(4)).await;
    }
    store.close().await.unwrap();
    drop(store);
    let (store, _) = open(dir.path());
    store.compact_now().await.unwrap();
    first_four(&store, others).await;
    store.close().await.unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
    let (store, report) = open(dir.path());
    assert!(!report.clean);
    first_four(&store, others).await;
}

/// That of an older version says less: it counts as missing, and the log tells.
#[tokio::test]
async fn an_older_checkpoint_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let others = filled(&store).await;
    store.close().await.unwrap();
    drop(store);
    let path = dir.path().join("CLEAN");
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[4], 3, "the version");
    bytes[4] = 2;
    let covered = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..covered]).to_be_bytes();
    bytes[covered..].copy_from_slice(&crc);
    std::fs::write(&path, bytes).unwrap();
    let (store, report) = open(dir.path());
    assert!(!report.clean);
    assert_eq!(report.messages, 23);
    first_four(&store, others).await;
}
