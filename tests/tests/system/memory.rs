//! What no honest client sends, in amounts: memory stays bounded.

use std::net::SocketAddr;
use std::time::Duration;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::memory::Memory;
use postroad_tests::process::Service;
use postroad_tests::site::Site;

use crate::kept::{self, assert_nothing_kept, transaction};

const MIB: usize = 1 << 20;
/// Growth that a test allows, in MiB: far less than what it sends.
const GROWTH: u64 = 8;

/// The memory of a service that has taken, tried and put away a message, so that what is made at
/// its first message is none of the test's.
async fn memory_when_warm(service: &Service, address: SocketAddr) -> Memory {
    kept::send(address, "warm", "warm@box.test").await;
    service
        .log()
        .wait_for(&["deferred", "warm@box.test"])
        .await
        .unwrap();
    service.memory().unwrap()
}

#[tokio::test]
async fn endless_lines_cost_no_memory() {
    let site = Site::new();
    let (service, address) = kept::relay(&site, "").await;
    let memory = memory_when_warm(&service, address).await;
    let piece = vec![b'x'; MIB];

    let mut dialogue = Dialogue::open(address).await.unwrap();
    for _ in 0..64 {
        dialogue.send(&piece).await.unwrap();
    }
    dialogue.say("", "500 5.5.2").await.unwrap();
    dialogue.say("NOOP", "250 2.0.0").await.unwrap();

    // One line of 40 MiB in a message is within the size limit, and streams.
    transaction(&mut dialogue).await;
    dialogue.send("Subject: long\r\n\r\n").await.unwrap();
    for _ in 0..40 {
        dialogue.send(&piece).await.unwrap();
    }
    dialogue.say("\r\n.", "250 2.0.0").await.unwrap();

    // A header without an end is bounded.
    transaction(&mut dialogue).await;
    for _ in 0..16 {
        dialogue.send(&piece).await.unwrap();
    }
    dialogue.say("\r\n.", "554 5.6.0").await.unwrap();
    dialogue.say("QUIT", "221 2.0.0").await.unwrap();

    memory.assert_grown_below(GROWTH).unwrap();
    assert_eq!(site.queued("relay").await.unwrap(), 2);
}

#[tokio::test]
async fn ten_thousand_recipients() {
    let site = Site::new();
    let (service, address) = kept::relay(&site, "error_delay = \"0s\"\nerrors = 20000").await;
    let memory = memory_when_warm(&service, address).await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    let (mut taken, mut refused) = (0, 0);
    for group in 0..100 {
        let lines: String = (0..100)
            .map(|n| format!("RCPT TO:<user-{group}-{n}@box.test>\r\n"))
            .collect();
        dialogue.send(lines).await.unwrap();
        for _ in 0..100 {
            let reply = dialogue.reply().await.unwrap();
            match reply.get(..9).unwrap_or_default() {
                "250 2.1.5" => taken += 1,
                "452 4.5.3" => refused += 1,
                other => panic!("{other}"),
            }
        }
    }
    assert_eq!((taken, refused), (1000, 9000));
    dialogue.say("DATA", "354").await.unwrap();
    dialogue
        .say("Subject: many\r\n\r\nhello\r\n.", "250 2.0.0")
        .await
        .unwrap();
    assert_eq!(site.queued("relay").await.unwrap(), 2);
    memory.assert_grown_below(GROWTH).unwrap();
}

/// A message over the limit is read to its end, so that its sender learns why, and is no more
/// than that; of one that goes on for ever the end is not waited for.
#[tokio::test]
async fn what_is_too_big_is_not_kept() {
    let site = Site::new();
    let (service, address) = kept::relay(&site, "message_size = \"16MiB\"").await;
    let memory = memory_when_warm(&service, address).await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue
        .say("MAIL FROM:<a@b.test> SIZE=20000000", "552 5.3.4")
        .await
        .unwrap();
    let line = format!("{}\r\n", "x".repeat(MIB - 2));
    transaction(&mut dialogue).await;
    dialogue.send("Subject: big\r\n\r\n").await.unwrap();
    for _ in 0..24 {
        dialogue.send(&line).await.unwrap();
    }
    dialogue.say(".", "552 5.3.4").await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    dialogue.say("RCPT TO:<c@box.test>", "250").await.unwrap();
    dialogue
        .send(format!("BDAT {} LAST\r\n", 24 * line.len()))
        .await
        .unwrap();
    for _ in 0..24 {
        dialogue.send(&line).await.unwrap();
    }
    dialogue.expect("552 5.3.4").await.unwrap();
    dialogue.say("NOOP", "250").await.unwrap();

    transaction(&mut dialogue).await;
    dialogue.send("Subject: endless\r\n\r\n").await.unwrap();
    let mut taken = 0;
    while taken < 1024 && dialogue.send(&line).await.is_ok() {
        taken += 1;
    }
    // What is sent to a closed connection may overtake the reply that stands there.
    if let Ok(words) = dialogue.rest().await {
        assert!(
            words.is_empty() || words.starts_with("552 5.3.4"),
            "{words}"
        );
    }
    assert!(taken < 1024, "{taken} MiB were read");

    memory.assert_grown_below(GROWTH).unwrap();
    let _ = site
        .queue("relay", &["delete", "--to", "warm@box.test"])
        .await
        .unwrap()
        .succeeded();
    assert_nothing_kept(&site).await;
}

/// Sends an octet at a time, ten in a second, until the server has enough; gives its last words.
async fn drip(mut dialogue: Dialogue) -> String {
    loop {
        // The pause is the client's pace; whatever the server says meanwhile ends it.
        let pace = Duration::from_millis(100);
        match tokio::time::timeout(pace, dialogue.reply()).await {
            Ok(reply) => return reply.unwrap(),
            Err(_) if dialogue.send("N").await.is_ok() => {}
            // Closed already; what it said before is still to be read.
            Err(_) => return dialogue.rest().await.unwrap(),
        }
    }
}

/// Octets now and then keep every wait short; the session ends all the same.
#[tokio::test]
async fn slow_drips_do_not_outlast_the_session() {
    const CLIENTS: usize = 20;
    let site = Site::new();
    let (service, address) = kept::relay(&site, "session_timeout = \"5s\"").await;
    let memory = memory_when_warm(&service, address).await;
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let mut dialogue = Dialogue::open(address).await.unwrap();
        // Some in a command line, some in the header, some in a body of a file's size.
        if n % 3 > 0 {
            transaction(&mut dialogue).await;
        }
        if n % 3 > 1 {
            let start = format!("Subject: slow\r\n\r\n{}", "x".repeat(300 << 10));
            dialogue.send(start).await.unwrap();
        }
        clients.spawn(drip(dialogue));
    }
    for words in clients.join_all().await {
        assert!(words.starts_with("421 4.4.2"), "{words}");
    }
    memory.assert_grown_below(GROWTH).unwrap();
    let _ = site
        .queue("relay", &["delete", "--to", "warm@box.test"])
        .await
        .unwrap()
        .succeeded();
    assert_nothing_kept(&site).await;
    assert!(service.terminate().await.unwrap().success());
}
