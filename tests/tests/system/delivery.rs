//! The relay against next hops of every temper, by MX from a DNS server in process.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::dns::TestDns;
use postroad_tests::peers::{Security, Submission, parse_dsn};
use postroad_tests::postfix::{self, Postfix};
use postroad_tests::process::{Service, free_port, loopback};
use postroad_tests::sink::{Received, Sink};
use postroad_tests::site::{PASSWORD, Settings, Site, USER};

/// A relay, and the DNS of a small world: `sender.test` is the sender's own.
struct World {
    site: Site,
    dns: TestDns,
    address: SocketAddr,
    sender: Sink,
    relay: Option<Service>,
}

impl World {
    async fn new(delivery: &str) -> Self {
        let site = Site::new();
        let dns = TestDns::start().await;
        // Not at the address of the relay, which would see a loop.
        let sender = Sink::start(free_port(loopback())).await;
        dns.mx("sender.test", 10, "mx.sender.test");
        dns.a("mx.sender.test", sender.address().ip());
        let address = site.port();
        let settings = Settings {
            listeners: vec![("relay", address, "starttls")],
            trusted: &["127.0.0.0/8"],
            nameserver: Some(dns.address()),
            port: sender.address().port(),
            delivery,
            ..Settings::default()
        };
        let relay = Some(
            site.start("postroad-relay", "relay", &settings)
                .await
                .unwrap(),
        );
        Self {
            site,
            dns,
            address,
            sender,
            relay,
        }
    }

    /// The port on which all next hops of this world listen.
    fn port(&self) -> u16 {
        self.sender.address().port()
    }

    /// A host with that name and a sink.
    async fn host(&self, name: &str) -> Sink {
        let ip = loopback();
        self.dns.a(name, ip);
        Sink::start(SocketAddr::new(ip, self.port())).await
    }

    async fn send(&self, to: &[&str], parameters: &str) {
        let mut dialogue = Dialogue::open(self.address).await.unwrap();
        dialogue
            .say(&format!("MAIL FROM:<me@sender.test>{parameters}"), "250")
            .await
            .unwrap();
        for to in to {
            dialogue.say(&format!("RCPT TO:{to}"), "250").await.unwrap();
        }
        dialogue.say("DATA", "354").await.unwrap();
        dialogue.say("From: me@sender.test\r\nSubject: test\r\nMessage-ID: <1@sender.test>\r\n\r\nhello\r\n.", "250 2.0.0").await.unwrap();
        dialogue.say("QUIT", "221").await.unwrap();
    }

    async fn log(&self, needles: &[&str]) -> String {
        self.relay
            .as_ref()
            .unwrap()
            .log()
            .wait_for(needles)
            .await
            .unwrap()
    }

    /// The one notice that the sender gets.
    async fn notice(&self) -> (Received, serde_json::Value) {
        let notice = self.sender.wait_for(1).await.remove(0);
        assert_eq!(notice.from, "");
        assert_eq!(notice.to, ["me@sender.test"]);
        let parsed = parse_dsn(&notice.data).await.unwrap();
        assert_eq!(parsed["type"], "multipart/report");
        assert_eq!(parsed["report_type"], "delivery-status");
        assert_eq!(parsed["defects"], serde_json::json!([]));
        (notice, parsed)
    }
}

#[tokio::test]
async fn a_4xx_then_a_250() {
    let world = World::new("retry = [\"1s\"]").await;
    let sink = world.host("mx.grey.test").await;
    world.dns.mx("grey.test", 10, "mx.grey.test");
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
    let sink = world.host("mx.no.test").await;
    world.dns.mx("no.test", 10, "mx.no.test");
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
    let sink = world.host("mx.no.test").await;
    world.dns.mx("no.test", 10, "mx.no.test");
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
    let world = World::new("retry = [\"1s\"]\nexpire = \"6s\"\nwarn_after = \"2s\"").await;
    let sink = world.host("mx.slow.test").await;
    world.dns.mx("slow.test", 10, "mx.slow.test");
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
async fn the_second_mx_takes_what_the_first_does_not() {
    let world = World::new("retry = [\"1s\"]").await;
    // Nobody listens at the first; the second greets with 421; the third takes it.
    world.dns.a("mx1.far.test", loopback());
    let second = world.host("mx2.far.test").await;
    second.reply_always("GREETING", "421 4.3.2 overloaded");
    let third = world.host("mx3.far.test").await;
    for (preference, name) in [
        (10, "mx1.far.test"),
        (20, "mx2.far.test"),
        (30, "mx3.far.test"),
    ] {
        world.dns.mx("far.test", preference, name);
    }
    world.send(&["<bob@far.test>"], "").await;
    assert_eq!(third.wait_for(1).await[0].to, ["bob@far.test"]);
    let line = world.log(&["delivered", "bob@far.test"]).await;
    assert!(line.contains("mx3.far.test"), "{line}");
}

#[tokio::test]
async fn domains_that_take_no_mail() {
    let world = World::new("").await;
    world.dns.mx("null.test", 0, ".");
    world.send(&["<bob@null.test>"], "").await;
    let (_, dsn) = world.notice().await;
    assert_eq!(dsn["recipients"][0]["status"], "5.1.10");
    world.send(&["<bob@nowhere.test>"], "").await;
    let notices = world.sender.wait_for(2).await;
    let dsn = parse_dsn(&notices[1].data).await.unwrap();
    assert_eq!(dsn["recipients"][0]["status"], "5.1.2");
    // An address without MX is its own.
    let implicit = world.host("host.test").await;
    world.send(&["<bob@host.test>"], "").await;
    implicit.wait_for(1).await;
    // A name server in trouble is no reason to bounce.
    world.dns.servfail("broken.test");
    world.send(&["<bob@broken.test>"], "").await;
    let line = world.log(&["deferred", "bob@broken.test"]).await;
    assert!(line.contains("4.4.3"), "{line}");
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
    let sink = world.host("mx.cut.test").await;
    world.dns.mx("cut.test", 10, "mx.cut.test");
    sink.close_once("END");
    world.send(&["<bob@cut.test>"], "").await;
    world.log(&["deferred", "bob@cut.test"]).await;
    world.log(&["delivered", "bob@cut.test"]).await;
    assert!(world.sender.received().is_empty());
}

/// Submission service -> relay service -> Postfix by MX; and a kill in between loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_and_a_postfix() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let dns = TestDns::start().await;
    let (certificate, key) = site.certificate();
    let settings = postfix::Settings {
        domain: "box.test",
        tls: Some((certificate, key)),
        ..postfix::Settings::default()
    };
    let postfix = Postfix::start(free_port(loopback()), &settings).unwrap();
    dns.mx("box.test", 10, "mx.box.test");
    dns.a("mx.box.test", postfix.address().ip());

    let relay_address = site.port();
    let relay_settings = Settings {
        listeners: vec![("relay", relay_address, "starttls")],
        trusted: &["127.0.0.0/8"],
        nameserver: Some(dns.address()),
        port: postfix.address().port(),
        ..Settings::default()
    };
    let relay = site
        .start("postroad-relay", "relay", &relay_settings)
        .await
        .unwrap();
    let (starttls, implicit) = (site.port(), site.port());
    let submission_settings = Settings {
        listeners: vec![
            ("submission", starttls, "starttls"),
            ("submission", implicit, "implicit"),
        ],
        routes: vec![("*", format!("smtp://{relay_address}"))],
        delivery: "retry = [\"1s\"]",
        ..Settings::default()
    };
    let submission = site
        .start("postroad-submission", "submission", &submission_settings)
        .await
        .unwrap();
    let mut mail = Submission {
        server: starttls,
        security: Security::StartTls,
        login: Some((USER, PASSWORD)),
        from: "alice@home.test",
        to: &["bob@box.test"],
        message: "Subject: through both\n\nhello\n",
    };
    let _ = mail.by_swaks(&[]).await.unwrap().succeeded();
    (mail.server, mail.security) = (implicit, Security::Implicit);
    let _ = mail.by_python().await.unwrap().succeeded();
    relay
        .log()
        .wait_for(&["delivered", "bob@box.test", "mx.box.test", "TLS1."])
        .await
        .unwrap();

    let (postfix, arrived) = tokio::task::spawn_blocking(move || {
        let arrived = postfix.wait_for_mail(2);
        (postfix, arrived)
    })
    .await
    .unwrap();
    assert_eq!(arrived.unwrap().len(), 2);

    // With the relay gone, submission keeps what it takes; killed in turn, it still has it.
    relay.kill().await.unwrap();
    let _ = mail.by_swaks(&[]).await.unwrap().succeeded();
    submission
        .log()
        .wait_for(&["deferred", "bob@box.test"])
        .await
        .unwrap();
    submission.kill().await.unwrap();
    assert_eq!(site.queued("submission").await.unwrap(), 1);
    let configuration = |name: &str| {
        site.path(&format!("{name}.toml"))
            .to_string_lossy()
            .into_owned()
    };
    let _relay = Site::start_again("postroad-relay", &configuration("relay"))
        .await
        .unwrap();
    let _submission = Site::start_again("postroad-submission", &configuration("submission"))
        .await
        .unwrap();

    let mail = tokio::task::spawn_blocking(move || postfix.wait_for_mail(3))
        .await
        .unwrap()
        .unwrap();
    for message in mail {
        let text = String::from_utf8_lossy(&message).into_owned();
        assert!(
            text.contains("by submission.test") && text.contains("by relay.test"),
            "{text}"
        );
        assert!(
            text.contains("with ESMTPSA") && text.contains("with ESMTPS\n")
                || text.contains("with ESMTPS "),
            "{text}"
        );
        assert!(
            text.contains("\nSubject: through both\n") && text.contains("\nhello\n"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postfix_relays_through_us() {
    let world = World::new("").await;
    let sink = world.host("mx.out.test").await;
    world.dns.mx("out.test", 10, "mx.out.test");
    let ip: IpAddr = loopback();
    let settings = postfix::Settings {
        domain: "box.test",
        relayhost: Some(world.address),
        ..postfix::Settings::default()
    };
    let postfix = Postfix::start(SocketAddr::new(ip, world.port()), &settings).unwrap();
    let mail = Submission {
        server: postfix.address(),
        security: Security::Plain,
        login: None,
        from: "me@sender.test",
        to: &["bob@out.test", "carol@out.test"],
        message: "Subject: through Postfix\n\nhello\n",
    };
    let _ = mail.by_swaks(&[]).await.unwrap().succeeded();
    let received = tokio::time::timeout(Duration::from_secs(60), sink.wait_for(1))
        .await
        .unwrap_or_else(|_| panic!("{}", postfix.log()));
    assert_eq!(received[0].to, ["bob@out.test", "carol@out.test"]);
    let text = String::from_utf8_lossy(&received[0].data).into_owned();
    assert!(
        text.contains("by postfix.test") && text.contains("by relay.test"),
        "{text}"
    );
    drop(postfix);
}
