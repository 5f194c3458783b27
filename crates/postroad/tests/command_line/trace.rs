//! `postroad trace`, `queue stats` and `tls report` where no service runs.

use std::path::Path;
use std::time::Duration;

use postroad_mail::{Origin, Timestamp};
use postroad_queue::history::{Accepted, Event, Happening, History as _};
use postroad_queue::{Filter, QueueId};
use postroad_store::{FileHistory, HistoryOptions};

use super::{GOOD, Site, queue_one, with_queue};

/// The one message in the queue.
fn queued(config: &Path) -> QueueId {
    let mut id = None;
    with_queue(config, async |store| {
        let page = store.page(&Filter::default(), None, 9).await.unwrap();
        let [one] = page.as_slice() else {
            panic!("{page:?}");
        };
        id = Some(one.id);
    });
    id.unwrap()
}

fn record(site: &Site, id: QueueId) {
    let options = HistoryOptions {
        keep: Duration::from_secs(7 * 86_400),
        size_max: 1 << 20,
    };
    let history = FileHistory::open(site.path("queue/history"), options).unwrap();
    let arrived = Timestamp::from_millis(id_time(id));
    history.record(Event {
        id,
        at: arrived,
        what: Happening::Accepted(Accepted {
            began: arrived,
            origin: Origin {
                service: "relay".to_owned(),
                address: Some([192, 0, 2, 7].into()),
                ..Origin::default()
            },
            from: "a@b.test".to_owned(),
            recipients: vec!["bob@b.test".to_owned()],
            recipients_count: 1,
            size: 14,
            message_id: Some("x.1@b.test".to_owned()),
            expansions: Vec::new(),
        }),
    });
}

/// A queue id begins with the time at which it was made (RFC 9562 section 5.7).
fn id_time(id: QueueId) -> u64 {
    let mut octets = [0; 8];
    octets[2..].copy_from_slice(&id.to_bytes()[..6]);
    u64::from_be_bytes(octets)
}

#[test]
fn from_the_files_of_a_stopped_service() {
    let site = Site::new();
    site.write("main.toml", GOOD);
    let config = site.path("main.toml");
    queue_one(&config);
    let id = queued(&config);
    record(&site, id);
    let id = id.to_string();
    let run = |arguments: &[&str]| site.run(&[arguments, &["--config", "main.toml"]].concat());
    assert_eq!(run(&["queue", "hold", "--all"]).1, "1 held\n");
    for wanted in [&id, "x.1@b.test", "<x.1@b.test>"] {
        let (status, text) = run(&["trace", wanted]);
        assert_eq!(status, Some(0), "{text}");
        for said in [
            &format!("Message {id}\n"),
            "MAIL: relay from 192.0.2.7, no TLS\n",
            "accepted, 14 octets\n",
            "  to <bob@b.test>\n",
            "  an operator: hold\n",
            "now in the queue, held:\n  <bob@b.test> waits, lane b.test, 0 attempts, not tried until released\n",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
    // Also when it has left.
    assert_eq!(run(&["queue", "delete", "--all"]).1, "1 removed\n");
    let (status, text) = run(&["trace", &id, "--json"]);
    assert_eq!(status, Some(0), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events: Vec<_> = value["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["event"].clone())
        .collect();
    assert_eq!(events, ["accepted", "operator", "operator"]);
    assert_eq!(value["queued"], serde_json::json!([]));
}

#[test]
fn what_is_not_known_is_said_with_the_reason() {
    let site = Site::new();
    site.write("main.toml", GOOD);
    queue_one(&site.path("main.toml"));
    let other = "01jdk7e2m8qv3tw5xyz9abcdef";
    let trace = |id: &str| site.run(&["trace", id, "--config", "main.toml"]);
    let (status, text) = trace(other);
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains(other) && text.contains("kept for 7d00h (`[log] history`)"),
        "{text}"
    );
    site.write("main.toml", &format!("{GOOD}[log]\nhistory = \"0s\"\n"));
    let (status, text) = trace("<x@y.test>");
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("no history is kept"), "{text}");
    let (status, text) = trace("x");
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("neither a queue id"), "{text}");
}

#[test]
fn destinations_and_policies_of_a_stopped_service() {
    let site = Site::new();
    site.write(
        "main.toml",
        &format!("{GOOD}[delivery]\ntls_policy = \"observe\"\n"),
    );
    let run = |arguments: &[&str]| site.run(&[arguments, &["--config", "main.toml"]].concat());
    let (status, text) = run(&["tls", "report"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("there is no queue at "), "{text}");
    queue_one(&site.path("main.toml"));
    let (status, text) = run(&["queue", "stats"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("  b.test  1 waiting  0 in flight  due now\n"),
        "{text}"
    );
    let (status, text) = run(&["queue", "stats", "--all", "--json"]);
    assert_eq!(status, Some(0), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&value["lanes_count"], &value["lanes"][0]["lane"]),
        (&1.into(), &"b.test".into())
    );
    let (status, text) = run(&["tls", "report"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.starts_with("tls_policy = \"observe\": ")
            && text.contains("no mail has gone to a domain with a policy"),
        "{text}"
    );
    let (status, text) = run(&["tls", "report", "--json"]);
    assert_eq!(
        (status, text.trim()),
        (Some(0), "{\"tls_policy\":\"observe\",\"domains\":[]}")
    );
}
