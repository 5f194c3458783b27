//! What no honest client sends. A service answers with the right code, keeps its memory, keeps nothing.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::Service;
use postroad_tests::site::{Settings, Site};
use std::net::SocketAddr;

const MIB: usize = 1 << 20;

async fn relay(site: &Site, limits: &str) -> (Service, SocketAddr) {
    let address = site.port();
    let settings = Settings {
        listeners: vec![("relay", address, "starttls")],
        domains: &["box.test"],
        // Nothing leaves: what was wrongly kept stays to be counted.
        routes: vec![("*", "defer 4.2.0 held for the test".to_owned())],
        limits,
        ..Settings::default()
    };
    (
        site.start("postroad-relay", "relay", &settings)
            .await
            .unwrap(),
        address,
    )
}

async fn transaction(dialogue: &mut Dialogue) {
    dialogue
        .say("MAIL FROM:<a@b.test>", "250 2.1.0")
        .await
        .unwrap();
    dialogue
        .say("RCPT TO:<c@box.test>", "250 2.1.5")
        .await
        .unwrap();
    dialogue.say("DATA", "354").await.unwrap();
}

#[tokio::test]
async fn endless_lines_cost_no_memory() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    let before = service.peak_memory().unwrap();
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
    dialogue.say("QUIT", "221 2.2.0").await.unwrap();

    let grown = service.peak_memory().unwrap() - before;
    assert!(grown < 24 * MIB as u64, "{} MiB more", grown >> 20);
    assert_eq!(site.queued("relay").await.unwrap(), 1);
}

#[tokio::test]
async fn bad_octets_get_their_codes() {
    let site = Site::new();
    let (service, address) = relay(&site, "error_delay = \"0s\"").await;
    for (line, code) in [
        (&b"NOOP\x00\r\n"[..], "500 5.5.2"),
        (b"NO\x80OP\r\n", "500 5.5."),
        (b"MAIL FROM:<\xff@b.test>\r\n", "50"),
        (b"NOOP\n", "500 5.5.2"),
        (b"NO\rOP\r\n", "500 5.5.2"),
        (b"\r\n", "500 5.5."),
        (b"MAIL FROM:<\xc3\xbc@b.test>\r\n", "553 5.6.7"),
    ] {
        let mut dialogue = Dialogue::open(address).await.unwrap();
        dialogue.send(line).await.unwrap();
        let reply = dialogue.reply().await.unwrap();
        assert!(
            reply.starts_with(code),
            "{:?}: {reply}",
            String::from_utf8_lossy(line)
        );
        let noop = dialogue.say("NOOP", "250 2.0.0").await;
        assert!(
            noop.is_ok(),
            "{:?}: {noop:?}",
            String::from_utf8_lossy(line)
        );
    }
    let mut dialogue = Dialogue::open(address).await.unwrap();
    transaction(&mut dialogue).await;
    dialogue
        .send("Subject: nul\r\n\r\na\0b\r\n.\r\n")
        .await
        .unwrap();
    dialogue.expect("554 5.6.0").await.unwrap();
    assert_eq!(site.queued("relay").await.unwrap(), 0);
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test]
async fn whoever_stops_half_way_leaves_nothing() {
    let site = Site::new();
    let (service, address) = relay(&site, "data_timeout = \"1s\"\ncommand_timeout = \"1s\"").await;

    // Half-closed in mid data, and closed for good.
    for half in [true, false] {
        let mut dialogue = Dialogue::open(address).await.unwrap();
        transaction(&mut dialogue).await;
        dialogue
            .send(format!("Subject: cut\r\n\r\n{}", "x".repeat(MIB)))
            .await
            .unwrap();
        if half {
            dialogue.finish().await.unwrap();
            let rest = dialogue.rest().await.unwrap();
            assert!(!rest.contains("250"), "{rest}");
        }
    }
    // In mid chunk.
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    dialogue.say("RCPT TO:<c@box.test>", "250").await.unwrap();
    dialogue
        .send("BDAT 100 LAST\r\nSubject: cut")
        .await
        .unwrap();
    dialogue.finish().await.unwrap();
    assert!(!dialogue.rest().await.unwrap().contains("250"));
    // A half-closed client still gets the replies to what it sent before.
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.send("NOOP\r\nNOOP\r\n").await.unwrap();
    dialogue.finish().await.unwrap();
    assert_eq!(
        dialogue.rest().await.unwrap().matches("250 2.0.0").count(),
        2
    );
    // Silent, in data and at a command.
    let mut dialogue = Dialogue::open(address).await.unwrap();
    transaction(&mut dialogue).await;
    dialogue.expect("421 4.4.2").await.unwrap();
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.expect("421 4.4.2").await.unwrap();
    assert_eq!(dialogue.rest().await.unwrap(), "");

    assert_eq!(site.queued("relay").await.unwrap(), 0);
    assert!(std::fs::read_dir(site.path("queue-relay/big")).map_or(0, Iterator::count) == 0);
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test]
async fn a_slow_drip_does_not_outlast_the_session() {
    let site = Site::new();
    let (_service, address) = relay(&site, "session_timeout = \"2s\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    // An octet now and then keeps every wait short, the session ends all the same.
    let drip = async {
        for _ in 0..600 {
            if dialogue.send("N").await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            if let Ok(reply) =
                tokio::time::timeout(std::time::Duration::from_millis(1), dialogue.reply()).await
            {
                return reply.unwrap_or_default();
            }
        }
        String::new()
    };
    let reply = drip.await;
    assert!(reply.starts_with("421 4.4.2"), "{reply}");
}

#[tokio::test]
async fn ten_thousand_recipients() {
    let site = Site::new();
    let (service, address) = relay(&site, "error_delay = \"0s\"\nerrors = 20000").await;
    let before = service.peak_memory().unwrap();
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
    assert_eq!(site.queued("relay").await.unwrap(), 1);
    assert!(service.peak_memory().unwrap() - before < 16 * MIB as u64);
}

#[tokio::test]
async fn too_big_is_said_early_and_late() {
    let site = Site::new();
    let (_service, address) = relay(&site, "message_size = \"1MiB\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue
        .say("MAIL FROM:<a@b.test> SIZE=2000000", "552 5.3.4")
        .await
        .unwrap();
    transaction(&mut dialogue).await;
    dialogue.send("Subject: big\r\n\r\n").await.unwrap();
    for _ in 0..3 {
        dialogue
            .send(format!("{}\r\n", "x".repeat(MIB)))
            .await
            .unwrap();
    }
    dialogue.say(".", "552 5.3.4").await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    dialogue.say("RCPT TO:<c@box.test>", "250").await.unwrap();
    dialogue
        .send(format!("BDAT {} LAST\r\n{}", 2 * MIB, "x".repeat(2 * MIB)))
        .await
        .unwrap();
    dialogue.expect("552 5.3.4").await.unwrap();
    dialogue.say("NOOP", "250").await.unwrap();
    assert_eq!(site.queued("relay").await.unwrap(), 0);
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
    assert!(rest.contains("421 4.7.0"), "{rest}");
}

#[tokio::test]
async fn early_talkers_are_refused() {
    let site = Site::new();
    let (_service, address) = relay(&site, "").await;
    // Whether the octets arrive before the greeting leaves is the network's choice: try until they do.
    for _ in 0..200 {
        let mut dialogue = Dialogue::connect(address).await.unwrap();
        let _ = dialogue.send("EHLO early.test\r\n").await;
        let reply = dialogue.reply().await.unwrap();
        if reply.starts_with("554 5.5.0") {
            return;
        }
    }
    panic!("never noticed");
}

#[tokio::test]
async fn loops_end_and_the_postmaster_is_always_there() {
    let site = Site::new();
    let (_service, address) = relay(&site, "").await;
    for (hops, code) in [(99, "250 2.0.0"), (100, "554 5.4.6")] {
        let mut dialogue = Dialogue::open(address).await.unwrap();
        transaction(&mut dialogue).await;
        dialogue
            .send("Received: from a by b; Tue, 24 Nov 2026 12:49:01 +0000\r\n".repeat(hops))
            .await
            .unwrap();
        dialogue
            .say("Subject: around\r\n\r\nand around\r\n.", code)
            .await
            .unwrap();
    }
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    dialogue
        .say("RCPT TO:<Postmaster>", "250 2.1.5")
        .await
        .unwrap();
    dialogue
        .say("RCPT TO:<postmaster@relay.test>", "250 2.1.5")
        .await
        .unwrap();
    // Neither another's postmaster, nor a way around.
    for other in [
        "postmaster@other.test",
        "user%other.test@relay.test",
        "\"user@other.test\"@relay.test",
        "user@[127.0.0.1]",
    ] {
        dialogue
            .say(&format!("RCPT TO:<{other}>"), "550 5.7.1")
            .await
            .unwrap();
    }
    dialogue
        .say("RCPT TO:<@other.test:c@box.test>", "250 2.1.5")
        .await
        .unwrap();
    dialogue.say("DATA", "354").await.unwrap();
    dialogue
        .say("Subject: x\r\n\r\nx\r\n.", "250 2.0.0")
        .await
        .unwrap();
    let listed = site
        .queue(
            "relay",
            &["list", "--to", "postmaster@admin.test", "--json"],
        )
        .await
        .unwrap()
        .succeeded();
    assert_eq!(listed.output.lines().count(), 1, "{}", listed.output);
}
