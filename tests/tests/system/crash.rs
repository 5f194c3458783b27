//! kill -9 under load: every message that got its 250 arrives, and arrives whole.
//! `cargo xtask crash` does the first of these with more kills.

use postroad_tests::account::Account;
use postroad_tests::crash::{
    DELIVERY, GOING, IN_FLIGHT, Moment, Plan, kill_at_start, kill_under_load, run,
};
use postroad_tests::letters::{Dice, Letter};
use postroad_tests::load::{Load, Way};
use postroad_tests::process::Service;
use postroad_tests::sink::Sink;
use postroad_tests::site::{Settings, Site};

use crate::kept;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let plan = Plan {
        kills: 35,
        seed: 4711,
        sessions: 8,
        queue: "",
        tell: false,
    };
    let report = run(&plan).await.unwrap();
    eprintln!("{report}");
    assert!(report.account.acknowledged() > GOING * 20);
    assert!(report.compacted > 0, "late letters were never moved");
    report.check().await.unwrap();
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
    let load = Load::start(Way::Submission(submission), 4, Letter::prompt);
    let mut dice = Dice(1147);
    let mut relaying = start_relay().await;
    let mut repeated_max = 0;
    for _ in 0..KILLS {
        let binary = "postroad-submission";
        let took = kill_under_load(binary, &configuration, &load, Moment::Any, &mut dice).await;
        kill_at_start(binary, &configuration, took.unwrap(), &mut dice)
            .await
            .unwrap();
        relaying.kill().await.unwrap();
        // Two kills of the one; one of the other, which repeats its own, and leaves unanswered
        // what it has taken of the first one's.
        repeated_max += (2 + 2) * IN_FLIGHT;
        relaying = start_relay().await;
    }
    let submitting = Site::start_again("postroad-submission", &configuration)
        .await
        .unwrap();
    load.until_also_big(load.acknowledged() + GOING)
        .await
        .unwrap();
    let mut account = Account::of(load.stop().await.unwrap());
    account.collect(&sink).await;
    account.check(repeated_max, relaying.log()).unwrap();
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
    let load = Load::start(Way::Relay(address), 8, Letter::prompt);
    let mut dice = Dice(1303);
    let mut kills = 0;
    for _ in 0..KILLS {
        let binary = "postroad-relay";
        let took = kill_under_load(binary, &configuration, &load, Moment::Keeper, &mut dice).await;
        kill_at_start(binary, &configuration, took.unwrap(), &mut dice)
            .await
            .unwrap();
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
    load.until_also_big(load.acknowledged() + GOING)
        .await
        .unwrap();
    let mut account = Account::of(load.stop().await.unwrap());
    account.collect(&sink).await;
    account.check(kills * IN_FLIGHT, service.log()).unwrap();
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
