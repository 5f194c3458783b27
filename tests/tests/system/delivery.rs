//! The relay against next hops of every temper.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::peers::parse_dsn;
use postroad_tests::process::loopback;
use postroad_tests::sink::Sink;

use crate::world::World;

#[tokio::test]
async fn a_4xx_then_a_250() {
    let world = World::new("retry = [\"1s\"]").await;
    let sink = world.domain("grey.test").await;
    sink.reply_once("RCPT", "451 4.7.1 greylisted, come back");
    world.send(&["<bob@grey.test>"], "").await;
    let received = sink.wait_for(1).await;
    assert_eq!(received[0].to, ["bob@grey.test"]);
    let line = world.log(&["deferred", "bob@grey.test"]).await;
    assert!(line.contains("451 4.7.1 greylisted"), "{line}");
    let line = world.log(&["delivered", "bob@grey.test"]).await;
    assert!(
        line.contains("mx.grey.test") && line.contains("me@sender.test"),
        "{line}"
    );
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn a_5xx_yields_a_notice() {
    let world = World::new("").await;
    let sink = world.domain("no.test").await;
    sink.reply_always("RCPT TO:<bob@no.test>", "550 5.1.1 no Bob here");
    world
        .send(
            &[
                "<bob@no.test> NOTIFY=FAILURE ORCPT=rfc822;robert+2Bx@no.test",
                "<ann@no.test>",
            ],
            " RET=HDRS ENVID=env+2B1",
        )
        .await;
    let (_, dsn) = world.notice().await;
    assert_eq!(dsn["message"]["reporting-mta"], "dns; relay.test");
    assert_eq!(dsn["message"]["original-envelope-id"], "env+1");
    assert!(dsn["message"]["arrival-date"].is_string());
    let recipients = dsn["recipients"].as_array().unwrap();
    assert_eq!(recipients.len(), 1, "{recipients:?}");
    let bob = &recipients[0];
    assert_eq!(bob["final-recipient"], "rfc822; bob@no.test");
    assert_eq!(bob["original-recipient"], "rfc822; robert+x@no.test");
    assert_eq!(bob["action"], "failed");
    assert_eq!(bob["status"], "5.1.1");
    assert_eq!(bob["remote-mta"], "dns; mx.no.test");
    assert!(
        bob["diagnostic-code"]
            .as_str()
            .unwrap()
            .contains("550 5.1.1 no Bob here")
    );
    let text = dsn["text"].as_str().unwrap();
    assert!(
        text.contains("bob@no.test") && text.contains("no Bob here"),
        "{text}"
    );
    assert_eq!(dsn["parts"][2], "text/rfc822-headers");
    assert!(
        dsn["returned"]
            .as_str()
            .unwrap()
            .contains("Message-ID: <1@sender.test>")
    );
    assert_eq!(
        dsn["headers"]["auto-submitted"]
            .as_str()
            .unwrap()
            .split(';')
            .next(),
        Some("auto-replied")
    );
    // The other recipient of the same message has it.
    assert_eq!(sink.wait_for(1).await[0].to, ["ann@no.test"]);
}

#[tokio::test]
async fn no_notice_where_none_is_wanted_or_possible() {
    let world = World::new("").await;
    let sink = world.domain("no.test").await;
    sink.reply_always("RCPT", "550 5.1.1 nobody");
    world.send(&["<bob@no.test> NOTIFY=NEVER"], "").await;
    let mut dialogue = Dialogue::open(world.address).await.unwrap();
    dialogue.say("MAIL FROM:<>", "250").await.unwrap();
    dialogue.say("RCPT TO:<ann@no.test>", "250").await.unwrap();
    dialogue.say("DATA", "354").await.unwrap();
    dialogue
        .say("Subject: a bounce\r\n\r\nhello\r\n.", "250 2.0.0")
        .await
        .unwrap();
    world.log(&["failed", "bob@no.test"]).await;
    world.log(&["failed", "ann@no.test"]).await;
    // A third message, with a notice, shows that the first two have none.
    world.send(&["<eve@no.test>"], "").await;
    let (notice, dsn) = world.notice().await;
    assert_eq!(
        dsn["recipients"][0]["final-recipient"],
        "rfc822; eve@no.test"
    );
    assert_eq!(world.sender.received(), [notice]);
}

#[tokio::test]
async fn a_message_that_is_late_is_said_to_be_and_given_up_at_last() {
    let world = World::new("retry = [\"1s\"]\nexpire = \"17s\"\nwarn_after = \"1s\"").await;
    let sink = world.domain("slow.test").await;
    sink.reply_always("RCPT", "450 4.2.0 not today");
    world.send(&["<bob@slow.test>"], "").await;
    let notices = world.sender.wait_for(2).await;
    let delayed = parse_dsn(&notices[0].data).await.unwrap();
    assert_eq!(delayed["recipients"][0]["action"], "delayed");
    assert_eq!(delayed["recipients"][0]["status"], "4.2.0");
    assert!(delayed["recipients"][0]["will-retry-until"].is_string());
    let failed = parse_dsn(&notices[1].data).await.unwrap();
    assert_eq!(failed["recipients"][0]["action"], "failed");
    assert!(
        failed["recipients"][0]["diagnostic-code"]
            .as_str()
            .unwrap()
            .contains("450 4.2.0 not today")
    );
    assert_eq!(world.sender.received().len(), 2);
}

#[tokio::test]
async fn tls_is_used_where_offered() {
    let world = World::new("").await;
    let (certificate, key) = world.site.certificate();
    let ip = loopback();
    world.dns.a("mx.safe.test", ip);
    world.dns.mx("safe.test", 10, "mx.safe.test");
    let sink = Sink::start_tls(SocketAddr::new(ip, world.port()), certificate, key).await;
    world.send(&["<bob@safe.test>"], "").await;
    assert!(sink.wait_for(1).await[0].tls);
    let line = world.log(&["delivered", "bob@safe.test"]).await;
    assert!(line.contains("TLS1."), "{line}");
    // What a server says in clear behind its 220 is nothing.
    let ip = loopback();
    world.dns.a("mx.injected.test", ip);
    world.dns.mx("injected.test", 10, "mx.injected.test");
    let sink = Sink::start_tls(SocketAddr::new(ip, world.port()), certificate, key).await;
    sink.reply_always(
        "STARTTLS",
        "220 go\r\n250-evil.test\r\n250 AUTH PLAIN\r\n250 2.0.0 injected",
    );
    world.send(&["<bob@injected.test>"], "").await;
    assert!(sink.wait_for(1).await[0].tls);
}

/// A lost final reply is never a loss, at most a duplicate.
#[tokio::test]
async fn a_connection_lost_at_the_dot() {
    let world = World::new("retry = [\"1s\"]").await;
    let sink = world.domain("cut.test").await;
    sink.close_once("END");
    world.send(&["<bob@cut.test>"], "").await;
    world.log(&["deferred", "bob@cut.test"]).await;
    world.log(&["delivered", "bob@cut.test"]).await;
    assert!(world.sender.received().is_empty());
}
