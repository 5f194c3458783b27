//! From one service to the next, and on to others' servers.

use std::net::SocketAddr;

use postroad_tests::dns::TestDns;
use postroad_tests::peers::{Security, Submission};
use postroad_tests::postfix::{self, Postfix};
use postroad_tests::process::{Service, free_port, loopback};
use postroad_tests::sink::Sink;
use postroad_tests::site::{PASSWORD, Settings, Site, USER};

use crate::kept;
use crate::world::World;

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
    let _ = mail.by_python(&[]).await.unwrap().succeeded();
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
    let _relay = Site::start_again("postroad-relay", &site.configuration("relay"))
        .await
        .unwrap();
    let _submission = Site::start_again("postroad-submission", &site.configuration("submission"))
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
            text.contains("with ESMTPSA")
                && (text.contains("with ESMTPS\n") || text.contains("with ESMTPS ")),
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
    let sink = world.domain("out.test").await;
    let settings = postfix::Settings {
        domain: "box.test",
        relayhost: Some(world.address),
        ..postfix::Settings::default()
    };
    let postfix = Postfix::start(SocketAddr::new(loopback(), world.port()), &settings).unwrap();
    let mail = Submission {
        server: postfix.address(),
        security: Security::Plain,
        login: None,
        from: "me@sender.test",
        to: &["bob@out.test", "carol@out.test"],
        message: "Subject: through Postfix\n\nhello\n",
    };
    let _ = mail.by_swaks(&[]).await.unwrap().succeeded();
    let received = sink.wait_for(1).await;
    assert_eq!(received[0].to, ["bob@out.test", "carol@out.test"]);
    let text = String::from_utf8_lossy(&received[0].data).into_owned();
    assert!(
        text.contains("by postfix.test") && text.contains("by relay.test"),
        "{text}"
    );
}

/// `postroad run`: one configuration, one process, one queue; users send, the world writes back.
#[tokio::test]
async fn both_services_in_one_process() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let world = Sink::start(site.port()).await;
    let (starttls, implicit, relay) = (site.port(), site.port(), site.port());
    let settings = Settings {
        listeners: vec![
            ("submission", starttls, "starttls"),
            ("submission", implicit, "implicit"),
            ("relay", relay, "starttls"),
        ],
        domains: &["home.test"],
        routes: vec![
            ("*@home.test", "maildir:inbox".to_owned()),
            ("*", format!("smtp://{}", world.address())),
        ],
        ..Settings::default()
    };
    let service = site.start("postroad", "both", &settings).await.unwrap();

    let mut mail = Submission {
        server: starttls,
        security: Security::StartTls,
        login: Some((USER, PASSWORD)),
        from: "alice@home.test",
        to: &["bob@example.test"],
        message: "Subject: out\n\nhello world\n",
    };
    let _ = mail.by_swaks(&[]).await.unwrap().succeeded();
    (mail.server, mail.security) = (implicit, Security::Implicit);
    let _ = mail.by_python(&[]).await.unwrap().succeeded();
    for message in world.wait_for(2).await {
        assert_eq!(message.to, ["bob@example.test"]);
        let text = String::from_utf8(message.data).unwrap();
        assert!(
            text.contains("with ESMTPSA") && text.contains("\r\n\r\nhello world\r\n"),
            "{text}"
        );
    }

    let mail = Submission {
        server: relay,
        security: Security::StartTls,
        login: None,
        from: "bob@example.test",
        to: &["alice@home.test"],
        message: "Subject: in\n\nhello alice\n",
    };
    let _ = mail.by_swaks(&[]).await.unwrap().succeeded();
    service
        .log()
        .wait_for(&["delivered", "to=\"alice@home.test\""])
        .await
        .unwrap();
    let inbox: Vec<_> = std::fs::read_dir(site.path("inbox/new"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let [text] = inbox.as_slice() else {
        panic!("{inbox:?}");
    };
    // With the newlines of this kind of system, as mail readers expect them in a Maildir.
    let head = "Return-Path: <bob@example.test>\nDelivered-To: alice@home.test\n";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains("\nSubject: in\n\nhello alice\n"), "{text}");

    // From others the relay takes mail for its own domain only, and submission none.
    let elsewhere = Submission {
        to: &["carol@example.test"],
        ..mail.clone()
    };
    let refused = elsewhere.by_swaks(&[]).await.unwrap();
    assert!(
        refused.code != 0 && refused.output.contains("550 5.7.1"),
        "{}",
        refused.said()
    );
    let unknown = Submission {
        server: starttls,
        ..mail
    };
    let refused = unknown.by_swaks(&[]).await.unwrap();
    assert!(
        refused.code != 0 && refused.output.contains("530 5.7.0"),
        "{}",
        refused.said()
    );
    assert_eq!(world.received().len(), 2);
    assert!(service.terminate().await.unwrap().success());
}

/// The example of README.md: a program of a site's own, with routing in code.
#[tokio::test]
async fn routing_in_code() {
    let site = Site::new();
    let address = site.port();
    let partner = Sink::start("127.0.0.1:0".parse().unwrap()).await;
    let settings = Settings {
        trusted: &["127.0.0.0/8"],
        ..kept::settings(address)
    };
    let path = site.configure("relay", &settings).unwrap();
    let port = partner.address().port().to_string();
    let service = Service::start("examples/partners", &[&path, &port])
        .await
        .unwrap();
    kept::send(address, "private", "bob@partner.example").await;
    assert_eq!(partner.wait_for(1).await[0].to, ["bob@partner.example"]);
    kept::send(address, "public", "bob@box.test").await;
    service
        .log()
        .wait_for(&["deferred", "bob@box.test", "held for the test"])
        .await
        .unwrap();
    assert!(service.terminate().await.unwrap().success());
}
