//! A full disk: new mail is refused for now, what was accepted arrives once and whole, and there is
//! no restart in it: once there is room, mail is taken again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use postroad_tests::account::Account;
use postroad_tests::dialogue::Dialogue;
use postroad_tests::disk::{free, small};
use postroad_tests::http::ask_unix;
use postroad_tests::letters::{LINES_BIG, Letter};
use postroad_tests::process::{PATIENCE, Service};
use postroad_tests::sink::Sink;
use postroad_tests::site::{Settings, Site};

const FULL: &str = "452 4.3.1 ";
const MIB: u64 = 1 << 20;
/// A segment of the log takes all its 64 MiB when it is made: so much of a disk is left for
/// everything else.
const SEGMENT_MIB: u64 = 64;
/// Lines of a body of a quarter of a MiB that still goes to the log.
const LINES_INLINE: u64 = 10_000;
/// Lines of a body of a MiB.
const LINES_MIB: u64 = 40_000;

/// A relay whose queue is on a disk of its own, and what it has accepted.
struct Relay {
    site: Site,
    sink: Sink,
    service: Service,
    address: SocketAddr,
    queue: PathBuf,
    next: u64,
    accepted: BTreeSet<Letter>,
}

/// What a server says to a letter.
#[derive(Debug)]
enum Answer {
    Accepted,
    /// In place of the 354.
    ToData(String),
    ToTheEnd(String),
}

async fn offer(dialogue: &mut Dialogue, letter: &Letter) -> Answer {
    let to = format!("RCPT TO:<{}>", letter.address());
    let from = "MAIL FROM:<sender@load.test>";
    for (line, start) in [(from, "250 2.1.0"), (&to, "250 2.1.5")] {
        dialogue.say(line, start).await.unwrap();
    }
    dialogue.send("DATA\r\n").await.unwrap();
    let reply = dialogue.reply().await.unwrap();
    if !reply.starts_with("354") {
        return Answer::ToData(reply);
    }
    let reply = letter.send_content(dialogue).await.unwrap();
    if reply.starts_with("250 2.0.0") {
        Answer::Accepted
    } else {
        Answer::ToTheEnd(reply)
    }
}

impl Relay {
    /// One with a disk that has room for so much besides a segment. Its next hop takes nothing
    /// yet: for each recipient it says to come again, since one that does not answer at all would
    /// be left alone for a minute.
    async fn start(room_mib: u64, min_free: &str) -> Self {
        let site = Site::new();
        let sink = Sink::start(site.port()).await;
        sink.reply_always("RCPT", "451 4.2.0 not now");
        let (address, queue) = (site.port(), site.path("queue-relay"));
        let settings = Settings {
            listeners: vec![("relay", address, "none")],
            domains: &["sink.test"],
            routes: vec![("*", format!("smtp://{}", sink.address()))],
            delivery: "retry = [\"2s\"]",
            limits: &format!("min_free = {min_free}"),
            ..Settings::default()
        };
        let configuration = site.configure("relay", &settings).unwrap();
        let disk = small(&queue, SEGMENT_MIB + room_mib).await.unwrap();
        let arguments = ["--config", &configuration];
        let started = Service::spawn_by(&disk, "postroad-relay", &arguments, &[]).unwrap();
        let service = started.ready().await.unwrap();
        let outside = queue.strip_prefix("/").unwrap();
        let queue = service.root().unwrap().join(outside);
        assert!(queue.join("FORMAT").exists() && !site.path("queue-relay/FORMAT").exists());
        Self {
            site,
            sink,
            service,
            address,
            queue,
            next: 0,
            accepted: BTreeSet::new(),
        }
    }

    async fn open(&self) -> Dialogue {
        Dialogue::open(self.address).await.unwrap()
    }

    /// Offers a letter of so many lines; notes whether it was accepted.
    async fn offer(&mut self, dialogue: &mut Dialogue, lines: u64) -> Answer {
        let letter = Letter {
            number: self.next,
            lines,
            late: false,
        };
        self.next += 1;
        let answer = offer(dialogue, &letter).await;
        if matches!(answer, Answer::Accepted) {
            self.accepted.insert(letter);
        }
        answer
    }

    /// Offers such letters, in one session, until one is refused.
    async fn until_refused(&mut self, lines: u64) -> Answer {
        let mut dialogue = self.open().await;
        loop {
            match self.offer(&mut dialogue, lines).await {
                Answer::Accepted => {}
                refused => return refused,
            }
        }
    }

    /// Offers such letters, each in a session of its own, until one is accepted.
    async fn until_accepted(&mut self, lines: u64) {
        let accepted = async {
            loop {
                let mut dialogue = self.open().await;
                match self.offer(&mut dialogue, lines).await {
                    Answer::Accepted => return,
                    Answer::ToData(reply) | Answer::ToTheEnd(reply) => {
                        assert!(reply.starts_with(FULL), "{reply}");
                    }
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, accepted).await;
        assert!(waited.is_ok(), "it takes no mail again");
    }

    /// What it says of its health: it answers, whatever is wrong.
    async fn health(&self) -> String {
        let socket = self.site.path("relay.sock");
        ask_unix(&socket, "GET /health").await.unwrap()
    }

    /// Waits until it says that something is wrong, and what.
    async fn until_fault(&self, needles: &[&str]) {
        self.until_health("HTTP/1.1 503 ", needles).await;
    }

    async fn until_health(&self, start: &str, needles: &[&str]) {
        let said = async {
            loop {
                let health = self.health().await;
                if health.starts_with(start) && needles.iter().all(|n| health.contains(n)) {
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, said).await.is_err() {
            panic!("not {start} with {needles:?}: {}", self.health().await);
        }
    }

    /// Bodies that have files of their own are those of so many letters.
    async fn until_bodies(&self, count: usize) {
        let bodies = || std::fs::read_dir(self.queue.join("big")).unwrap().count();
        let there = async {
            while bodies() != count {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, there).await;
        assert!(waited.is_ok(), "{} bodies, not {count}", bodies());
    }

    /// The next hop takes mail from now on: what was accepted arrives once, whole, and nothing
    /// else does.
    async fn assert_all_arrive(self) {
        self.sink.reply_usual("RCPT");
        let mut account = Account::of(self.accepted.clone());
        account.collect(&self.sink).await;
        let empty = async { while self.site.queued("relay").await.unwrap() > 0 {} };
        let waited = tokio::time::timeout(PATIENCE, empty).await;
        assert!(waited.is_ok(), "letters stay in the queue");
        account.count(&self.sink.take_now());
        self.until_health("HTTP/1.1 200 ", &["\"status\":\"ok\""])
            .await;
        self.until_bodies(0).await;
        eprintln!("{account}");
        account.check(0, self.service.log()).unwrap();
        assert_eq!(account.unasked(), []);
        assert!(self.service.terminate().await.unwrap().success());
    }
}

fn is_to_the_end(answer: &Answer) -> bool {
    matches!(answer, Answer::ToTheEnd(reply) if reply.starts_with(FULL))
}

fn is_to_data(answer: &Answer) -> bool {
    matches!(answer, Answer::ToData(reply) if reply.starts_with(FULL))
}

/// The log's segment is used up, and so is all room for others, also small ones; the queue makes
/// room by itself, on a disk without an octet left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_for_another_segment() {
    let mut relay = Relay::start(32, "0").await;
    let refused = relay.until_refused(LINES_INLINE).await;
    assert!(is_to_the_end(&refused), "{refused:?}");
    assert!(relay.accepted.len() > 200, "{}", relay.accepted.len());
    let full = ["cannot be kept", "queue-relay", "is full", "No space left"];
    relay.service.log().wait_for(&full).await.unwrap();
    // Nor are others taken, small or large, and nothing of them stays.
    let mut dialogue = relay.open().await;
    for lines in [LINES_MIB, LINES_BIG] {
        let refused = relay.until_refused(lines).await;
        assert!(is_to_the_end(&refused), "{lines}: {refused:?}");
    }
    let refused = relay.offer(&mut dialogue, LINES_MIB).await;
    assert!(is_to_the_end(&refused), "{refused:?}");
    let bodies = relay.accepted.iter().filter(|l| l.is_big()).count();
    relay.until_bodies(bodies).await;
    relay
        .until_fault(&["queue-relay", "is full", "No space left"])
        .await;
    // Room comes from the queue itself.
    relay.sink.reply_usual("RCPT");
    relay.until_accepted(3).await;
    relay.until_accepted(LINES_MIB).await;
    relay.assert_all_arrive().await;
}

/// A message that is larger than what is left: refused at its end, and nothing of it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_the_room() {
    let mut relay = Relay::start(8, "'1MiB'").await;
    let mut dialogue = relay.open().await;
    relay.until_accepted(3).await;
    let refused = relay.offer(&mut dialogue, 12 * LINES_MIB).await;
    assert!(is_to_the_end(&refused), "{refused:?}");
    relay.until_bodies(0).await;
    let full = ["cannot be kept", "queue-relay/big/", "is full"];
    relay.service.log().wait_for(&full).await.unwrap();
    // The session goes on; that there is room again is noticed within a second.
    relay.until_accepted(LINES_MIB).await;
    let accepted = relay.offer(&mut dialogue, LINES_BIG).await;
    assert!(matches!(accepted, Answer::Accepted), "{accepted:?}");
    relay.until_bodies(2).await;
    relay.assert_all_arrive().await;
}

/// Below `limits.min_free` the refusal comes before the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_low_water_mark() {
    let mut relay = Relay::start(32, "'16MiB'").await;
    let ballast = relay.queue.join("ballast");
    std::fs::write(&ballast, vec![0; 10 << 20]).unwrap();
    let mut dialogue = relay.open().await;
    while free(&relay.queue).unwrap() >= 16 * MIB {
        let accepted = relay.offer(&mut dialogue, LINES_MIB).await;
        assert!(matches!(accepted, Answer::Accepted), "{accepted:?}");
    }
    // That is noticed within a second; small ones take none of the room that is left.
    let refused = relay.until_refused(3).await;
    assert!(is_to_data(&refused), "{refused:?}");
    let bodies = relay.accepted.iter().filter(|l| l.is_big()).count();
    let must = ["too little space is free", "queue-relay", "make room"];
    relay.service.log().wait_for(&must).await.unwrap();
    for lines in [0, LINES_INLINE, LINES_MIB] {
        let refused = relay.offer(&mut dialogue, lines).await;
        assert!(is_to_data(&refused), "{lines}: {refused:?}");
    }
    relay.until_bodies(bodies).await;
    relay.until_fault(&["new mail is refused", "must be"]).await;
    // Room comes from somebody else, while nothing of the queue leaves.
    std::fs::remove_file(&ballast).unwrap();
    relay.until_accepted(3).await;
    relay.until_accepted(LINES_BIG).await;
    relay.until_bodies(bodies + 1).await;
    relay.assert_all_arrive().await;
}

/// With no mark to stop at, down to the last octet: the log has its room all the same, and goes
/// on; what becomes of its messages has none, and still each goes out once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_an_octet_left() {
    let mut relay = Relay::start(12, "0").await;
    relay.until_accepted(3).await;
    let ballast = relay.queue.join("ballast");
    std::fs::write(&ballast, vec![0; 4 << 20]).unwrap();
    for lines in [LINES_MIB, LINES_BIG] {
        let refused = relay.until_refused(lines).await;
        assert!(is_to_the_end(&refused), "{refused:?}");
    }
    let bodies = relay.accepted.iter().filter(|l| l.is_big()).count();
    relay.until_bodies(bodies).await;
    // The rest, by the page.
    let rest = std::fs::File::create(relay.queue.join("rest")).unwrap();
    let page = vec![0; 4096];
    while std::io::Write::write_all(&mut &rest, &page).is_ok() {}
    let mut dialogue = relay.open().await;
    for _ in 0..20 {
        let accepted = relay.offer(&mut dialogue, 20).await;
        assert!(matches!(accepted, Answer::Accepted), "{accepted:?}");
    }
    // The reserve was given up for what became of those, and is used up as well.
    while std::io::Write::write_all(&mut &rest, &page).is_ok() {}
    let refused = relay.until_refused(LINES_BIG).await;
    assert!(is_to_the_end(&refused), "{refused:?}");
    relay.until_fault(&["queue-relay", "is full"]).await;
    // All are tried once more on the full disk.
    let last = relay.accepted.last().unwrap().address();
    let tried = ["deferred", last.as_str()];
    relay.service.log().wait_for_many(2, &tried).await.unwrap();
    std::fs::remove_file(&ballast).unwrap();
    relay.until_accepted(LINES_BIG).await;
    relay.assert_all_arrive().await;
}
