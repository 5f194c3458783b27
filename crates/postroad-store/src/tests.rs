use std::path::Path;

use nix::errno::Errno;
use postroad_queue::contract::{self, START, accept, at, claim, defer, deliver, draft, read};
use postroad_queue::{Filter, Store, StoreError};

use crate::io::Io;
use crate::{LocalStore, Options};

fn options(path: &Path) -> Options {
    Options {
        segment_size: 1 << 20,
        min_free: 0,
        ..Options::new(path)
    }
}

fn open(path: &Path) -> LocalStore {
    let (store, report) = LocalStore::open(options(path)).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
    store
}

#[tokio::test]
async fn fulfils_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let n = std::cell::Cell::new(0);
    contract::all(async || {
        n.set(n.get() + 1);
        open(&dir.path().join(n.get().to_string()))
    })
    .await;
}

#[tokio::test]
async fn all_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let kept = accept(&store, START, &["bob@b.example"], b"kept").await;
    let gone = accept(&store, START, &["carol@c.example"], b"gone").await;
    let big = accept(&store, START, &["dan@d.example"], &[b'x'; 600_000]).await;
    for claimed in claim(&store, START).await {
        if claimed.lease.id == gone {
            deliver(&store, START, &claimed).await;
        } else {
            defer(&store, START, &claimed, at(7)).await;
        }
    }
    drop(store);
    let store = open(dir.path());
    let claims = claim(&store, at(7)).await;
    let ids: Vec<_> = claims.iter().map(|c| (c.lease.id, c.attempts)).collect();
    assert!(ids.contains(&(kept, 1)) && ids.contains(&(big, 1)) && ids.len() == 2);
    let listed = store.page(&Filter::default(), None, 9).await.unwrap();
    assert!(listed.iter().all(|m| m.recipients[0].last.is_some()));
    for claimed in claims {
        let whole = read(&*claimed.content).await;
        assert_eq!(whole.len() as u64, claimed.message.size);
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let second = LocalStore::open(options(dir.path()));
    assert!(matches!(second, Err(StoreError::Locked { .. })));
}

#[tokio::test]
async fn an_unknown_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("FORMAT"), "99\n").unwrap();
    let opened = LocalStore::open(options(dir.path()));
    assert!(matches!(opened, Err(StoreError::Format { .. })));
}

#[tokio::test]
async fn a_failed_write_acks_nothing_and_the_store_goes_on() {
    for (errno, full) in [(Errno::EIO, false), (Errno::ENOSPC, true)] {
        for n in 1..=2 {
            let dir = tempfile::tempdir().unwrap();
            let io = Io::default();
            let faults = io.0.clone();
            let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
            let first = accept(&store, START, &["bob@b.example"], b"one").await;
            faults.fail(n, errno);
            let incoming = store.begin(START).unwrap();
            let failed = incoming.commit(START, draft(&["bob@b.example"])).await;
            assert_eq!(
                matches!(failed, Err(StoreError::Full { .. })),
                full,
                "{failed:?}"
            );
            assert!(failed.is_err());
            let second = accept(&store, START, &["bob@b.example"], b"two").await;
            drop(store);
            let store = open(dir.path());
            let listed = store.page(&Filter::default(), None, 9).await.unwrap();
            let ids: Vec<_> = listed.iter().map(|m| m.id).collect();
            assert_eq!(ids, [first, second], "{errno} at call {n}");
        }
    }
}

/// A large body is on disk before its record; where that cannot be written, it goes again.
#[tokio::test]
async fn the_body_of_a_refused_message_goes() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let faults = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    accept(&store, START, &["bob@b.example"], b"one").await;
    let mut incoming = store.begin(START).unwrap();
    incoming.write(vec![b'x'; 300_000].into()).await.unwrap();
    faults.fail(3, Errno::EIO); // its sync, the directory's, then the record
    let failed = incoming.commit(START, draft(&["bob@b.example"])).await;
    assert!(
        matches!(
            failed,
            Err(StoreError::Io {
                action: "writing",
                ..
            })
        ),
        "{failed:?}"
    );
    store.close().await.unwrap();
    assert_eq!(
        std::fs::read_dir(dir.path().join("big")).unwrap().count(),
        0
    );
}

/// The log is cut at every octet of its last record: no panic, and the others are all there.
#[tokio::test]
async fn torn_anywhere_the_rest_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = accept(&store, START, &["bob@b.example"], b"one").await;
    let path = dir.path().join("seg-00000001.log");
    let before = used(&std::fs::read(&path).unwrap());
    let second = accept(&store, START, &["bob@b.example"], b"two").await;
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for cut in before.next_multiple_of(8)..=used(&whole) {
        let torn = tempfile::tempdir().unwrap();
        std::fs::write(torn.path().join("FORMAT"), "1\n").unwrap();
        std::fs::write(torn.path().join("seg-00000001.log"), &whole[..cut]).unwrap();
        let store = open(torn.path());
        let listed = store.page(&Filter::default(), None, 9).await.unwrap();
        let ids: Vec<_> = listed.iter().map(|m| m.id).collect();
        if cut < used(&whole) - 8 {
            assert_eq!(ids, [first], "cut at {cut}");
        } else {
            assert!(ids == [first] || ids == [first, second], "cut at {cut}");
        }
    }
}

/// A damaged octet anywhere in the first record costs that record and is reported.
#[tokio::test]
async fn a_flipped_bit_costs_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    accept(&store, START, &["bob@b.example"], b"one").await;
    let path = dir.path().join("seg-00000001.log");
    let first_end = used(&std::fs::read(&path).unwrap());
    let second = accept(&store, START, &["bob@b.example"], b"two").await;
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for place in 32..first_end {
        let bad = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        std::fs::write(bad.path().join("FORMAT"), "1\n").unwrap();
        std::fs::write(bad.path().join("seg-00000001.log"), &bytes).unwrap();
        let (store, report) = LocalStore::open(options(bad.path())).unwrap();
        let listed = store.page(&Filter::default(), None, 9).await.unwrap();
        let ids: Vec<_> = listed.iter().map(|m| m.id).collect();
        assert_eq!(ids, [second], "flipped at {place}");
        assert_eq!(report.damage.len(), 1, "flipped at {place}");
    }
}

fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|b| *b != 0)
        .map_or(0, |last| last + 1)
}

/// What the index holds after a history is what the table holds; and whatever is done to its
/// files, the queue is the same.
#[tokio::test]
async fn the_index_follows_and_never_leads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let store = open(dir.path());
    let mut kept = Vec::new();
    for n in 0..20 {
        kept.push(accept(&store, START, &[&format!("u@d{n}.example")], b"text").await);
    }
    for (n, claimed) in claim(&store, START).await.into_iter().enumerate() {
        if n % 3 == 0 {
            deliver(&store, START, &claimed).await;
            kept.retain(|id| *id != claimed.lease.id);
        } else {
            defer(&store, START, &claimed, at(7)).await;
        }
    }
    let expect = |store: &LocalStore| store.totals().messages;
    assert_eq!(expect(&store), kept.len() as u64);
    store.close().await.unwrap();
    drop(store);
    let index = crate::index::Index::open(&path, 1 << 20).unwrap();
    let mut indexed: Vec<_> = index.entries().into_iter().map(|(id, _)| id).collect();
    indexed.sort_unstable();
    assert_eq!(indexed, kept);
    drop(index);

    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |path| std::fs::remove_dir_all(path).unwrap(),
        |path| std::fs::write(path.join("db"), [0xa5; 70_000]).unwrap(),
        |path| std::fs::write(path.join("conf"), b"").unwrap(),
    ];
    for damage in damages {
        damage(&path);
        let store = open(dir.path());
        let page = store.page(&Filter::default(), None, 99).await.unwrap();
        let ids: Vec<_> = page.iter().map(|listed| listed.id).collect();
        assert_eq!(ids, kept);
        store.close().await.unwrap();
        drop(store);
        let index = crate::index::Index::open(&path, 1 << 20).unwrap();
        assert_eq!(index.entries().len(), kept.len());
    }
}
