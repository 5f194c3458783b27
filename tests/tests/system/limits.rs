//! Bounds on connections and errors, across connections.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::{PATIENCE, Signal};
use postroad_tests::site::Site;

use crate::kept::{assert_nothing_kept, relay, transaction};

const TOO_MANY: &str = "421 4.7.0";

/// Connects until the greeting starts with `start`: a connection that has just ended gives its
/// place back, and its errors, a moment after its client knows.
async fn until_greeted(address: SocketAddr, start: &str) -> Dialogue {
    let greeted = async {
        loop {
            let mut dialogue = Dialogue::connect(address).await.unwrap();
            if dialogue.reply().await.unwrap().starts_with(start) {
                return dialogue;
            }
        }
    };
    tokio::time::timeout(PATIENCE, greeted)
        .await
        .unwrap_or_else(|_| panic!("never greeted with {start}"))
}

#[tokio::test]
async fn connections_in_all_and_by_address() {
    for limit in ["connections = 2", "connections_per_address = 2"] {
        let site = Site::new();
        let (service, address) = relay(&site, limit).await;
        let mut first = Dialogue::open(address).await.unwrap();
        let mut second = Dialogue::open(address).await.unwrap();
        for _ in 0..3 {
            let mut third = Dialogue::connect(address).await.unwrap();
            third.expect(TOO_MANY).await.unwrap();
            assert_eq!(third.rest().await.unwrap(), "", "{limit}");
        }
        // Those who are in are served all the same, and whoever leaves makes room.
        second.say("NOOP", "250 2.0.0").await.unwrap();
        first.say("QUIT", "221 2.0.0").await.unwrap();
        assert_eq!(first.rest().await.unwrap(), "");
        let mut third = until_greeted(address, "220").await;
        third.say("EHLO third.test", "250").await.unwrap();
        second.say("QUIT", "221 2.0.0").await.unwrap();
        third.say("QUIT", "221 2.0.0").await.unwrap();
        assert!(service.terminate().await.unwrap().success());
    }
}

#[tokio::test]
async fn errors_end_the_session() {
    let site = Site::new();
    let (_service, address) = relay(&site, "errors = 5\nerror_delay = \"0s\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    for _ in 0..4 {
        dialogue.say("WHAT", "500 5.5.1").await.unwrap();
    }
    dialogue.send("WHAT\r\n").await.unwrap();
    let rest = dialogue.rest().await.unwrap();
    assert!(rest.contains(TOO_MANY), "{rest}");
}

/// So do recipients that are refused, which is how addresses are guessed.
#[tokio::test]
async fn refused_recipients_end_the_session() {
    let site = Site::new();
    let (_service, address) = relay(&site, "errors = 5\nerror_delay = \"0s\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    for n in 0..4 {
        let line = format!("RCPT TO:<user{n}@other.test>");
        dialogue.say(&line, "550 5.7.1").await.unwrap();
    }
    dialogue
        .send("RCPT TO:<user@other.test>\r\n")
        .await
        .unwrap();
    let rest = dialogue.rest().await.unwrap();
    assert!(rest.contains(TOO_MANY), "{rest}");
}

#[tokio::test]
async fn errors_of_an_address_outlive_its_connections() {
    let site = Site::new();
    // One error is forgiven every 6 s: far more are made than the limit has.
    let limits = "errors_per_address = 4\nerrors = 100\nerror_delay = \"0s\"";
    let (service, address) = relay(&site, limits).await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    for _ in 0..40 {
        dialogue.say("WHAT", "500 5.5.1").await.unwrap();
    }
    dialogue.say("QUIT", "221 2.0.0").await.unwrap();
    let mut refused = until_greeted(address, TOO_MANY).await;
    assert_eq!(refused.rest().await.unwrap(), "");
    service
        .log()
        .wait_for(&["connection refused", "Errors"])
        .await
        .unwrap();
}

/// What was sent before the greeting left is answered by 554 and the end, and counts as an error.
#[tokio::test]
async fn early_talkers_are_refused_and_counted() {
    let site = Site::new();
    let (service, address) = relay(&site, "errors_per_address = 4").await;
    // While the service stands still the system accepts for it, so that every octet is there
    // before the greeting.
    service.pause().unwrap();
    let mut early = Vec::new();
    for _ in 0..8 {
        let mut dialogue = Dialogue::connect(address).await.unwrap();
        dialogue.send("EHLO early.test\r\n").await.unwrap();
        early.push(dialogue);
    }
    service.signal(Signal::SIGCONT).unwrap();
    let (mut refused, mut shut_out) = (0, 0);
    for mut dialogue in early {
        let words = dialogue.rest().await.unwrap();
        assert_eq!(words.lines().count(), 1, "{words}");
        // Those that are looked at when the first have been counted do not get as far.
        refused += usize::from(words.starts_with("554 5.5.0"));
        shut_out += usize::from(words.starts_with(TOO_MANY));
    }
    assert_eq!(refused + shut_out, 8);
    assert!(refused >= 4, "{refused}");
    if shut_out == 0 {
        until_greeted(address, TOO_MANY).await;
    }
}

/// Below the free space that is to be left, mail is put off before it is sent; what is there is not touched.
#[tokio::test]
async fn a_disk_that_is_nearly_full() {
    let site = Site::new();
    // More than any disk of a test machine has.
    let (service, address) = relay(&site, "min_free = 1000000000000000000").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue
        .send("MAIL FROM:<a@b.test>\r\nRCPT TO:<c@box.test>\r\nDATA\r\n")
        .await
        .unwrap();
    let mut replies = Vec::new();
    for _ in 0..3 {
        replies.push(dialogue.reply().await.unwrap());
    }
    if replies.iter().all(|reply| !reply.starts_with("452 4.3.1")) {
        assert!(replies[2].starts_with("354"), "{replies:?}");
        dialogue
            .say("Subject: x\r\n\r\nx\r\n.", "452 4.3.1")
            .await
            .unwrap();
    }
    dialogue.say("NOOP", "250 2.0.0").await.unwrap();
    assert_nothing_kept(&site).await;
    assert!(service.terminate().await.unwrap().success());
}

/// A queue that cannot be written is a reason of ours: 451, and nothing is promised.
#[tokio::test]
async fn a_queue_that_cannot_be_written() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    let big = site.path("queue-relay/big");
    std::fs::remove_dir(&big).unwrap();
    let line = format!("{}\r\n", "x".repeat(998));
    for code in ["451 4.3.0", "250 2.0.0"] {
        transaction(&mut dialogue).await;
        dialogue.send("Subject: big\r\n\r\n").await.unwrap();
        dialogue.send(line.repeat(400)).await.unwrap();
        dialogue.say(".", code).await.unwrap();
        // The cause is gone: so is the failure.
        let _ = std::fs::create_dir(&big);
    }
    assert_eq!(site.queued("relay").await.unwrap(), 1);
    assert!(service.terminate().await.unwrap().success());
}
