//! Compaction, and what it leaves: space comes back, and nothing else changes.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use postroad_queue::contract::{
    START, accept, at, claim, defer, deliver, draft, evidence, read, said,
};
use postroad_queue::{
    Change, Claimed, Filter, LaneSummary, Listed, Operation, Outcome, Store as _, StoreError,
};
use tokio::task::JoinHandle;

use crate::crash::Faults;
use crate::io::Io;
use crate::{LocalStore, Options};

pub(crate) fn options(path: &Path) -> Options {
    Options {
        segment_size: 1 << 14,
        inline_max: 1 << 12,
        min_free: 0,
        ..Options::new(path)
    }
}

pub(crate) fn open(path: &Path) -> LocalStore {
    let (store, report) = LocalStore::open(options(path)).unwrap();
    assert!(report.damage.is_empty(), "{report:?}");
    store
}

pub(crate) async fn listing(store: &LocalStore) -> Vec<Listed> {
    store.page(&Filter::default(), None, 10_000).await.unwrap()
}

pub(crate) fn logs(path: &Path) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut logs: Vec<_> = names.filter(|name| name.ends_with(".log")).collect();
    logs.sort();
    logs
}

/// As a kill leaves it: with all that was written, synced or not.
pub(crate) fn killed(path: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::create_dir(to.path().join("big")).unwrap();
    for part in [".", "big"] {
        for entry in std::fs::read_dir(path.join(part)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() && entry.file_name() != "LOCK" {
                let to = to.path().join(part).join(entry.file_name());
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    to
}

/// Messages of every kind and history, in many segments; no lease is left.
async fn history(store: &LocalStore) {
    for n in 0..60_usize {
        let to = [&*format!("u{n}@d{}.example", n % 7), "v@e.example"];
        let body = vec![b'x'; if n % 10 == 9 { 6000 } else { 40 * n }];
        accept(store, START, &to[..1 + n % 2], &body).await;
    }
    for (n, claimed) in claim(store, START).await.into_iter().enumerate() {
        match n % 5 {
            0 | 1 => deliver(store, START, &claimed).await,
            2 => defer(store, START, &claimed, at(100 + n as u64)).await,
            3 => {
                let fail = || Outcome::Failed(evidence(at(7)));
                let mut record = said(&claimed, Some(at(50)), fail);
                record.changes.truncate(claimed.recipients.len() / 2);
                record.warned = true;
                store.record(START, &claimed.lease, record).await.unwrap();
            }
            _ => {
                let untouched = postroad_queue::AttemptRecord {
                    next_due: Some(at(20)),
                    ..Default::default()
                };
                store
                    .record(START, &claimed.lease, untouched)
                    .await
                    .unwrap();
            }
        }
    }
    let some = |to: &str| Filter {
        to: Some(to.to_owned()),
        ..Filter::default()
    };
    store
        .operate(at(1), Operation::Hold, &some("d3"))
        .await
        .unwrap();
    store
        .operate(at(2), Operation::Hold, &some("d4"))
        .await
        .unwrap();
    store
        .operate(at(3), Operation::Release, &some("d4"))
        .await
        .unwrap();
    store
        .operate(at(4), Operation::Retry, &some("u2"))
        .await
        .unwrap();
    store
        .operate(at(5), Operation::Remove, &some("u5"))
        .await
        .unwrap();
}

async fn contents(store: &LocalStore) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for listed in listing(store).await {
        let content = store.content(listed.id).await.unwrap();
        all.push(read(&*content).await.to_vec());
    }
    all
}

/// What is known of lanes after a restart.
fn forgotten(mut lanes: Vec<LaneSummary>) -> Vec<LaneSummary> {
    for lane in &mut lanes {
        lane.last_attempt = None;
    }
    lanes
}

#[tokio::test]
async fn nothing_changes_but_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    history(&store).await;
    let (before, octets, lanes) = (listing(&store).await, contents(&store).await, store.lanes());
    let first = logs(dir.path());
    for round in 0..3 {
        store.compact_now().await.unwrap();
        assert_eq!(listing(&store).await, before, "round {round}");
        assert_eq!(contents(&store).await, octets);
        assert_eq!(store.lanes(), lanes);
        // And after a kill at this moment, and after another.
        let killed_once = killed(dir.path());
        let again = open(killed_once.path());
        assert_eq!(listing(&again).await, before, "killed in round {round}");
        assert_eq!(forgotten(again.lanes()), forgotten(lanes.clone()));
        again.compact_now().await.unwrap();
        let killed_twice = killed(killed_once.path());
        assert_eq!(listing(&open(killed_twice.path())).await, before);
    }
    let last = logs(dir.path());
    assert!(
        first.iter().filter(|log| last.contains(log)).count() <= 1,
        "{last:?}"
    );
    store.close().await.unwrap();
    drop(store);
    let (store, report) = LocalStore::open(options(dir.path())).unwrap();
    assert!(report.clean);
    assert_eq!(listing(&store).await, before);
    // All of it still goes out, once.
    store
        .operate(at(900), Operation::Release, &Filter::default())
        .await
        .unwrap();
    let mut got = 0;
    loop {
        let claimed = claim(&store, at(1000)).await;
        if claimed.is_empty() {
            break;
        }
        for claimed in claimed {
            got += claimed.recipients.len();
            deliver(&store, at(1000), &claimed).await;
        }
    }
    let waiting = before.iter().flat_map(|m| &m.recipients);
    assert_eq!(got, waiting.filter(|r| !r.state.is_final()).count());
    assert_eq!(store.totals().messages, 0);
}

#[tokio::test]
async fn what_is_under_way_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..30 {
        accept(
            &store,
            START,
            &["u@d.example", "v@e.example"],
            &[b'x'; 1500],
        )
        .await;
        let _ = n;
    }
    let claimed = claim(&store, START).await;
    assert_eq!(claimed.len(), 60);
    store.compact_now().await.unwrap();
    for (n, claimed) in claimed.iter().enumerate() {
        assert_eq!(read(&*claimed.content).await.len(), 1500 + 17);
        if n % 2 == 0 {
            deliver(&store, at(1), claimed).await;
        } else {
            defer(&store, at(1), claimed, at(60)).await;
        }
        if n == 30 {
            store.compact_now().await.unwrap();
        }
    }
    let listed = listing(&store).await;
    store.tick_now().await.unwrap();
    let killed = killed(dir.path());
    assert_eq!(listing(&open(killed.path())).await, listed);
}

/// Of many messages a few stay: their segments do not.
#[tokio::test]
async fn a_few_survivors_keep_no_segments() {
    let dir = tempfile::tempdir().unwrap();
    let large = Options {
        segment_size: 1 << 20,
        ..options(dir.path())
    };
    let (store, _) = LocalStore::open(large).unwrap();
    for round in 0..40 {
        for n in 0..100 {
            let to = if n == 50 {
                "stays@d.example"
            } else {
                "goes@d.example"
            };
            accept(&store, at(round), &[to], &[b'x'; 2000]).await;
        }
        for claimed in claim(&store, at(round)).await {
            let to = &claimed.message.envelope.recipients()[0].address;
            if to.to_string().starts_with("stays") {
                defer(&store, at(round), &claimed, at(10_000)).await;
            } else {
                deliver(&store, at(round), &claimed).await;
            }
        }
    }
    store.tick_now().await.unwrap();
    let health = store.health();
    assert_eq!(store.totals().messages, 40);
    assert!(health.compactions > 0);
    // The segment that is being written is 1 MiB long.
    assert!(health.disk <= (1 << 20) + 4 * health.live, "{health:?}");
    assert!(logs(dir.path()).len() <= 2, "{:?}", logs(dir.path()));
}

/// After an hour a segment of which half is not needed is compacted as well.
#[tokio::test]
async fn an_old_segment_need_not_be_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..30 {
        accept(&store, crate::watch::now(), &["u@d.example"], &[b'x'; 1500]).await;
    }
    let claimed = claim(&store, crate::watch::now()).await;
    for claimed in &claimed[..6] {
        deliver(&store, crate::watch::now(), claimed).await; // six of the nine or so of the first
    }
    let (inner, now) = (store.inner(), crate::watch::now());
    let share = {
        let segments = inner.segments();
        let first = &segments[&1];
        first.live_octets * 100 / first.disk()
    };
    assert!((25..50).contains(&share), "{share} %");
    assert_eq!(inner.sparsest(now), None);
    let hour = Duration::from_secs(3600);
    assert_eq!(
        inner.sparsest(now + hour / 2),
        None,
        "not before that has passed"
    );
    assert_eq!(inner.sparsest(now + 2 * hour), Some(1));
}

/// Whatever comes and goes, the files stay within twice what is needed and two segments.
#[test]
fn space_is_bounded_after_any_history() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for seed in 0..6 {
        runtime.block_on(bounded(seed));
    }
}

async fn bounded(seed: u64) {
    let mut dice = crate::crash::Dice::new(seed);
    let mut dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for round in 0..40_u64 {
        for _ in 0..dice.below(30) {
            let body = vec![b'x'; dice.below(3000)];
            accept(&store, at(round), &["u@d.example"], &body).await;
        }
        let often = dice.below(10);
        for claimed in claim(&store, at(round)).await {
            if dice.below(10) < often {
                deliver(&store, at(round), &claimed).await;
            } else {
                let due = at(round + 1 + dice.below(9) as u64);
                defer(&store, at(round), &claimed, due).await;
            }
        }
        if round % 10 == 9 {
            let next = killed(dir.path());
            store = open(next.path());
            dir = next;
        }
        for _ in 0..4 {
            store.tick_now().await.unwrap(); // until compaction has caught up
        }
        let health = store.health();
        let most = store.inner().space_max(health.live);
        assert!(
            health.disk <= most,
            "seed {seed}, round {round}: {health:?}"
        );
    }
}

/// A message that is finished while it is moved does not come back, whichever file goes first.
#[tokio::test]
async fn what_is_finished_meanwhile_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    for _ in 0..20 {
        accept(&store, START, &["u@d.example"], &[b'x'; 1500]).await;
    }
    let claimed = claim(&store, START).await;
    files.syncs_wait.store(true, Ordering::SeqCst);
    let compacting = tokio::spawn({
        let store = store.clone();
        async move { store.compact_now().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await; // until it waits for a sync
    for (n, claimed) in claimed.iter().enumerate() {
        match n % 3 {
            0 => deliver(&store, at(1), claimed).await,
            1 => defer(&store, at(1), claimed, at(60)).await,
            _ => {}
        }
    }
    files.syncs_wait.store(false, Ordering::SeqCst);
    compacting.await.unwrap().unwrap();
    store.tick_now().await.unwrap();
    let listed = listing(&store).await;
    assert_eq!(listed.len(), 13);
    let attempts = |listed: &[Listed]| -> Vec<_> {
        let all = listed.iter().map(|m| (m.id, m.recipients[0].attempts));
        all.collect()
    };
    for _ in 0..2 {
        let killed = killed(dir.path());
        let again = open(killed.path());
        assert_eq!(attempts(&listing(&again).await), attempts(&listed));
        store.compact_now().await.unwrap();
    }
}

/// Twelve messages in two segments, of which those of the first have mostly gone: claims for the
/// six that are left.
pub(crate) async fn half_delivered(store: &LocalStore) -> Vec<Claimed> {
    for _ in 0..12 {
        accept(store, START, &["u@d.example"], &[b'x'; 1500]).await;
    }
    let mut claimed = claim(store, START).await;
    for claimed in claimed.drain(..6) {
        deliver(store, at(1), &claimed).await;
    }
    claimed
}

/// A compaction that has written into the second segment, and waits for the sync.
pub(crate) async fn compacting(
    store: &LocalStore,
    files: &Faults,
    path: &Path,
) -> JoinHandle<Result<(), StoreError>> {
    files.syncs_wait.store(true, Ordering::SeqCst);
    let store = store.clone();
    let compacting = tokio::spawn(async move { store.compact_now().await });
    let log = path.join("seg-00000002.log");
    let is_written = || {
        let log = std::fs::read(&log).unwrap();
        log.windows(7).any(|octets| octets == b"\"moved\"")
    };
    while !is_written() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    compacting
}

/// A kill when the new record of a finished message is there, and nothing says yet that it is void:
/// the old segment, which says that it is finished, does not go before that is said elsewhere.
#[tokio::test]
async fn what_is_finished_before_a_kill_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    let mut claimed = half_delivered(&store).await;
    assert_eq!(logs(dir.path()).len(), 2);
    let compacting = compacting(&store, &files, dir.path()).await;
    let finished = claimed.remove(0);
    deliver(&store, at(1), &finished).await;
    let left = listing(&store).await;
    assert_eq!(left.len(), 5);
    let early = killed(dir.path());
    files.syncs_wait.store(false, Ordering::SeqCst);
    compacting.await.unwrap().unwrap();
    let again = open(early.path());
    assert_eq!(listing(&again).await.len(), 5);
    assert_eq!(
        logs(early.path()),
        ["seg-00000002.log"],
        "the old one has gone"
    );
    let later = killed(early.path());
    assert_eq!(listing(&open(later.path())).await.len(), 5);
}

/// A journal whose sync has failed is trusted no more: its segment is emptied, and then all is
/// well again.
#[tokio::test]
async fn a_journal_that_cannot_be_synced_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let io = Io::default();
    let files = io.0.clone();
    let (store, _) = LocalStore::open_with(options(dir.path()), io).unwrap();
    accept(&store, START, &["u@d.example"], b"text").await;
    let claimed = claim(&store, START).await.remove(0);
    let mut record = said(&claimed, Some(at(60)), || {
        Outcome::Deferred(evidence(START))
    });
    record.changes = vec![Change {
        recipient: 0,
        outcome: Outcome::Deferred(evidence(START)),
    }];
    store.record(START, &claimed.lease, record).await.unwrap();
    files.fail(1, Errno::EIO);
    let _ = store.tick_now().await;
    assert_eq!(store.health().sync_failures, 1);
    for _ in 0..3 {
        let _ = store.tick_now().await;
    }
    store.tick_now().await.unwrap();
    assert_eq!(store.health().fault, None);
    assert!(!logs(dir.path()).contains(&"seg-00000001.log".to_owned()));
    let listed = listing(&store).await;
    assert_eq!(listed[0].recipients[0].attempts, 1);
    let killed = killed(dir.path());
    assert_eq!(listing(&open(killed.path())).await, listed);
}

/// What an older version has left is read as it was, and is then of the present format.
#[tokio::test]
async fn an_older_format_is_read_and_brought_up_to_date() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-1");
    for kind in ["killed", "stopped"] {
        let dir = killed(&data.join(kind));
        let listed = std::fs::read(dir.path().join("listing.json")).unwrap();
        let mut before: Vec<Listed> = serde_json::from_slice(&listed).unwrap();
        let store = open(dir.path());
        let mut after = listing(&store).await;
        for recipient in before
            .iter_mut()
            .chain(&mut after)
            .flat_map(|m| &mut m.recipients)
        {
            recipient.warned = false; // the old listing does not tell
            recipient.due = None; // nor when what was under way is due
        }
        assert_eq!(after, before, "{kind}");
        let format = std::fs::read_to_string(dir.path().join("FORMAT")).unwrap();
        assert_eq!(format, "2\n");
        store.compact_now().await.unwrap();
        let content = contents(&store).await;
        assert!(
            content
                .iter()
                .all(|text| text.starts_with(b"Subject: test\r\n\r\n"))
        );
        let incoming = store.begin(at(9)).unwrap();
        incoming
            .commit(at(9), draft(&["new@d.example"]))
            .await
            .unwrap();
        drop(store);
        assert_eq!(listing(&open(dir.path())).await.len(), before.len() + 1);
    }
}
