//! Real clients submit; the next hop is a sink.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::peers::{Security, Submission};
use postroad_tests::process::{Service, Signal};
use postroad_tests::sink::Sink;
use postroad_tests::site::{CREDENTIALS, PASSWORD, Settings, Site, USER};

struct Msa {
    site: Site,
    service: Service,
    sink: Sink,
    starttls: SocketAddr,
    implicit: SocketAddr,
}

async fn msa() -> Msa {
    msa_with(Settings::default()).await
}

/// The service with such settings, as far as they are none of its listeners and routes.
async fn msa_with(settings: Settings<'_>) -> Msa {
    let site = Site::new();
    site.add_user().await.unwrap();
    let sink = Sink::start(site.port()).await;
    let (starttls, implicit) = (site.port(), site.port());
    let limits = if settings.limits.is_empty() {
        "error_delay = \"0s\""
    } else {
        settings.limits
    };
    let settings = Settings {
        listeners: vec![
            ("submission", starttls, "starttls"),
            ("submission", implicit, "implicit"),
        ],
        routes: vec![("*", format!("smtp://{}", sink.address()))],
        limits,
        ..settings
    };
    let service = site
        .start("postroad-submission", "submission", &settings)
        .await
        .unwrap();
    Msa {
        site,
        service,
        sink,
        starttls,
        implicit,
    }
}

#[tokio::test]
async fn swaks_and_python_submit_over_both_kinds_of_tls() {
    let msa = msa().await;
    let mut sent = 0;
    for (server, security) in [
        (msa.starttls, Security::StartTls),
        (msa.implicit, Security::Implicit),
    ] {
        let submission = Submission {
            server,
            security,
            login: Some((USER, PASSWORD)),
            from: "alice@home.test",
            to: &["bob@example.test", "carol@example.test"],
            message: "From: alice@home.test\nSubject: four ways\n\nhello\n.\n..dots\n",
        };
        let _ = submission.by_swaks(&[]).await.unwrap().succeeded();
        let _ = submission
            .by_swaks(&["--auth", "LOGIN"])
            .await
            .unwrap()
            .succeeded();
        let _ = submission.by_python(&[]).await.unwrap().succeeded();
        sent += 3;
    }
    let received = msa.sink.wait_for(sent).await;
    assert_eq!(received.len(), sent);
    for message in received {
        assert_eq!(message.from, "alice@home.test");
        assert_eq!(message.to, ["bob@example.test", "carol@example.test"]);
        let text = String::from_utf8(message.data).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("Received: from "), "{head}");
        assert!(
            head.contains("with ESMTPSA")
                && head.contains("by submission.test")
                && head.contains("[127."),
            "{head}"
        );
        assert!(
            !head.contains("for <"),
            "two recipients, and the header names one: {head}"
        );
        assert_eq!(head.matches("\r\nDate: ").count(), 1, "{head}");
        assert_eq!(
            head.to_lowercase().matches("\r\nmessage-id: ").count(),
            1,
            "{head}"
        );
        assert!(body.starts_with("hello\r\n.\r\n..dots\r\n"), "{body}");
    }
}

#[tokio::test]
async fn who_has_not_proved_himself_sends_nothing() {
    let msa = msa().await;
    let mut submission = Submission {
        server: msa.starttls,
        security: Security::StartTls,
        login: Some((USER, "wrong")),
        from: "alice@home.test",
        to: &["bob@example.test"],
        message: "Subject: no\n\nno\n",
    };
    let finished = submission.by_swaks(&[]).await.unwrap();
    assert!(
        finished.code != 0 && finished.output.contains("535 5.7.8"),
        "{}",
        finished.output
    );
    submission.login = Some(("nobody", PASSWORD));
    let finished = submission.by_swaks(&[]).await.unwrap();
    assert!(
        finished.code != 0 && finished.output.contains("535 5.7.8"),
        "{}",
        finished.output
    );
    submission.login = None;
    let finished = submission.by_swaks(&[]).await.unwrap();
    assert!(
        finished.code != 0 && finished.output.contains("530 5.7.0"),
        "{}",
        finished.output
    );

    let mut plain = Dialogue::connect(msa.starttls).await.unwrap();
    plain.expect("220").await.unwrap();
    let offered = plain.say("EHLO client.test", "250").await.unwrap();
    assert!(
        offered.contains("STARTTLS") && !offered.contains("AUTH"),
        "{offered}"
    );
    plain
        .say("AUTH PLAIN AGFsaWNlAHg=", "538 5.7.11")
        .await
        .unwrap();
    plain
        .say("MAIL FROM:<a@b.test>", "530 5.7.0")
        .await
        .unwrap();
    let mut tls = Dialogue::open_tls(msa.implicit).await.unwrap();
    tls.say("MAIL FROM:<a@b.test>", "530 5.7.0").await.unwrap();
    tls.say("VRFY postmaster", "530 5.7.0").await.unwrap();
    tls.say("NOOP", "250").await.unwrap();
    assert_eq!(msa.site.queued("submission").await.unwrap(), 0);
}

/// Neither what a client is asked for, nor what it gives, stands in a log that tells all.
#[tokio::test]
async fn passwords_stay_out_of_the_log() {
    const WRONG: &str = "quite another secret";
    // Of "\0alice\0quite another secret", and of the passwords alone, as AUTH LOGIN has them.
    const SECRETS: [&str; 6] = [
        PASSWORD,
        CREDENTIALS,
        "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5",
        WRONG,
        "AGFsaWNlAHF1aXRlIGFub3RoZXIgc2VjcmV0",
        "cXVpdGUgYW5vdGhlciBzZWNyZXQ=",
    ];
    for log in [
        "level = \"trace\"\nformat = \"json\"",
        "level = \"debug\"\nformat = \"compact\"",
    ] {
        let msa = msa_with(Settings {
            log,
            ..Settings::default()
        })
        .await;
        for (password, code) in [(WRONG, "535 5.7.8"), (PASSWORD, "235 2.7.0")] {
            for mechanism in ["PLAIN", "LOGIN"] {
                let submission = Submission {
                    server: msa.starttls,
                    security: Security::StartTls,
                    login: Some((USER, password)),
                    from: "alice@home.test",
                    to: &["bob@example.test"],
                    message: "Subject: secret\n\nhello\n",
                };
                let finished = submission.by_swaks(&["--auth", mechanism]).await.unwrap();
                assert!(finished.output.contains(code), "{}", finished.said());
            }
        }
        // A password on a command line that nobody understands, and one in two steps that is no base64.
        let mut dialogue = Dialogue::open_tls(msa.implicit).await.unwrap();
        dialogue
            .say(&format!("AUTH SECRET {}", SECRETS[1]), "504")
            .await
            .unwrap();
        dialogue.say("AUTH PLAIN", "334").await.unwrap();
        dialogue.say(WRONG, "501 5.5.2").await.unwrap();
        dialogue.say("QUIT", "221").await.unwrap();
        msa.sink.wait_for(2).await;
        // The log does speak of it all.
        msa.service
            .log()
            .wait_for_many(2, &["authentication failed", "alice"])
            .await
            .unwrap();
        msa.service
            .log()
            .wait_for_many(2, &["authenticated", "alice"])
            .await
            .unwrap();
        let log = msa.service.log().lines().join("\n");
        assert!(log.contains("session ended"), "not at debug level");
        for secret in SECRETS {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}

/// Guessing ends the session, and what was right in the end does not count.
#[tokio::test]
async fn failed_log_ins_end_the_session() {
    let msa = msa_with(Settings {
        limits: "errors = 3\nerror_delay = \"0s\"",
        ..Settings::default()
    })
    .await;
    let mut dialogue = Dialogue::open_tls(msa.implicit).await.unwrap();
    for _ in 0..2 {
        dialogue
            .say("AUTH PLAIN AGFsaWNlAHdyb25n", "535 5.7.8")
            .await
            .unwrap();
    }
    dialogue
        .send(format!(
            "AUTH PLAIN AGFsaWNlAHdyb25n\r\nAUTH PLAIN {CREDENTIALS}\r\n"
        ))
        .await
        .unwrap();
    let rest = dialogue.rest().await.unwrap();
    assert!(
        rest.contains("421 4.7.0") && !rest.contains("235"),
        "{rest}"
    );
}

/// `sender_must_match`: users send as themselves only.
#[tokio::test]
async fn a_sender_that_is_not_the_users() {
    let msa = msa_with(Settings {
        submission: "sender_must_match = true",
        ..Settings::default()
    })
    .await;
    let user = "carol@home.test";
    let _ = msa
        .site
        .user("add", user, PASSWORD)
        .await
        .unwrap()
        .succeeded();
    msa.service.signal(Signal::SIGHUP).unwrap();
    msa.service.log().wait_for(&["reloaded"]).await.unwrap();
    let mut mail = Submission {
        server: msa.implicit,
        security: Security::Implicit,
        login: Some((user, PASSWORD)),
        from: "alice@home.test",
        to: &["bob@example.test"],
        message: "Subject: whose\n\nhello\n",
    };
    let finished = mail.by_swaks(&[]).await.unwrap();
    assert!(
        finished.code != 0 && finished.output.contains("553 5.7.1"),
        "{}",
        finished.said()
    );
    mail.from = user;
    let _ = mail.by_swaks(&[]).await.unwrap().succeeded();
    assert_eq!(msa.sink.wait_for(1).await[0].from, user);
}
