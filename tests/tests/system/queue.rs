//! What an operator does with the queue.

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
