use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use postroad_mail::{Origin, Timestamp};
use postroad_queue::history::{Accepted, Event, Happening, History as _, Wanted};
use postroad_queue::{Mint, QueueId};

use super::files::{LINE_MAX, Writer, list};
use super::{FileHistory, HistoryFiles, HistoryOptions, PENDING_MAX};
use crate::watch::now;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const ROOMY: HistoryOptions = HistoryOptions {
    keep: Duration::from_secs(7 * 24 * 60 * 60),
    size_max: 1 << 30,
};

fn accepted(id: QueueId, at: Timestamp, message_id: &str) -> Event {
    Event {
        id,
        at,
        what: Happening::Accepted(Accepted {
            began: at,
            origin: Origin {
                service: "relay".to_owned(),
                ..Origin::default()
            },
            from: "alice@a.example".to_owned(),
            recipients: vec!["bob@b.example".to_owned()],
            recipients_count: 1,
            size: 4096,
            message_id: Some(message_id.to_owned()),
            expansions: Vec::new(),
        }),
    }
}

const fn left(id: QueueId, at: Timestamp) -> Event {
    Event {
        id,
        at,
        what: Happening::Left,
    }
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).unwrap();
    line.push(b'\n');
    line
}

#[tokio::test]
async fn what_is_recorded_is_found_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("history");
    let history = FileHistory::open(&dir, ROOMY).unwrap();
    let mut mint = Mint::new(1);
    let (a, b, c) = (mint.next(now()), mint.next(now()), mint.next(now()));
    let first = accepted(a, now(), "one@a.example");
    let second = accepted(b, now(), "two \"quoted\"@a.example");
    let again = accepted(c, now(), "one@a.example");
    for event in [&first, &second, &again] {
        history.record(event.clone());
    }
    let late = left(a, now());
    history.record(late.clone());
    let by_id = Wanted::Id(a);
    let by_message = Wanted::MessageId("one@a.example".to_owned());
    assert_eq!(
        history.find(&by_id, 10).await.unwrap(),
        [first.clone(), late.clone()]
    );
    let youngest = history.find(&by_id, 1).await.unwrap();
    assert_eq!(youngest, std::slice::from_ref(&late));
    drop(history);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.clone()), 0o700);
    assert_eq!(mode(list(&dir).unwrap()[0].path(&dir)), 0o600);

    // Without anybody who writes.
    let files = HistoryFiles::new(&dir);
    assert_eq!(
        files.find(&by_id, 10).unwrap(),
        [first.clone(), late.clone()]
    );
    let found = files.find(&by_message, 10).unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.contains(&first) && found.contains(&again) && found.contains(&late));
    let quoted = Wanted::MessageId("two \"quoted\"@a.example".to_owned());
    assert_eq!(files.find(&quoted, 10).unwrap(), [second]);
    let nobody = Wanted::MessageId("alice@a.example".to_owned());
    assert!(files.find(&nobody, 10).unwrap().is_empty());
    assert!(
        HistoryFiles::new(dir.join("none"))
            .find(&by_id, 10)
            .unwrap()
            .is_empty()
    );
    // And it goes on in the same file.
    let history = FileHistory::open(&dir, ROOMY).unwrap();
    history.record(left(c, now()));
    assert_eq!(history.find(&Wanted::Id(c), 10).await.unwrap().len(), 2);
    assert_eq!(list(&dir).unwrap().len(), 1);
    assert_eq!(history.dropped(), 0);
}

/// What was cut off by a crash is skipped, and does not spoil what follows it.
#[test]
fn torn_lines_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut mint = Mint::new(1);
    let id = mint.next(START);
    let whole = line(&accepted(id, START, "x@y"));
    for cut in [0, 1, 40, whole.len() - 1] {
        let path = dir.path().join("history-01800000000000.log");
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[..cut]);
        std::fs::write(&path, &torn).unwrap();
        let files = HistoryFiles::new(dir.path());
        assert_eq!(files.find(&Wanted::Id(id), 9).unwrap().len(), 1, "{cut}");
        let mut writer = Writer::new(dir.path(), ROOMY).unwrap();
        writer.write(START, &line(&left(id, START))).unwrap();
        // Where only its end is missing it is whole after all.
        let more = 2 + usize::from(cut == whole.len() - 1);
        assert_eq!(files.find(&Wanted::Id(id), 9).unwrap().len(), more, "{cut}");
        // Any octets, and lines without an end to them.
        let mut noise = vec![0xff; 3 * LINE_MAX];
        noise.push(b'\n');
        noise.extend_from_slice(b"{\"id\":\"");
        noise.push(b'\n');
        noise.extend_from_slice(&whole[..40]);
        noise.push(b'\n');
        noise.extend_from_slice(&whole);
        std::fs::write(&path, &noise).unwrap();
        assert_eq!(files.find(&Wanted::Id(id), 9).unwrap().len(), 1);
    }
}

/// All files together never take more than they may, and hold the youngest; those too old go.
#[test]
fn bounded_in_size_and_age() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions {
        keep: 3 * DAY,
        size_max: 64 << 10,
    };
    let mut writer = Writer::new(dir.path(), options).unwrap();
    let mut mint = Mint::new(1);
    let mut ids = Vec::new();
    for n in 0..2000_u64 {
        let at = START + Duration::from_secs(n);
        let id = mint.next(at);
        ids.push(id);
        writer.write(at, &line(&accepted(id, at, "x@y"))).unwrap();
        if n % 50 == 0 {
            let files = list(dir.path()).unwrap();
            let total: u64 = files.iter().map(|file| file.size).sum();
            assert!(total <= options.size_max, "{total}");
            assert!(files.iter().all(|file| file.size <= options.size_max / 16));
        }
    }
    let total: u64 = list(dir.path()).unwrap().iter().map(|f| f.size).sum();
    assert!(total > options.size_max / 2, "and not much less: {total}");
    let files = HistoryFiles::new(dir.path());
    let found = |id: &QueueId| files.find(&Wanted::Id(*id), 9).unwrap().len();
    assert_eq!(found(&ids[0]), 0);
    assert!(ids[1900..].iter().all(|id| found(id) == 1));

    // Each day its own file, and those that end before three days ago go.
    for day in 1..10 {
        let at = START + day * DAY;
        writer.write(at, &line(&left(ids[0], at))).unwrap();
    }
    assert_eq!(found(&ids[1999]), 0);
    assert_eq!(found(&ids[0]), 5, "of days 5 to 9");
    writer.tidy(START + 40 * DAY);
    assert!(list(dir.path()).unwrap().is_empty());
    // And it goes on, also where the clock goes back.
    for at in [START + 41 * DAY, START, START + 41 * DAY] {
        writer.write(at, &line(&left(ids[7], at))).unwrap();
    }
    assert_eq!(found(&ids[7]), 3);
}

/// A burst longer than a file, and a line longer than one.
#[test]
fn whole_lines_go_into_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions {
        keep: DAY,
        size_max: 160 << 10,
    };
    let mut writer = Writer::new(dir.path(), options).unwrap();
    let mut mint = Mint::new(1);
    let mut burst = Vec::new();
    let ids: Vec<_> = (0..300).map(|_| mint.next(START)).collect();
    for id in &ids {
        burst.extend(line(&left(*id, START)));
    }
    let long = accepted(ids[0], START, &"x".repeat(20_000));
    burst.extend(line(&long));
    burst.extend(line(&left(ids[1], START)));
    writer.write(START, &burst).unwrap();
    assert!(list(dir.path()).unwrap().len() > 2);
    let files = HistoryFiles::new(dir.path());
    for (n, id) in ids.iter().enumerate() {
        let found = files.find(&Wanted::Id(*id), 9).unwrap();
        assert_eq!(found.len(), 1 + usize::from(n < 2), "{n}");
    }
}

/// What cannot be kept up with is dropped and counted: memory is bounded.
#[test]
fn a_flood_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let history = FileHistory::open(dir.path(), ROOMY).unwrap();
    let stuck = super::lock(&history.0.shared.writer);
    let id = Mint::new(1).next(START);
    let event = accepted(id, START, &"x".repeat(10_000));
    for _ in 0..3000 {
        history.record(event.clone());
    }
    // The thread may have taken one buffer full before it got stuck.
    let pending = super::lock(&history.0.shared.pending).len();
    assert!(pending <= PENDING_MAX);
    assert!(history.dropped() >= 1000, "{}", history.dropped());
    drop(stuck);
    let before = history.dropped();
    history.record(accepted(id, START, &"x".repeat(LINE_MAX)));
    assert_eq!(history.dropped(), before + 1, "too long");
}

/// A message is found among a hundred thousand events, whatever of them is in memory.
#[tokio::test]
async fn found_among_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(dir.path(), ROOMY).unwrap();
    let mut mint = Mint::new(1);
    let mut ids = Vec::new();
    let mut lines = Vec::new();
    for n in 0..50_000_u64 {
        let at = START + Duration::from_millis(n);
        let id = mint.next(at);
        ids.push(id);
        lines.extend(line(&accepted(id, at, &format!("m{n}@a.example"))));
        lines.extend(line(&left(id, at)));
        if n % 1000 == 999 {
            writer.write(at, &lines).unwrap();
            lines.clear();
        }
    }
    let files = HistoryFiles::new(dir.path());
    for n in [0, 777, 49_999] {
        let by_id = files.find(&Wanted::Id(ids[n]), 100).unwrap();
        let by_message = Wanted::MessageId(format!("m{n}@a.example"));
        assert_eq!(by_id.len(), 2);
        assert_eq!(files.find(&by_message, 100).unwrap(), by_id);
    }
    let same = Wanted::MessageId("m@a.example".to_owned());
    assert!(files.find(&same, 100).unwrap().is_empty());
}

/// While the clock is behind what was written last, no more files are made than otherwise: there
/// may be years of that after a start with a wrong clock.
#[test]
fn a_clock_that_goes_back_makes_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(dir.path(), ROOMY).unwrap();
    let mut mint = Mint::new(1);
    let id = mint.next(START);
    let ahead = START + 4000 * DAY;
    writer.write(ahead, &line(&left(id, ahead))).unwrap();
    for n in 0..300 {
        let at = START + Duration::from_secs(n);
        writer.write(at, &line(&left(id, at))).unwrap();
    }
    assert!(list(dir.path()).unwrap().len() <= 2);
    let found = HistoryFiles::new(dir.path()).find(&Wanted::Id(id), 999);
    assert_eq!(found.unwrap().len(), 301);
}
