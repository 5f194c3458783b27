//! Real clients submit; the next hop is a sink.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::peers::{Security, Submission};
use postroad_tests::process::Service;
use postroad_tests::sink::Sink;
use postroad_tests::site::{PASSWORD, Settings, Site, USER};

struct Msa {
    site: Site,
    _service: Service,
    sink: Sink,
    starttls: SocketAddr,
    implicit: SocketAddr,
}

async fn msa() -> Msa {
    let site = Site::new();
    site.add_user().await.unwrap();
    let sink = Sink::start(site.port()).await;
    let (starttls, implicit) = (site.port(), site.port());
    let settings = Settings {
        listeners: vec![
            ("submission", starttls, "starttls"),
            ("submission", implicit, "implicit"),
        ],
        routes: vec![("*", format!("smtp://{}", sink.address()))],
        limits: "error_delay = \"0s\"",
        ..Settings::default()
    };
    let service = site
        .start("postroad-submission", "submission", &settings)
        .await
        .unwrap();
    Msa {
        site,
        _service: service,
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
        let _ = submission.by_python().await.unwrap().succeeded();
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

/// Bare newlines of an authenticated user are mended, and none ever leaves.
#[tokio::test]
async fn what_leaves_has_only_crlf() {
    let msa = msa().await;
    let credentials = "AGFsaWNlAGNvcnJlY3QgaG9yc2UgYmF0dGVyeQ==";
    for ending in [
        "\n.\n", "\n.\r\n", "\r.\r", "\r\n.\n", "\r.\r\n", "a\nb", "a\rb",
    ] {
        let mut dialogue = Dialogue::open_tls(msa.implicit).await.unwrap();
        dialogue
            .say(&format!("AUTH PLAIN {credentials}"), "235 2.7.0")
            .await
            .unwrap();
        dialogue
            .say("MAIL FROM:<alice@home.test>", "250")
            .await
            .unwrap();
        dialogue
            .say("RCPT TO:<bob@example.test>", "250")
            .await
            .unwrap();
        dialogue.say("DATA", "354").await.unwrap();
        dialogue
            .say(
                &format!("Subject: bare\r\n\r\nbefore{ending}MAIL FROM:<evil@evil.test>\r\n."),
                "250 2.0.0",
            )
            .await
            .unwrap();
    }
    let received = msa.sink.wait_for(7).await;
    for message in received {
        let text = String::from_utf8(message.data).unwrap();
        assert!(text.contains("MAIL FROM:<evil@evil.test>\r\n"), "{text:?}");
        let bare = text.replace("\r\n", "");
        assert!(!bare.contains('\r') && !bare.contains('\n'), "{text:?}");
    }
}
