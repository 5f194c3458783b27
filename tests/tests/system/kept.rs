//! A relay that keeps all it takes: whatever was wrongly accepted is there to be counted.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::Service;
use postroad_tests::site::{Settings, Site};

/// Its settings: mail for `box.test` from anyone, and none of it leaves.
pub(crate) fn settings(address: SocketAddr) -> Settings<'static> {
    Settings {
        listeners: vec![("relay", address, "starttls")],
        domains: &["box.test"],
        routes: vec![("*", "defer 4.2.0 held for the test".to_owned())],
        delivery: "retry = [\"1h\"]",
        ..Settings::default()
    }
}

/// The relay with such `[limits]`, and where it listens.
pub(crate) async fn relay(site: &Site, limits: &str) -> (Service, SocketAddr) {
    let address = site.port();
    let settings = Settings {
        limits,
        ..settings(address)
    };
    let service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
    (service, address)
}

/// MAIL, RCPT and DATA.
pub(crate) async fn transaction(dialogue: &mut Dialogue) {
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

/// A message of its own session.
pub(crate) async fn send(address: SocketAddr, subject: &str, to: &str) {
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue
        .say("MAIL FROM:<sender@b.test>", "250")
        .await
        .unwrap();
    dialogue
        .say(&format!("RCPT TO:<{to}>"), "250")
        .await
        .unwrap();
    dialogue.say("DATA", "354").await.unwrap();
    dialogue
        .say(
            &format!("Subject: {subject}\r\n\r\nhello {subject}\r\n."),
            "250 2.0.0",
        )
        .await
        .unwrap();
    dialogue.say("QUIT", "221").await.unwrap();
}

/// Messages in the queue of [`relay`], and files of bodies that belong to none.
pub(crate) async fn assert_nothing_kept(site: &Site) {
    assert_eq!(site.queued("relay").await.unwrap(), 0);
    let bodies = std::fs::read_dir(site.path("queue-relay/big")).map_or(0, Iterator::count);
    assert_eq!(bodies, 0, "files in queue-relay/big");
}
