//! What an operator does with the queue.

mod whole;

use postroad_tests::process::PATIENCE;
use postroad_tests::programs::Finished;
use postroad_tests::site::Site;
use serde_json::Value;

use crate::kept::{self, relay, send};

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.output).unwrap_or_else(|e| panic!("{e}: {}", finished.output))
}

/// Messages of a listing: a JSON array, or a line of JSON each.
fn listing(finished: &Finished) -> Vec<Value> {
    if finished.output.trim_start().starts_with('[') {
        return json(finished).as_array().unwrap().clone();
    }
    finished
        .output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn the_queue_of_a_running_and_of_a_stopped_service() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    let mut service = Some(service);
    for (subject, to) in [
        ("one", "x@box.test"),
        ("two", "y@box.test"),
        ("three", "z@box.test"),
    ] {
        send(address, subject, to).await;
    }
    for running in [true, false] {
        if !running {
            assert!(service.take().unwrap().terminate().await.unwrap().success());
        }
        let listed = listing(
            &site
                .queue("relay", &["list", "--json"])
                .await
                .unwrap()
                .succeeded(),
        );
        assert_eq!(listed.len(), if running { 3 } else { 2 });
        let human = site
            .queue("relay", &["list"])
            .await
            .unwrap()
            .succeeded()
            .output;
        assert!(
            human.contains("z@box.test") && human.contains("sender@b.test"),
            "{human}"
        );

        let id = listed[0]["id"].as_str().unwrap();
        let shown = site
            .queue("relay", &["show", id])
            .await
            .unwrap()
            .succeeded()
            .output;
        assert!(shown.contains(id) && shown.contains("@box.test"), "{shown}");
        let body = site
            .queue("relay", &["body", id])
            .await
            .unwrap()
            .succeeded()
            .output;
        assert!(
            body.starts_with("Received: ") && body.contains("\r\n\r\nhello "),
            "{body}"
        );

        let _ = site
            .queue("relay", &["hold", id])
            .await
            .unwrap()
            .succeeded();
        let listed = listing(
            &site
                .queue("relay", &["list", "--held", "--json"])
                .await
                .unwrap()
                .succeeded(),
        );
        assert_eq!(listed.len(), 1);
        let _ = site
            .queue("relay", &["release", id])
            .await
            .unwrap()
            .succeeded();
        let _ = site
            .queue("relay", &["retry", "--all"])
            .await
            .unwrap()
            .succeeded();
        let _ = site
            .queue("relay", &["delete", id])
            .await
            .unwrap()
            .succeeded();
        assert_eq!(
            site.queued("relay").await.unwrap(),
            if running { 2 } else { 1 }
        );
        assert_ne!(site.queue("relay", &["show", id]).await.unwrap().code, 0);
        // Deleting needs to be told what.
        assert_ne!(site.queue("relay", &["delete"]).await.unwrap().code, 0);
    }
}

#[tokio::test]
async fn one_process_owns_a_queue() {
    let site = Site::new();
    let (_service, _) = relay(&site, "").await;
    let path = site
        .configure("other", &kept::settings(site.port()))
        .unwrap();
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("queue-other", "queue-relay");
    std::fs::write(&path, text).unwrap();
    let error = Site::start_again("postroad-relay", &path)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("in use by another process"), "{error}");
}

/// Milliseconds since the Unix epoch, as `--json` has them.
fn now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// The one message to that recipient.
async fn shown(site: &Site, to: &str) -> Value {
    let finished = site.queue("relay", &["list", "--to", to, "--json"]).await;
    let mut listed = listing(&finished.unwrap().succeeded());
    assert_eq!(listed.len(), 1, "{to}");
    listed.remove(0)
}

async fn order(site: &Site, arguments: &[&str]) {
    let _ = site.queue("relay", arguments).await.unwrap().succeeded();
}

async fn held(site: &Site) -> usize {
    let finished = site.queue("relay", &["list", "--held", "--json"]).await;
    listing(&finished.unwrap().succeeded()).len()
}

/// Waits until so many attempts at the message are written down. The log has each before that,
/// and an order to try again that comes in between is overtaken by the record.
async fn tried(site: &Site, to: &str, attempts: u64) {
    let recorded = async {
        while shown(site, to).await["recipients"][0]["attempts"].as_u64() != Some(attempts) {}
    };
    tokio::time::timeout(PATIENCE, recorded)
        .await
        .unwrap_or_else(|_| panic!("{to} is not tried {attempts} times"));
}

/// The relay defers all, and tries again in an hour: whatever is tried before is so by order.
#[tokio::test]
async fn retry_hold_and_release_of_a_running_service() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    let deferred = async |to: &str, times: usize| {
        let needles = ["deferred", to];
        let lines = service.log().wait_for_many(times, &needles).await.unwrap();
        assert_eq!(lines.len(), times, "{to}");
        tried(&site, to, times as u64).await;
    };
    for (subject, to) in [("one", "held@box.test"), ("two", "free@box.test")] {
        send(address, subject, to).await;
        deferred(to, 1).await;
    }
    let message = shown(&site, "held@box.test").await;
    let id = message["id"].as_str().unwrap();
    assert_eq!(message["held"], false);
    order(&site, &["hold", id]).await;
    assert_eq!(held(&site).await, 1);
    assert_eq!(shown(&site, "held@box.test").await["held"], true);
    // All are due now, twice over; the one that is held is not tried.
    for times in 2..4 {
        order(&site, &["retry", "--all"]).await;
        deferred("free@box.test", times).await;
    }
    deferred("held@box.test", 1).await;
    // It is due all the same: once it is released it is tried, and the other is not.
    order(&site, &["release", id]).await;
    assert_eq!(held(&site).await, 0);
    deferred("held@box.test", 2).await;
    order(&site, &["retry", id]).await;
    deferred("held@box.test", 3).await;
    deferred("free@box.test", 3).await;
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test]
async fn retry_hold_and_release_of_a_stopped_service() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    for (subject, to) in [("one", "held@box.test"), ("two", "free@box.test")] {
        send(address, subject, to).await;
        service.log().wait_for(&["deferred", to]).await.unwrap();
    }
    assert!(service.terminate().await.unwrap().success());
    let due = async |to: &str| shown(&site, to).await["recipients"][0]["due"].clone();
    let minutes = 60 * 1000;
    for to in ["held@box.test", "free@box.test"] {
        let due = due(to).await.as_u64().unwrap();
        assert!(due > now() + 30 * minutes, "{to}: {due}");
    }
    order(&site, &["hold", "--to", "held@box.test"]).await;
    assert_eq!(held(&site).await, 1);
    assert_eq!(due("held@box.test").await, Value::Null);
    order(&site, &["retry", "--all"]).await;
    let free = due("free@box.test").await.as_u64().unwrap();
    assert!(free <= now(), "{free}");
    assert_eq!(due("held@box.test").await, Value::Null);
    // The hold outlives the order's process, and the next run of the service keeps to it.
    let path = site.configuration("relay");
    let service = Site::start_again("postroad-relay", &path).await.unwrap();
    service
        .log()
        .wait_for(&["deferred", "free@box.test"])
        .await
        .unwrap();
    tried(&site, "free@box.test", 2).await;
    order(&site, &["retry", "--to", "free@box.test"]).await;
    let again = ["deferred", "free@box.test"];
    service.log().wait_for_many(2, &again).await.unwrap();
    let of_held = |line: &String| line.contains("held@box.test");
    assert!(!service.log().lines().iter().any(of_held));
    assert!(service.terminate().await.unwrap().success());
    order(&site, &["release", "--held"]).await;
    assert_eq!(held(&site).await, 0);
    let released = due("held@box.test").await.as_u64().unwrap();
    assert!(released <= now(), "{released}");
    let service = Site::start_again("postroad-relay", &path).await.unwrap();
    service
        .log()
        .wait_for(&["deferred", "held@box.test"])
        .await
        .unwrap();
    assert!(service.terminate().await.unwrap().success());
}
