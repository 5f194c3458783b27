//! What an operator sees of a running service: the admin socket, and the log.

use std::os::unix::fs::PermissionsExt as _;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::http::{ask_tcp, ask_unix};
use postroad_tests::process::Service;
use postroad_tests::sink::Sink;
use postroad_tests::site::{Settings, Site};
use serde_json::Value;

use crate::kept;

#[tokio::test]
async fn the_socket_is_its_owners_and_answers() {
    let site = Site::new();
    let (address, http) = (site.port(), std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    let admin = format!("http = \"{http}\"");
    let settings = Settings {
        admin: &admin,
        ..kept::settings(address)
    };
    let service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
    let socket = site.path("relay.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let healthy =
        |answer: &str| answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"status\":\"ok\"");
    let answer = ask_unix(&socket, "GET /health").await.unwrap();
    assert!(healthy(&answer), "{answer}");

    site.configure(
        "relay",
        &Settings {
            domains: &["box.test", "new.test"],
            ..settings.clone()
        },
    )
    .unwrap();
    let answer = ask_unix(&socket, "POST /reload").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    service.log().wait_for(&["reloaded"]).await.unwrap();
    kept::send(address, "reloaded", "x@new.test").await;
    let answer = ask_unix(&socket, "GET /reload").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");

    // Over TCP there is health, and nothing that changes or shows anything.
    let line = service.log().wait_for(&["health over HTTP"]).await.unwrap();
    let tcp = line
        .rsplit("address=")
        .next()
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(healthy(&ask_tcp(tcp, "GET /health").await.unwrap()));
    for answer in [
        ask_tcp(tcp, "GET /metrics").await.unwrap(),
        ask_unix(&socket, "GET /metrics").await.unwrap(),
    ] {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        for line in [
            "content-type: text/plain; version=0.0.4",
            "# TYPE postroad_queue_messages gauge",
            "postroad_queue_messages 1",
            "postroad_queue_lanes 1",
            "postroad_queue_fault 0",
            "postroad_queue_refused_total{reason=\"full\"} 0",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        // Numbers, and nobody's name.
        assert!(!answer.contains(".test"), "{answer}");
    }
    for request in [
        "POST /reload",
        "GET /queue/stats",
        "POST /queue/page",
        "POST /queue/export",
        "POST /queue/import",
        "GET /queue/verify",
    ] {
        let answer = ask_tcp(tcp, request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{request}: {answer}");
    }
    assert!(service.terminate().await.unwrap().success());
    assert!(!socket.exists(), "the socket is left behind");
}

/// A queue that takes no mail says so to whoever spreads connections, to the metrics, and to the
/// operator.
#[tokio::test]
async fn a_full_disk_is_no_good_health() {
    let site = Site::new();
    let (_service, address) = kept::relay(&site, "min_free = \"9999999GiB\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    let mail = dialogue.say("MAIL FROM:<a@b.test>", "").await.unwrap();
    if mail.starts_with("250") {
        let to = "RCPT TO:<c@box.test>";
        dialogue.say(to, "250").await.unwrap();
        dialogue.say("DATA", "452 4.3.1").await.unwrap();
    }
    let socket = site.path("relay.sock");
    let answer = ask_unix(&socket, "GET /health").await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("\"status\":\"degraded\"")
            && answer.contains("limits.min_free"),
        "{answer}"
    );
    let answer = ask_unix(&socket, "GET /metrics").await.unwrap();
    assert!(answer.contains("\npostroad_queue_fault 1\n"), "{answer}");
    let stats = site.queue("relay", &["stats"]).await.unwrap().succeeded();
    assert!(stats.output.contains("\nfault since "), "{}", stats.output);
}

/// The line of the log, in JSON, that holds all of these.
async fn event(service: &Service, needles: &[&str]) -> Value {
    let line = service.log().wait_for(needles).await.unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn a_line_for_each_event_of_a_message() {
    let site = Site::new();
    let (address, sink) = (site.port(), Sink::start(site.port()).await);
    let settings = Settings {
        routes: vec![("*", format!("smtp://{}", sink.address()))],
        delivery: "retry = [\"1s\"]",
        log: "format = \"json\"",
        ..kept::settings(address)
    };
    let service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
    sink.reply_once("RCPT TO:<late@box.test>", "450 4.2.0 come again");
    sink.reply_always(
        "RCPT TO:<gone@box.test>",
        "550 5.1.1 nobody\x1b[2J of that name",
    );
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue
        .say("MAIL FROM:<sender@b.test>", "250")
        .await
        .unwrap();
    for to in ["here@box.test", "late@box.test", "gone@box.test"] {
        dialogue
            .say(&format!("RCPT TO:<{to}> NOTIFY=NEVER"), "250")
            .await
            .unwrap();
    }
    dialogue.say("DATA", "354").await.unwrap();
    let reply = dialogue
        .say("Subject: x\r\n\r\nx\r\n.", "250 2.0.0")
        .await
        .unwrap();
    let queued = event(&service, &["\"message queued\""]).await;
    let id = queued["queue_id"].as_str().unwrap();
    assert!(reply.contains(id), "{reply} does not name {id}");
    assert_eq!(queued["from"], "sender@b.test");
    assert_eq!(queued["recipients"], 3);
    assert_eq!(queued["peer"], "127.0.0.1");
    for (what, to, said) in [
        ("delivered", "here@box.test", "250 2.0.0 taken"),
        ("deferred", "late@box.test", "450 4.2.0 come again"),
        ("delivered", "late@box.test", "250 2.0.0 taken"),
        ("failed", "gone@box.test", "550 5.1.1 nobody"),
    ] {
        let line = event(&service, &[&format!("\"message\":\"{what}\""), to]).await;
        assert_eq!(line["queue_id"], id, "{line}");
        assert_eq!(line["from"], "sender@b.test", "{line}");
        assert_eq!(line["to"], to, "{line}");
        let hop = line["hop"].as_str().unwrap();
        assert!(hop.contains(&sink.address().port().to_string()), "{line}");
        let reply = line["reply"].as_str().unwrap();
        assert!(reply.starts_with(said) && !reply.contains('\x1b'), "{line}");
        assert!(line["delay_ms"].is_u64(), "{line}");
        assert!(
            line["timestamp"].is_string() && line["level"] == "INFO",
            "{line}"
        );
    }
    let late = event(&service, &["\"message\":\"delivered\"", "late@box.test"]).await;
    assert!(
        late["delay_ms"].as_u64().unwrap() >= 1000 && late["attempts"] == 2,
        "{late}"
    );
}
