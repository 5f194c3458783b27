use std::path::Path;

use nix::errno::Errno;
use postroad_queue::contract::{
    self, START, accept, at, claim, defer, deliver, draft, evidence, read, said,
};
use postroad_queue::{Filter, Notice, Operation, Outcome, Store, StoreError};

use crate::crash::{Fault, calls};
use crate::io::Io;
use crate::record::HEADER;
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
    assert!(report.damage.is_empty(), "{report:?}");
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
        let (store, report) = LocalStore::open(options(torn.path())).unwrap();
        let listed = store.page(&Filter::default(), None, 9).await.unwrap();
        let ids: Vec<_> = listed.iter().map(|m| m.id).collect();
        if cut < used(&whole) - 8 {
            assert_eq!(ids, [first], "cut at {cut}");
            assert!(report.damage.is_empty(), "cut at {cut}: {report:?}");
            let tail = torn.path().join("seg-00000001.tail.bad");
            let kept = std::fs::read(tail).unwrap_or_default();
            assert_eq!(kept.len() as u64, report.torn, "cut at {cut}");
            let log = std::fs::metadata(torn.path().join("seg-00000001.log")).unwrap();
            assert_eq!(log.len(), before.next_multiple_of(8) as u64);
        } else {
            // So near the end it may as well have been damaged later.
            assert!(ids == [first] || ids == [first, second], "cut at {cut}");
        }
    }
}

/// A damaged octet anywhere in a record costs that record, is reported, and what was there is
/// kept; be it the first record or the last.
#[tokio::test]
async fn a_flipped_bit_costs_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = accept(&store, START, &["bob@b.example"], b"one").await;
    let path = dir.path().join("seg-00000001.log");
    let first_end = used(&std::fs::read(&path).unwrap());
    let second = accept(&store, START, &["bob@b.example"], b"two").await;
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let second_start = first_end.next_multiple_of(8);
    let heads = (32..32 + HEADER).chain(second_start..second_start + HEADER);
    let payloads = (32 + HEADER..first_end).chain(second_start + HEADER..used(&whole));
    for place in heads.chain(payloads.step_by(7)) {
        let is_first = place < first_end;
        let bad = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        std::fs::write(bad.path().join("FORMAT"), "1\n").unwrap();
        std::fs::write(bad.path().join("seg-00000001.log"), &bytes).unwrap();
        let (store, report) = LocalStore::open(options(bad.path())).unwrap();
        let listed = store.page(&Filter::default(), None, 9).await.unwrap();
        let ids: Vec<_> = listed.iter().map(|m| m.id).collect();
        assert_eq!(
            ids,
            [if is_first { second } else { first }],
            "flipped at {place}"
        );
        // The head of the last record is all that tells it from a write cut short.
        let told = is_first || place >= second_start + HEADER;
        assert_eq!(report.damage.len(), usize::from(told), "flipped at {place}");
        let kept = std::fs::read(bad.path().join("seg-00000001.bad"));
        let tail = std::fs::read(bad.path().join("seg-00000001.tail.bad"));
        if is_first {
            assert_eq!(kept.unwrap(), bytes, "flipped at {place}");
        } else {
            let end = used(&bytes);
            assert_eq!(
                tail.unwrap(),
                bytes[second_start..end],
                "flipped at {place}"
            );
        }
    }
}

/// Damage that comes after a clean stop, when the log is not read: what is damaged is not
/// delivered, and not called good.
#[tokio::test]
async fn what_is_damaged_is_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let small = accept(&store, START, &["bob@b.example"], b"a small body").await;
    let big = accept(&store, START, &["bob@b.example"], &[b'x'; 600_000]).await;
    let gone = accept(&store, START, &["bob@b.example"], &[b'y'; 600_000]).await;
    let good = accept(&store, START, &["bob@b.example"], &[b'z'; 600_000]).await;
    store.close().await.unwrap();
    drop(store);
    let log = dir.path().join("seg-00000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(5).position(|w| w == b"small").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let body = |id: postroad_queue::QueueId| dir.path().join("big").join(id.to_string());
    let mut bytes = std::fs::read(body(big)).unwrap();
    bytes[400_000] ^= 1;
    std::fs::write(body(big), bytes).unwrap();
    std::fs::remove_file(body(gone)).unwrap();

    let (store, report) = LocalStore::open(options(dir.path())).unwrap();
    assert!(report.clean);
    let claims = claim(&store, START).await;
    assert_eq!(claims.len(), 4);
    for claimed in claims {
        let (mut offset, mut failed) = (0, false);
        while offset < claimed.content.len() && !failed {
            match claimed.content.read(offset, 100_000).await {
                Ok(piece) => offset += piece.len() as u64,
                Err(StoreError::Damaged { .. }) => failed = true,
                Err(other) => panic!("{other}"),
            }
        }
        let id = claimed.lease.id;
        assert_eq!(failed, [small, big, gone].contains(&id), "{id} of {good}");
    }
}

/// In what order things get to the disk: whoever has an acknowledgement has all of this before it.
#[tokio::test]
async fn the_disk_comes_before_the_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let queue = dir.path().join("queue");
    let io = Io::default();
    let done = io.0.clone();
    let (store, _) = LocalStore::open_with(options(&queue), io).unwrap();
    done.trace();
    accept(&store, START, &["bob@b.example"], b"first").await;
    let log = "seg-00000001.log";
    let steps = |steps: &[&str], name: &str| -> Vec<String> {
        let named = |step: &&str| step.replace('#', name);
        steps.iter().map(named).collect()
    };
    let new = [
        "create #",
        "write #",
        "sync #",
        "sync_dir queue",
        "write #",
        "sync #",
    ];
    assert_eq!(done.trace(), steps(&new, log));
    accept(&store, START, &["bob@b.example"], b"second").await;
    assert_eq!(done.trace(), steps(&["write #", "sync #"], log));

    let mut incoming = store.begin(START).unwrap();
    incoming.write(vec![b'x'; 300_000].into()).await.unwrap();
    incoming.write(vec![b'x'; 300_000].into()).await.unwrap();
    let id = incoming.id().to_string();
    let draft = draft(&["bob@b.example"]);
    incoming.commit(START, draft).await.unwrap();
    let mut big = steps(
        &["create #", "write #", "write #", "sync #", "sync_dir big"],
        &id,
    );
    big.extend(steps(&["write #", "sync #"], log));
    assert_eq!(done.trace(), big);
}

/// A journal that was torn within a record: what is written behind it is found again.
#[tokio::test]
async fn a_journal_of_odd_length_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let kept = accept(&store, START, &["bob@b.example"], b"kept").await;
    let gone = accept(&store, START, &["carol@c.example"], b"gone").await;
    for claimed in claim(&store, START).await {
        defer(&store, START, &claimed, at(7)).await;
    }
    drop(store);
    std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
    let journal = dir.path().join("seg-00000001.st");
    let bytes = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &bytes[..bytes.len() - 13]).unwrap();
    drop(open(dir.path())); // reads the log, and leaves a checkpoint
    let store = open(dir.path());
    let only = Filter {
        ids: vec![gone],
        ..Filter::default()
    };
    assert_eq!(
        store
            .operate(at(8), Operation::Remove, &only)
            .await
            .unwrap(),
        1
    );
    drop(store);
    std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
    let listed = open(dir.path())
        .page(&Filter::default(), None, 9)
        .await
        .unwrap();
    assert_eq!(listed.iter().map(|m| m.id).collect::<Vec<_>>(), [kept]);
}

/// A record that cannot be read takes its message out of the queue; what can be kept is kept.
#[tokio::test]
async fn what_a_damaged_record_leaves_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let big = accept(&store, START, &["bob@b.example"], &[b'x'; 600_000]).await;
    accept(&store, START, &["bob@b.example"], b"good").await;
    drop(store);
    std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
    let log = dir.path().join("seg-00000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    std::fs::create_dir(dir.path().join("big/a-directory")).unwrap();
    let (store, report) = LocalStore::open(options(dir.path())).unwrap();
    assert_eq!((report.messages, report.damage.len()), (1, 1));
    let body = std::fs::read(dir.path().join(format!("{big}.body.bad"))).unwrap();
    assert!(body == vec![b'x'; 600_000]);
    drop(store);
    // A name once kept is not used again, whatever becomes of the queue.
    let store = open(dir.path());
    for claimed in claim(&store, START).await {
        deliver(&store, START, &claimed).await;
    }
    drop(store);
    let store = open(dir.path());
    accept(&store, START, &["bob@b.example"], b"new").await;
    assert!(!log.exists() && dir.path().join("seg-00000001.bad").exists());
}

/// An envelope that is found to be damaged while the process runs: the message is not handed out,
/// can be removed, and the next start reads the log and says so.
#[tokio::test]
async fn a_damaged_envelope_is_told_of_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids = [
        accept(&store, START, &["bob@b.example"], b"one").await,
        accept(&store, START, &["bob@b.example"], b"two").await,
    ];
    drop(store);
    let log = dir.path().join("seg-00000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    for (at, _) in bytes.clone().windows(13).enumerate() {
        if &bytes[at..at + 13] == b"bob@b.example" {
            bytes[at] ^= 1;
        }
    }
    std::fs::write(&log, bytes).unwrap();
    let (store, report) = LocalStore::open(options(dir.path())).unwrap();
    assert!(report.clean);
    assert!(claim(&store, START).await.is_empty());
    let first = Filter {
        ids: vec![ids[0]],
        ..Filter::default()
    };
    let removed = store.operate(at(1), Operation::Remove, &first).await;
    assert_eq!(removed.unwrap(), 1);
    store.close().await.unwrap();
    drop(store);
    assert!(!dir.path().join("CLEAN").exists());
    let (store, report) = LocalStore::open(options(dir.path())).unwrap();
    assert!(!report.clean && !report.damage.is_empty(), "{report:?}");
    assert_eq!(store.totals().messages, 0);
    let kept = dir.path().join("seg-00000001.bad").exists()
        || dir.path().join("seg-00000001.tail.bad").exists();
    assert!(kept);
}

/// Evidence that cannot be kept is no reason not to start.
#[tokio::test]
async fn a_full_disk_does_not_keep_a_damaged_queue_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = accept(&store, START, &["bob@b.example"], b"one").await;
    accept(&store, START, &["bob@b.example"], b"two").await;
    drop(store);
    std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
    let log = dir.path().join("seg-00000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let end = used(&bytes);
    bytes[end - 1] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let io = Io::default();
    let (started, _) = LocalStore::open_with(options(dir.path()), io.clone()).unwrap();
    let calls = io.0.trace();
    let kept = calls.iter().position(|c| c == "open seg-00000001.tail.bad");
    drop(started);
    std::fs::write(&log, &bytes).unwrap();
    for call in kept.unwrap()..kept.unwrap() + 5 {
        let _ = std::fs::remove_file(dir.path().join("CLEAN"));
        let io = Io::default();
        io.0.fail(call as u64 + 1, Errno::ENOSPC);
        let (store, report) = LocalStore::open_with(options(dir.path()), io).unwrap();
        let listed = store.page(&Filter::default(), None, 9).await.unwrap();
        assert_eq!(listed.iter().map(|m| m.id).collect::<Vec<_>>(), [first]);
        assert_eq!(report.damage.len(), 1, "call {call}");
        drop(store);
        std::fs::write(&log, &bytes).unwrap();
    }
}

/// State that cannot be written holds while the process lives; a message that would be back after
/// the next start keeps its body. It is written as soon as it can be.
#[tokio::test]
async fn state_that_is_not_written_costs_no_body() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let faults = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    let big = accept(&store, START, &["bob@b.example"], &[b'x'; 600_000]).await;
    let claimed = claim(&store, START).await.remove(0);
    // Another keeps the segment.
    let other = accept(&store, at(1), &["bob@b.example"], b"other").await;
    faults.inject(Fault::from(calls::GROW, 1, Errno::ENOSPC));
    deliver(&store, START, &claimed).await;
    assert_eq!(store.totals().messages, 1);
    let _ = store.tick_now().await;
    assert_eq!(store.health().states_unwritten, 1);
    assert!(store.health().fault.unwrap().contains("not written down"));
    let killed = crate::compaction_tests::killed(dir.path());
    let again = open(killed.path());
    let claims = claim(&again, at(1)).await;
    let returned = claims.iter().find(|c| c.lease.id == big).unwrap();
    assert_eq!(read(&*returned.content).await.len(), 600_017);

    faults.heal();
    store.tick_now().await.unwrap();
    assert_eq!(store.health().fault, None);
    assert!(!dir.path().join("big").join(big.to_string()).exists());
    let killed = crate::compaction_tests::killed(dir.path());
    let claims = claim(&open(killed.path()), at(1)).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].lease.id, other);
}

/// With less room than must be free, new mail is refused and what is queued goes out.
#[tokio::test]
async fn a_queue_without_room_drains() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..5 {
        accept(&store, START, &["bob@b.example"], &[b'x'; 400_000]).await;
    }
    store.close().await.unwrap();
    drop(store);
    let options = Options {
        min_free: u64::MAX,
        ..options(dir.path())
    };
    let (store, _) = LocalStore::open(options).unwrap();
    let refused = store.begin(START).err();
    assert!(
        matches!(refused, Some(StoreError::Full { .. })),
        "{refused:?}"
    );
    assert_eq!(store.health().refused_full, 1);
    for claimed in claim(&store, START).await {
        assert_eq!(read(&*claimed.content).await.len(), 400_017);
        deliver(&store, START, &claimed).await;
    }
    assert_eq!(store.totals().messages, 0);
    store.tick_now().await.unwrap();
    assert_eq!(
        std::fs::read_dir(dir.path().join("big")).unwrap().count(),
        0
    );
    assert!(store.begin(START).is_err(), "until there is room");
}

/// The reserve is given up for state, so that a disk without an octet left drains.
#[tokio::test]
async fn the_reserve_is_for_state() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let faults = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    let reserve = dir.path().join("RESERVE");
    assert!(std::fs::metadata(&reserve).unwrap().len() > 1000);
    accept(&store, START, &["bob@b.example"], b"text").await;
    let claimed = claim(&store, START).await.remove(0);
    faults.fail(1, Errno::ENOSPC);
    deliver(&store, START, &claimed).await;
    assert_eq!(store.health().states_unwritten, 0);
    assert!(!reserve.exists());
    store.tick_now().await.unwrap();
    assert!(reserve.exists(), "made anew where there is room");
}

/// A piece that was not written is not left out of the message.
#[tokio::test]
async fn a_message_with_a_hole_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let faults = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    let mut incoming = store.begin(START).unwrap();
    faults.fail(1, Errno::ENOSPC);
    assert!(incoming.write(vec![b'x'; 300_000].into()).await.is_err());
    let _ = incoming.write(vec![b'y'; 300_000].into()).await;
    assert!(
        incoming
            .commit(START, draft(&["bob@b.example"]))
            .await
            .is_err()
    );
    assert_eq!(store.totals().messages, 0);
}

/// What a notice settles holds after a crash though the journal is lost; what an operator said
/// later holds too.
#[tokio::test]
async fn a_notice_settles_what_it_is_about() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = accept(&store, START, &["bob@b.example"], b"x").await;
    let claimed = claim(&store, START).await.remove(0);
    let mut record = said(&claimed, Some(at(4000)), || {
        Outcome::Deferred(evidence(START))
    });
    record.warned = true;
    record.notices.push(Notice {
        draft: draft(&["alice@sender.example"]),
        body: "late".into(),
    });
    store.record(START, &claimed.lease, record).await.unwrap();
    let due = async |store: &LocalStore| {
        let listed = store.page(&Filter::default(), None, 9).await.unwrap();
        assert_eq!(listed.len(), 2, "the message and its notice");
        let message = listed.iter().find(|m| m.id == id).unwrap();
        message.recipients[0].due
    };
    let kill = |without: &[&str]| {
        let killed = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_file() && !without.contains(&&*name) {
                std::fs::copy(entry.path(), killed.path().join(name)).unwrap();
            }
        }
        killed
    };
    let killed = kill(&["seg-00000001.st"]);
    assert_eq!(due(&open(killed.path())).await, Some(at(4000)));

    let all = Filter::default();
    store.operate(at(5), Operation::Retry, &all).await.unwrap();
    let killed = kill(&[]);
    let length = || {
        std::fs::metadata(killed.path().join("seg-00000001.st"))
            .unwrap()
            .len()
    };
    let before = length();
    assert_eq!(due(&open(killed.path())).await, Some(at(5)));
    assert_eq!(
        length(),
        before,
        "what the journal has is not written again"
    );
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
