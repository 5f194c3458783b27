//! Load on a service that is killed again and again, and the count of what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::{Log, PATIENCE};
use postroad_tests::sink::{Received, Sink};
use postroad_tests::site::CREDENTIALS;
use tokio::sync::watch;

/// Lines of the biggest messages: of 25 octets at least, so that their bodies exceed the 256 KiB
/// from which the store gives a body a file of its own.
const LINES_BIG: u64 = 12_000;

/// Numbers that look random and are the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A time below that.
    pub(crate) fn time(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_micros()).unwrap();
        Duration::from_micros(self.below(limit.max(1)))
    }
}

/// How many lines a message has: a few, or hundreds, or more than are kept with the others.
fn lines(dice: &mut Dice) -> u64 {
    match dice.below(20) {
        0 => LINES_BIG,
        1..4 => 500,
        _ => dice.below(40),
    }
}

/// Whether a message's body is of a size that gets a file of its own.
fn is_big(number: u64) -> bool {
    lines(&mut Dice(number)) == LINES_BIG
}

/// A body that only this message has, with dots at the start of some lines.
fn body(number: u64) -> String {
    let mut dice = Dice(number);
    let lines = lines(&mut dice);
    (0..lines)
        .map(|line| {
            format!(
                "{}{number:08} {line:05} {:08x}\r\n",
                if dice.below(9) == 0 { "." } else { "" },
                dice.below(u64::MAX >> 34)
            )
        })
        .collect()
}

/// How the senders reach the service.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// As other servers do.
    Relay(SocketAddr),
    /// As users do: TLS from the first octet, and AUTH.
    Submission(SocketAddr),
}

impl Way {
    async fn open(self) -> anyhow::Result<Dialogue> {
        match self {
            Self::Relay(address) => Dialogue::open(address).await,
            Self::Submission(address) => {
                let mut dialogue = Dialogue::open_tls(address).await?;
                dialogue
                    .say(&format!("AUTH PLAIN {CREDENTIALS}"), "235")
                    .await?;
                Ok(dialogue)
            }
        }
    }
}

/// How many messages have got their 250.
#[derive(Clone, Copy, Default)]
struct Tally {
    all: usize,
    big: usize,
}

/// Senders at work, and the numbers of the messages that got their 250.
pub(crate) struct Load {
    senders: Vec<tokio::task::JoinHandle<()>>,
    acknowledged: watch::Sender<Tally>,
    numbers: Arc<Mutex<BTreeSet<u64>>>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Sets so many senders to work.
    pub(crate) fn start(way: Way, senders: usize) -> Self {
        let next = Arc::new(AtomicU64::new(0));
        let load = Self {
            senders: Vec::new(),
            acknowledged: watch::Sender::default(),
            numbers: Arc::default(),
            stop: watch::Sender::new(false),
        };
        let senders = (0..senders).map(|_| {
            let (next, numbers) = (Arc::clone(&next), Arc::clone(&load.numbers));
            let (acknowledged, mut stop) = (load.acknowledged.clone(), load.stop.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    never = send_for_ever(way, &next, &numbers, &acknowledged) => match never {},
                    _ = stop.wait_for(|&stop| stop) => {}
                }
            })
        });
        Self {
            senders: senders.collect(),
            ..load
        }
    }

    /// How many messages have got their 250.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.borrow().all
    }

    /// Waits until so many have.
    pub(crate) async fn until(&self, count: usize) {
        self.wait(|tally| tally.all >= count).await;
    }

    /// Waits until so many have, and one that is big.
    pub(crate) async fn until_also_big(&self, count: usize) {
        self.wait(|tally| tally.all >= count && tally.big > 0).await;
    }

    async fn wait(&self, enough: impl Fn(&Tally) -> bool) {
        let mut acknowledged = self.acknowledged.subscribe();
        let waiting = tokio::time::timeout(PATIENCE, acknowledged.wait_for(enough));
        let in_time = waiting.await.is_ok();
        assert!(
            in_time,
            "{} accepted, and no more come",
            self.acknowledged()
        );
    }

    /// Ends the load; gives the numbers of the messages that were acknowledged.
    pub(crate) async fn stop(self) -> BTreeSet<u64> {
        self.stop.send_replace(true);
        for sender in self.senders {
            sender.await.unwrap();
        }
        let numbers = self.numbers.lock().unwrap();
        numbers.clone()
    }
}

/// Session after session, message after message; notes those that got their 250.
async fn send_for_ever(
    way: Way,
    next: &AtomicU64,
    numbers: &Mutex<BTreeSet<u64>>,
    acknowledged: &watch::Sender<Tally>,
) -> std::convert::Infallible {
    loop {
        let Ok(mut dialogue) = way.open().await else {
            // A client's pause before it calls again: nobody tells it when the service is back.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if send(&mut dialogue, number).await.is_err() {
                break;
            }
            numbers.lock().unwrap().insert(number);
            acknowledged.send_modify(|tally| {
                tally.all += 1;
                tally.big += usize::from(is_big(number));
            });
        }
    }
}

async fn send(dialogue: &mut Dialogue, number: u64) -> anyhow::Result<()> {
    let stuffed: String = body(number)
        .split_inclusive('\n')
        .flat_map(|line| [if line.starts_with('.') { "." } else { "" }, line])
        .collect();
    dialogue
        .send(format!(
            "MAIL FROM:<sender@load.test>\r\nRCPT TO:<m{number}@sink.test>\r\nDATA\r\n"
        ))
        .await?;
    dialogue.expect("250").await?;
    dialogue.expect("250").await?;
    dialogue.expect("354").await?;
    dialogue
        .send(format!("Subject: {number}\r\n\r\n{stuffed}.\r\n"))
        .await?;
    dialogue.expect("250").await?;
    Ok(())
}

/// The number of a message that has arrived whole.
fn number_of(message: &Received) -> u64 {
    let number: u64 = message.to[0]
        .strip_prefix('m')
        .and_then(|rest| rest.split('@').next())
        .unwrap()
        .parse()
        .unwrap();
    let text = String::from_utf8_lossy(&message.data);
    let (head, content) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("Subject: {number}\r\n"))
            || head.ends_with(&format!("Subject: {number}")),
        "{head}"
    );
    assert!(
        content == body(number),
        "message {number} is not whole: {} octets",
        content.len()
    );
    number
}

/// The lines of a log about messages.
fn mentions<'a>(log: &Log, numbers: impl Iterator<Item = &'a u64>) -> Vec<String> {
    let needles: Vec<_> = numbers.map(|n| format!("m{n}@sink.test")).collect();
    let mut lines = log.lines();
    lines.retain(|line| needles.iter().any(|needle| line.contains(needle)));
    lines
}

/// Waits until every acknowledged message has arrived at the sink, whole; says what is missing
/// where nothing more comes. At most so many have come again.
pub(crate) async fn assert_all_arrive(
    acknowledged: &BTreeSet<u64>,
    sink: &Sink,
    log: &Log,
    repeated_max: u64,
) {
    let mut arrived: BTreeMap<u64, u64> = BTreeMap::new();
    let mut missing = acknowledged.clone();
    while !missing.is_empty() {
        match tokio::time::timeout(PATIENCE, sink.take()).await {
            Ok(messages) => {
                for number in messages.iter().map(number_of) {
                    missing.remove(&number);
                    *arrived.entry(number).or_default() += 1;
                }
            }
            Err(_) => panic!(
                "lost: {missing:?} of {} acknowledged; of the first ones the log has\n{}",
                acknowledged.len(),
                mentions(log, missing.iter().take(10)).join("\n")
            ),
        }
    }
    let big = acknowledged.iter().filter(|&&n| is_big(n)).count();
    assert!(big > 0, "none of the bodies had a file of its own");
    let duplicates: u64 = arrived.values().map(|n| n - 1).sum();
    eprintln!(
        "{} acknowledged ({big} of them big), 0 lost, {duplicates} duplicated (at most {repeated_max} may be), 0 damaged",
        acknowledged.len()
    );
    assert!(
        duplicates <= repeated_max,
        "{duplicates} came again; {repeated_max} can have been in flight"
    );
}
