//! What no honest client sends. A service answers with the right code, and keeps nothing.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::site::Site;

use crate::kept::{assert_nothing_kept, relay, transaction};

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
    assert_nothing_kept(&site).await;
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test]
async fn whoever_stops_half_way_leaves_nothing() {
    let site = Site::new();
    let (service, address) = relay(&site, "data_timeout = \"4s\"\ncommand_timeout = \"4s\"").await;

    // Half-closed in mid data, and closed for good.
    for half in [true, false] {
        let mut dialogue = Dialogue::open(address).await.unwrap();
        transaction(&mut dialogue).await;
        dialogue
            .send(format!("Subject: cut\r\n\r\n{}", "x".repeat(1 << 20)))
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
    let mut in_data = Dialogue::open(address).await.unwrap();
    transaction(&mut in_data).await;
    let mut at_command = Dialogue::open(address).await.unwrap();
    in_data.expect("421 4.4.2").await.unwrap();
    at_command.expect("421 4.4.2").await.unwrap();
    assert_eq!(at_command.rest().await.unwrap(), "");

    assert_nothing_kept(&site).await;
    assert!(service.terminate().await.unwrap().success());
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
