//! A queue as a whole, of a running service: exported, imported, verified, held by a filter.

use std::net::SocketAddr;
use std::time::Duration;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::{PATIENCE, Service};
use postroad_tests::programs::{Finished, program, run};
use postroad_tests::site::Site;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{listing, tried};
use crate::kept::{relay, send, settings};

const LARGE: usize = 20 << 20;

/// A second service that keeps all it takes.
async fn other(site: &Site) -> Service {
    let address = site.port();
    let settings = settings(address);
    site.start("postroad-relay", "other", &settings)
        .await
        .unwrap()
}

async fn send_large(address: SocketAddr, to: &str) {
    let mut dialogue = Dialogue::open(address).await.unwrap();
    let from = "MAIL FROM:<sender@b.test>";
    dialogue.say(from, "250").await.unwrap();
    let to = format!("RCPT TO:<{to}>");
    dialogue.say(&to, "250").await.unwrap();
    dialogue.say("DATA", "354").await.unwrap();
    let line = format!("{}\r\n", "large".repeat(14));
    let body = line.repeat(LARGE / line.len());
    let message = format!("Subject: large\r\n\r\n{body}.");
    dialogue.say(&message, "250 2.0.0").await.unwrap();
}

async fn order(site: &Site, name: &str, arguments: &[&str]) -> Finished {
    site.queue(name, arguments).await.unwrap().succeeded()
}

/// `export` of the one, through a pipe, to `import` of the other.
async fn pipe(site: &Site, from: &str, to: &str) -> Finished {
    let both = "\"$0\" queue export --config \"$1\" | \"$0\" queue import --json --config \"$2\"";
    let postroad = program("postroad").to_string_lossy().into_owned();
    let (from, to) = (site.configuration(from), site.configuration(to));
    run("/bin/sh", &["-c", both, &postroad, &from, &to], b"")
        .await
        .unwrap()
        .succeeded()
}

/// The messages without their names, and their content.
async fn told(site: &Site, name: &str) -> Vec<(Value, String)> {
    let mut told = Vec::new();
    for mut message in listing(&order(site, name, &["list", "--json"]).await) {
        let id = message.as_object_mut().unwrap().remove("id").unwrap();
        let body = order(site, name, &["body", id.as_str().unwrap()]).await;
        told.push((message, body.output));
    }
    told
}

#[tokio::test]
async fn mail_moves_from_one_running_service_to_another() {
    let site = Site::new();
    let (_from, address) = relay(&site, "").await;
    let to = other(&site).await;
    send(address, "one", "x@box.test").await;
    send_large(address, "large@box.test").await;
    send(address, "two", "y@box.test").await;
    for to in ["x@box.test", "large@box.test", "y@box.test"] {
        tried(&site, to, 1).await;
    }
    // What is not held may be delivered twice, and whoever exports it is told.
    let noted = order(&site, "relay", &["export", "--to", "x@box.test"]).await;
    assert!(noted.output.starts_with("postroad-queue 1\n"));
    assert!(
        noted.errors.contains("does not hold 3 messages"),
        "{}",
        noted.errors
    );
    assert!(
        noted.errors.contains("1 message exported"),
        "{}",
        noted.errors
    );

    let held = order(&site, "relay", &["hold", "--all", "--json"]).await;
    assert_eq!(held.output, "{\"messages\":3}\n");
    let moved = pipe(&site, "relay", "other").await;
    assert!(!moved.errors.contains("does not hold"), "{}", moved.errors);
    let report: Value = serde_json::from_str(&moved.output).unwrap();
    assert_eq!(report["imported"]["messages"], 3, "{report}");
    let (before, after) = (told(&site, "relay").await, told(&site, "other").await);
    assert!(before == after, "the messages are others");
    let large = &after[1];
    assert!(large.1.len() > LARGE - 100, "{}", large.1.len());
    assert_eq!(large.0["recipients"][0]["attempts"], 1);

    // They are held there too, and go on from where they were once they are not.
    assert!(
        !to.log()
            .lines()
            .iter()
            .any(|line| line.contains("@box.test"))
    );
    let released = order(&site, "other", &["release", "--to", "large"]).await;
    assert_eq!(released.output, "1 released\n");
    let line = to.log().wait_for(&["deferred", "large@box.test"]).await;
    assert!(line.unwrap().contains("attempts=2"));
    to.log()
        .wait_for(&["mail was imported", "messages=3"])
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_damaged_is_found_while_the_service_runs() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    send(address, "one", "x@box.test").await;
    send_large(address, "large@box.test").await;
    tried(&site, "large@box.test", 1).await;
    let good = order(&site, "relay", &["verify"]).await;
    assert!(good.output.starts_with("2 messages, "), "{}", good.output);
    let body = std::fs::read_dir(site.path("queue-relay/big")).unwrap();
    let body = body.flatten().next().unwrap().path();
    let mut octets = std::fs::read(&body).unwrap();
    octets[LARGE / 2] ^= 1;
    std::fs::write(&body, octets).unwrap();
    let shown = super::shown(&site, "large@box.test").await;
    let id = shown["id"].as_str().unwrap();
    let bad = site.queue("relay", &["verify"]).await.unwrap();
    assert_eq!(bad.code, 1, "{}", bad.said());
    assert!(bad.output.contains(id), "{}", bad.output);
    // It is left out of an export, and the other is not.
    let file = site.path("mail.export").to_string_lossy().into_owned();
    let export = site.queue("relay", &["export", "--output", &file]).await;
    let export = export.unwrap();
    assert_eq!(export.code, 1, "{}", export.said());
    assert!(
        export
            .errors
            .contains(&format!("message {id} cannot be read"))
    );
    let _to = other(&site).await;
    let import = order(&site, "other", &["import", &file]).await.output;
    assert!(
        import.contains("1 message imported") && import.contains("1 message left out"),
        "{import}"
    );
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test]
async fn held_and_released_by_what_the_next_hop_said() {
    let site = Site::new();
    let (_service, address) = relay(&site, "").await;
    for to in ["x@box.test", "y@box.test"] {
        send(address, "one", to).await;
        tried(&site, to, 1).await;
    }
    for (arguments, said) in [
        (&["hold", "--reason", "no such word"][..], "0 held\n"),
        (&["hold", "--reason", "HELD for"], "2 held\n"),
        (&["release", "--older", "1h"], "0 released\n"),
        (&["release", "--older", "0s", "--to", "x@"], "1 released\n"),
        (&["delete", "--held", "--json"], "{\"messages\":1}\n"),
    ] {
        assert_eq!(order(&site, "relay", arguments).await.output, said);
    }
}

/// A client that stalls, with an order that would take long, does not keep the service.
#[tokio::test]
async fn a_stop_waits_for_no_export_and_no_import() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    send_large(address, "large@box.test").await;
    let ask = async |path: &str, body: &str, octets: usize| {
        let mut stream = UnixStream::connect(site.path("relay.sock")).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {octets}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    };
    let _reads_nothing = ask("/queue/export", "{}", 2).await;
    let mut sends_nothing = ask("/queue/import", "postroad-queue 1\n", 1 << 30).await;
    let stopped = tokio::time::timeout(PATIENCE / 4, service.terminate()).await;
    assert!(stopped.expect("it stops").unwrap().success());
    // The one that could be told was.
    let mut said = String::new();
    let told = sends_nothing.read_to_string(&mut said);
    let _ = tokio::time::timeout(Duration::from_secs(5), told).await;
    assert!(said.contains("the service is stopping"), "{said}");
}
