//! kill -9 under load: every message that got its 250 arrives, and arrives whole.

use std::time::Duration;

use postroad_tests::dns::TestDns;
use postroad_tests::process::{Service, free_port, loopback};
use postroad_tests::sink::Sink;
use postroad_tests::site::{Settings, Site};
use tokio::time::Instant;

use crate::kept;
use crate::load::{Dice, Load, Way, assert_all_arrive};

/// Messages that are taken after a start before the kill may come.
const GOING: usize = 5;
/// The kill comes at a random moment of so long a time.
const KILL_WITHIN: Duration = Duration::from_millis(300);
/// Likewise after the start of a program that is not waited for: as long as the last start took,
/// within these bounds.
const EARLY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// `delivery.per_destination` of all services here. All mail goes to one domain, one recipient a
/// message, and an attempt keeps its place until what came of it is written down. So a kill finds
/// at most so many messages that the next hop has taken, or will, and of which there is no record:
/// each comes a second time. What was written down before the kill does not.
const IN_FLIGHT: u64 = 4;
const DELIVERY: &str = "retry = [\"1s\"]\nper_destination = 4";

/// Lets time pass. Nothing is waited for: the moment of a kill is what the test tries. On a thread
/// of its own, since the timers of a runtime that is busy with load may be late by seconds.
async fn pass(time: Duration) {
    tokio::task::spawn_blocking(move || std::thread::sleep(time))
        .await
        .unwrap();
}

/// Starts, waits until mail is taken, kills at a random moment. Gives how long the start took.
async fn kill_under_load(
    binary: &str,
    configuration: &str,
    load: &Load,
    dice: &mut Dice,
) -> Duration {
    let before = load.acknowledged();
    let started = Instant::now();
    let service = Site::start_again(binary, configuration).await.unwrap();
    let took = started.elapsed();
    load.until(before + GOING).await;
    pass(dice.time(KILL_WITHIN)).await;
    service.kill().await.unwrap();
    took
}

/// Starts, and kills at a random moment of the start, which looks through the whole queue.
async fn kill_at_start(binary: &str, configuration: &str, took: Duration, dice: &mut Dice) {
    let starting = Site::spawn(binary, configuration).unwrap();
    pass(dice.time(took.clamp(EARLY.0, EARLY.1))).await;
    starting.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    const KILLS: usize = 20;
    let site = Site::new();
    let dns = TestDns::start().await;
    let sink = Sink::start(free_port(loopback())).await;
    dns.mx("sink.test", 10, "mx.sink.test");
    dns.a("mx.sink.test", sink.address().ip());
    let address = site.port();
    let settings = Settings {
        listeners: vec![("relay", address, "none")],
        domains: &["sink.test"],
        nameserver: Some(dns.address()),
        port: sink.address().port(),
        delivery: DELIVERY,
        ..Settings::default()
    };
    let configuration = site.configure("relay", &settings).unwrap();
    let load = Load::start(Way::Relay(address), 8);
    let mut dice = Dice(4711);
    let mut kills = 0;
    for kill in 0..KILLS {
        let took = kill_under_load("postroad-relay", &configuration, &load, &mut dice).await;
        kills += 1;
        // After every other one, one or two kills of a start: at least every third of all.
        for _ in 0..[0, 1, 0, 2][kill % 4] {
            kill_at_start("postroad-relay", &configuration, took, &mut dice).await;
            kills += 1;
        }
    }
    let service = Site::start_again("postroad-relay", &configuration)
        .await
        .unwrap();
    load.until_also_big(load.acknowledged() + GOING).await;
    let acknowledged = load.stop().await;
    assert!(acknowledged.len() > GOING * KILLS);
    assert_all_arrive(&acknowledged, &sink, service.log(), kills * IN_FLIGHT).await;
    assert!(service.terminate().await.unwrap().success());
}

/// Users submit by TLS and AUTH to one service, which hands on to the other; either may die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_between_two_services() {
    const KILLS: usize = 4;
    let site = Site::new();
    site.add_user().await.unwrap();
    let sink = Sink::start(site.port()).await;
    let (submission, relay) = (site.port(), site.port());
    let relay_settings = Settings {
        listeners: vec![("relay", relay, "none")],
        domains: &["sink.test"],
        routes: vec![("*", format!("smtp://{}", sink.address()))],
        delivery: DELIVERY,
        ..Settings::default()
    };
    let submission_settings = Settings {
        listeners: vec![("submission", submission, "implicit")],
        routes: vec![("*", format!("smtp://{relay}"))],
        delivery: DELIVERY,
        ..Settings::default()
    };
    let relay_configuration = site.configure("relay", &relay_settings).unwrap();
    let configuration = site.configure("submission", &submission_settings).unwrap();
    let start_relay = async || -> Service {
        Site::start_again("postroad-relay", &relay_configuration)
            .await
            .unwrap()
    };
    let load = Load::start(Way::Submission(submission), 4);
    let mut dice = Dice(1147);
    let mut relaying = start_relay().await;
    let mut repeated_max = 0;
    for _ in 0..KILLS {
        let took = kill_under_load("postroad-submission", &configuration, &load, &mut dice).await;
        kill_at_start("postroad-submission", &configuration, took, &mut dice).await;
        relaying.kill().await.unwrap();
        // Two kills of the one; one of the other, which repeats its own, and leaves unanswered
        // what it has taken of the first one's.
        repeated_max += (2 + 2) * IN_FLIGHT;
        relaying = start_relay().await;
    }
    let submitting = Site::start_again("postroad-submission", &configuration)
        .await
        .unwrap();
    load.until_also_big(load.acknowledged() + GOING).await;
    let acknowledged = load.stop().await;
    assert_all_arrive(&acknowledged, &sink, relaying.log(), repeated_max).await;
    for service in [submitting, relaying] {
        assert!(service.terminate().await.unwrap().success());
    }
}

/// The log says which durability is on, and under either a kill loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_where_the_system_writes_when_it_likes() {
    const KILLS: usize = 4;
    let site = Site::new();
    let sink = Sink::start(site.port()).await;
    let address = site.port();
    let settings = Settings {
        listeners: vec![("relay", address, "none")],
        domains: &["sink.test"],
        routes: vec![("*", format!("smtp://{}", sink.address()))],
        queue: "durability = \"os\"",
        delivery: DELIVERY,
        ..Settings::default()
    };
    let configuration = site.configure("relay", &settings).unwrap();
    let load = Load::start(Way::Relay(address), 8);
    let mut dice = Dice(1303);
    let mut kills = 0;
    for _ in 0..KILLS {
        let took = kill_under_load("postroad-relay", &configuration, &load, &mut dice).await;
        kill_at_start("postroad-relay", &configuration, took, &mut dice).await;
        kills += 2;
    }
    let service = Site::start_again("postroad-relay", &configuration)
        .await
        .unwrap();
    let open = service.log().wait_for(&["queue open"]).await.unwrap();
    assert!(
        open.contains("os: survives a kill, not a power loss") && !open.contains("sync: "),
        "{open}"
    );
    load.until_also_big(load.acknowledged() + GOING).await;
    let acknowledged = load.stop().await;
    assert_all_arrive(&acknowledged, &sink, service.log(), kills * IN_FLIGHT).await;
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test]
async fn the_log_says_which_durability_is_on() {
    for (queue, says, not) in [
        ("", "sync: on disk before every 250", "os: "),
        (
            "durability = \"sync\"",
            "sync: on disk before every 250",
            "os: ",
        ),
        (
            "durability = \"os\"",
            "os: survives a kill, not a power loss",
            "sync: ",
        ),
    ] {
        let site = Site::new();
        let settings = Settings {
            queue,
            ..kept::settings(site.port())
        };
        let service = site
            .start("postroad-relay", "relay", &settings)
            .await
            .unwrap();
        let open = service.log().wait_for(&["queue open"]).await.unwrap();
        assert!(open.contains(says) && !open.contains(not), "{open}");
        assert!(service.terminate().await.unwrap().success());
    }
}
