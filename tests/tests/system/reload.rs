//! SIGHUP, and the admin socket's word for it: the new is taken, or the old kept.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::Signal;
use postroad_tests::site::{CREDENTIALS, PASSWORD, Settings, Site, USER};

use crate::kept;

#[tokio::test]
async fn reload_takes_the_new_and_keeps_the_old() {
    let site = Site::new();
    let address = site.port();
    let settings = kept::settings(address);
    let service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
    let mut before = Dialogue::open(address).await.unwrap();
    before.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    before
        .say("RCPT TO:<x@new.test>", "550 5.7.1")
        .await
        .unwrap();

    site.configure(
        "relay",
        &Settings {
            domains: &["box.test", "new.test"],
            ..settings.clone()
        },
    )
    .unwrap();
    service.signal(Signal::SIGHUP).unwrap();
    service.log().wait_for(&["reloaded"]).await.unwrap();
    let mut after = Dialogue::open(address).await.unwrap();
    after.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    after.say("RCPT TO:<x@new.test>", "250").await.unwrap();
    // The connection from before was not dropped.
    before.say("NOOP", "250").await.unwrap();

    site.configure(
        "relay",
        &Settings {
            domains: &["box.test"],
            more: "[limitz]\n",
            ..settings
        },
    )
    .unwrap();
    service.signal(Signal::SIGHUP).unwrap();
    service.log().wait_for(&["limitz"]).await.unwrap();
    let mut after = Dialogue::open(address).await.unwrap();
    after.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    after.say("RCPT TO:<x@new.test>", "250").await.unwrap();
}

/// Logs in over TLS; gives the reply, and the certificate that was shown.
async fn log_in(address: std::net::SocketAddr, credentials: &str) -> (String, Vec<u8>) {
    let mut dialogue = Dialogue::open_tls(address).await.unwrap();
    dialogue
        .send(format!("AUTH PLAIN {credentials}\r\n"))
        .await
        .unwrap();
    let reply = dialogue.reply().await.unwrap();
    (reply, dialogue.certificate().unwrap().to_vec())
}

#[tokio::test]
async fn certificates_and_users_are_read_again() {
    // Of "\0bob\0correct horse battery".
    const BOB: &str = "AGJvYgBjb3JyZWN0IGhvcnNlIGJhdHRlcnk=";
    let site = Site::new();
    site.add_user().await.unwrap();
    let address = site.port();
    let settings = Settings {
        listeners: vec![("submission", address, "implicit")],
        limits: "error_delay = \"0s\"",
        ..Settings::default()
    };
    let service = site
        .start("postroad-submission", "submission", &settings)
        .await
        .unwrap();
    let (reply, first) = log_in(address, CREDENTIALS).await;
    assert!(reply.starts_with("235 2.7.0"), "{reply}");
    let (reply, _) = log_in(address, BOB).await;
    assert!(reply.starts_with("535 5.7.8"), "{reply}");
    let mut before = Dialogue::open_tls(address).await.unwrap();

    // Alice goes, Bob comes, the certificate is another.
    let _ = site.user("add", "bob", PASSWORD).await.unwrap().succeeded();
    let _ = site
        .user("passwd", USER, "changed")
        .await
        .unwrap()
        .succeeded();
    site.renew_certificate().unwrap();
    service.signal(Signal::SIGHUP).unwrap();
    service.log().wait_for(&["reloaded"]).await.unwrap();
    let (reply, second) = log_in(address, BOB).await;
    assert!(reply.starts_with("235 2.7.0"), "{reply}");
    assert_ne!(first, second);
    let (reply, _) = log_in(address, CREDENTIALS).await;
    assert!(reply.starts_with("535 5.7.8"), "{reply}");
    before.say("NOOP", "250 2.0.0").await.unwrap();

    // What cannot be used is not: neither a key that is none, nor users that are none.
    let key = std::fs::read(site.path("key.pem")).unwrap();
    let users = std::fs::read(site.path("users.toml")).unwrap();
    for (n, name) in ["key.pem", "users.toml"].into_iter().enumerate() {
        std::fs::write(site.path(name), "nothing of use").unwrap();
        service.signal(Signal::SIGHUP).unwrap();
        service
            .log()
            .wait_for_many(n + 1, &["the old one stays in force"])
            .await
            .unwrap();
        let (reply, third) = log_in(address, BOB).await;
        assert!(reply.starts_with("235 2.7.0"), "{name}: {reply}");
        assert_eq!(second, third, "{name}");
        std::fs::write(site.path("key.pem"), &key).unwrap();
        std::fs::write(site.path("users.toml"), &users).unwrap();
    }
}

/// A file that can be read, and means what it must not: the whole of it is refused.
#[tokio::test]
async fn a_mistake_in_what_it_means_keeps_the_old() {
    let site = Site::new();
    let address = site.port();
    let settings = kept::settings(address);
    let service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
    let domains = &["box.test", "new.test"];
    for (n, mistake) in [
        Settings {
            trusted: &["0.0.0.0/0"],
            ..settings.clone()
        },
        Settings {
            routes: vec![("*", "uucp://far.test".to_owned())],
            ..settings.clone()
        },
        Settings {
            limits: "recipients = 0",
            ..settings.clone()
        },
    ]
    .into_iter()
    .enumerate()
    {
        site.configure("relay", &Settings { domains, ..mistake })
            .unwrap();
        service.signal(Signal::SIGHUP).unwrap();
        service
            .log()
            .wait_for_many(n + 1, &["the old one stays in force"])
            .await
            .unwrap();
        let mut dialogue = Dialogue::open(address).await.unwrap();
        dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
        dialogue
            .say("RCPT TO:<x@new.test>", "550 5.7.1")
            .await
            .unwrap();
        dialogue.say("RCPT TO:<x@box.test>", "250").await.unwrap();
    }
}
