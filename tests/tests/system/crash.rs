//! kill -9 under load: every message that got its 250 arrives, and arrives whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::dns::TestDns;
use postroad_tests::process::{PATIENCE, free_port, loopback};
use postroad_tests::sink::Sink;
use postroad_tests::site::{Settings, Site};

const KILLS: u64 = 20;
const SENDERS: u64 = 8;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A body that only this message has: lines, dots at their start, sizes from octets to past the
/// size from which bodies get a file of their own.
fn body(number: u64) -> String {
    let mut dice = Dice(number);
    let lines = match dice.below(20) {
        0 => 6000,
        1..4 => 500,
        _ => dice.below(40),
    };
    (0..lines)
        .map(|line| {
            format!(
                "{}{number:08} {line:05} {:x}\r\n",
                if dice.below(9) == 0 { "." } else { "" },
                dice.below(u64::MAX >> 34)
            )
        })
        .collect()
}

/// Sends message after message until told to stop; notes those that got their 250.
async fn sender(
    address: SocketAddr,
    next: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<BTreeSet<u64>>>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut dialogue) = Dialogue::open(address).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let stuffed: String = body(number)
                .split_inclusive('\n')
                .map(|l| {
                    if l.starts_with('.') {
                        format!(".{l}")
                    } else {
                        l.to_owned()
                    }
                })
                .collect();
            let transaction = format!(
                "MAIL FROM:<sender@load.test>\r\nRCPT TO:<m{number}@sink.test>\r\nDATA\r\n"
            );
            let sent = async {
                dialogue.send(transaction).await?;
                dialogue.expect("250").await?;
                dialogue.expect("250").await?;
                dialogue.expect("354").await?;
                dialogue
                    .send(format!("Subject: {number}\r\n\r\n{stuffed}.\r\n"))
                    .await?;
                dialogue.expect("250").await
            };
            if sent.await.is_err() {
                break;
            }
            acknowledged.lock().unwrap().insert(number);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let site = Site::new();
    let dns = TestDns::start().await;
    let sink = Sink::start(free_port(loopback())).await;
    dns.mx("sink.test", 10, "mx.sink.test");
    dns.a("mx.sink.test", sink.address().ip());
    let address = site.port();
    let settings = Settings {
        listeners: vec![("relay", address, "none")],
        domains: &["sink.test"],
        nameserver: Some(dns.address()),
        port: sink.address().port(),
        delivery: "retry = [\"1s\"]",
        ..Settings::default()
    };
    let configuration = site.configure("relay", &settings).unwrap();
    let (next, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            tokio::spawn(sender(
                address,
                Arc::clone(&next),
                Arc::clone(&acknowledged),
                Arc::clone(&stop),
            ))
        })
        .collect();

    let mut dice = Dice(4711);
    for kill in 0..KILLS {
        let before = acknowledged.lock().unwrap().len();
        let service = Site::start_again("postroad-relay", &configuration)
            .await
            .unwrap();
        // A moment at random, but not before the load has got going again.
        tokio::time::timeout(PATIENCE, async {
            while acknowledged.lock().unwrap().len() < before + 5 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap_or_else(|_| {
            panic!(
                "kill {kill}: nothing is accepted:\n{}",
                service.log().lines().join("\n")
            )
        });
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        service.kill().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }

    let service = Site::start_again("postroad-relay", &configuration)
        .await
        .unwrap();
    let acknowledged = acknowledged.lock().unwrap().clone();
    let mut arrived: BTreeMap<u64, u64> = BTreeMap::new();
    let mut seen = 0;
    let all = async {
        while !acknowledged
            .iter()
            .all(|number| arrived.contains_key(number))
        {
            let received = sink.wait_for(seen + 1).await;
            for message in received.iter().skip(seen) {
                let to = message.to.first().unwrap();
                let number: u64 = to
                    .strip_prefix('m')
                    .and_then(|s| s.split('@').next())
                    .unwrap()
                    .parse()
                    .unwrap();
                let text = String::from_utf8_lossy(&message.data);
                let (head, content) = text.split_once("\r\n\r\n").unwrap();
                assert!(head.contains(&format!("Subject: {number}")), "{head}");
                assert!(
                    content == body(number),
                    "message {number} is not whole: {} octets",
                    content.len()
                );
                *arrived.entry(number).or_default() += 1;
            }
            seen = received.len();
        }
    };
    if tokio::time::timeout(PATIENCE * 2, all).await.is_err() {
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|number| !arrived.contains_key(number))
            .collect();
        panic!(
            "lost: {missing:?} of {}; log:\n{}",
            acknowledged.len(),
            service.log().lines().join("\n")
        );
    }
    let duplicates: u64 = arrived.values().map(|n| n - 1).sum();
    println!(
        "{KILLS} kills: {} acknowledged, 0 lost, {duplicates} duplicated, 0 damaged",
        acknowledged.len()
    );
    assert!(acknowledged.len() >= 5 * usize::try_from(KILLS).unwrap());
    assert!(service.terminate().await.unwrap().success());
}
