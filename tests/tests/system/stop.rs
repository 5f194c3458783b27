//! SIGTERM: what is under way is finished, nothing new begins.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::{PATIENCE, Signal};
use postroad_tests::sink::Sink;
use postroad_tests::site::{CREDENTIALS, Settings, Site};
use tokio::net::TcpStream;

use crate::kept::relay;

#[tokio::test]
async fn a_stop_finishes_what_is_under_way() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    let mut idle = Dialogue::open(address).await.unwrap();
    let mut busy = Dialogue::open(address).await.unwrap();
    busy.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    busy.say("RCPT TO:<x@box.test>", "250").await.unwrap();
    busy.say("DATA", "354").await.unwrap();
    busy.send("Subject: x\r\n\r\n").await.unwrap();
    service.signal(Signal::SIGTERM).unwrap();
    idle.expect("421 4.3.2").await.unwrap();
    busy.say("late\r\n.", "250 2.0.0").await.unwrap();
    busy.expect("421 4.3.2").await.unwrap();
    assert!(service.ended().await.unwrap().success());
    assert_eq!(site.queued("relay").await.unwrap(), 1);
}

/// Waits until nobody listens there any more.
async fn until_deaf(address: SocketAddr) {
    let deaf = async {
        while let Ok(stream) = TcpStream::connect(address).await {
            // Taken by the system for a listener that is about to go: it is closed unserved, or
            // told to come again.
            let _ = stream.readable().await;
        }
    };
    tokio::time::timeout(PATIENCE, deaf).await.unwrap();
}

/// Submission: a session in mid data and a delivery at its end are both finished, the idle are
/// told, and nobody else is let in meanwhile.
#[tokio::test]
async fn a_delivery_under_way_is_finished() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let sink = Sink::start(site.port()).await;
    let address = site.port();
    let settings = Settings {
        listeners: vec![("submission", address, "implicit")],
        routes: vec![("*", format!("smtp://{}", sink.address()))],
        ..Settings::default()
    };
    let service = site
        .start("postroad-submission", "submission", &settings)
        .await
        .unwrap();
    let mut idle = Dialogue::open_tls(address).await.unwrap();
    let mut busy = Dialogue::open_tls(address).await.unwrap();
    busy.say(&format!("AUTH PLAIN {CREDENTIALS}"), "235")
        .await
        .unwrap();
    sink.hold_end();
    for to in ["first@example.test", "second@example.test"] {
        busy.say("MAIL FROM:<alice@home.test>", "250")
            .await
            .unwrap();
        busy.say(&format!("RCPT TO:<{to}>"), "250").await.unwrap();
        busy.say("DATA", "354").await.unwrap();
        if to.starts_with("first") {
            busy.say("Subject: x\r\n\r\nfirst\r\n.", "250 2.0.0")
                .await
                .unwrap();
            sink.until_held().await;
        }
    }
    // The first message waits for the next hop's word, the second for its own end.
    service.signal(Signal::SIGTERM).unwrap();
    idle.expect("421 4.3.2").await.unwrap();
    until_deaf(address).await;
    busy.say("Subject: x\r\n\r\nsecond\r\n.", "250 2.0.0")
        .await
        .unwrap();
    busy.expect("421 4.3.2").await.unwrap();
    sink.release_end();
    assert!(service.ended().await.unwrap().success());
    let received = sink.received();
    assert_eq!(received[0].to, ["first@example.test"]);
    // Whether the second was delivered as well or waits for the next start, it is there once.
    let queued = usize::try_from(site.queued("submission").await.unwrap()).unwrap();
    assert_eq!(received.len() + queued, 2);
}
