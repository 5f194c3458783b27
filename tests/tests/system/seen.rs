//! What an operator sees: why mail goes where it goes, what happened to it, what waits and why.

use std::net::SocketAddr;
use std::sync::Arc;

use postroad_tests::hop::{Authority, Hop, Identity, Language, Script};
use postroad_tests::process::loopback;
use postroad_tests::site::Site;
use serde_json::Value;

use crate::world::World;

/// The JSON that a command prints.
async fn json(world: &World, arguments: &[&str]) -> Value {
    let finished = world.site.postroad("relay", arguments).await.unwrap();
    serde_json::from_str(&finished.output).unwrap_or_else(|e| panic!("{e}: {}", finished.said()))
}

/// From its first octet to its last attempt, also when it has left.
#[tokio::test]
async fn a_trace_of_a_message_that_has_left() {
    let world = World::new("retry = [\"1s\"]").await;
    let sink = world.domain("far.test").await;
    sink.reply_once("RCPT", "451 4.3.0 not now, dear");
    world.send(&["<bob@far.test>"], "").await;
    sink.wait_for(1).await;
    let line = world.log(&["delivered", "bob@far.test"]).await;
    let id = line
        .split("queue_id=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert_eq!(world.site.queued("relay").await.unwrap(), 0);
    for wanted in [id, "<1@sender.test>", "1@sender.test"] {
        let trace = json(&world, &["trace", wanted, "--json"]).await;
        let events = trace["events"].as_array().unwrap();
        let kinds: Vec<_> = events
            .iter()
            .map(|e| e["event"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            ["accepted", "attempt", "attempt", "left"],
            "{trace:#}"
        );
        assert_eq!(events[0]["from"], "me@sender.test");
        assert!(events.iter().all(|e| e["id"] == id), "{trace:#}");
        let first = &events[1]["outcomes"][0];
        assert_eq!(first["recipient"], "bob@far.test");
        assert!(
            first["outcome"]["deferred"]
                .to_string()
                .contains("not now, dear"),
            "{trace:#}"
        );
        let second = &events[2]["outcomes"][0]["outcome"]["delivered"];
        assert!(
            second["hop"].as_str().unwrap().contains("mx.far.test"),
            "{trace:#}"
        );
        assert!(
            !events[1]["steps"].as_array().unwrap().is_empty(),
            "{trace:#}"
        );
    }
    let said = world
        .site
        .postroad("relay", &["trace", id])
        .await
        .unwrap()
        .succeeded()
        .output;
    for word in [
        "me@sender.test",
        "bob@far.test",
        "mx.far.test",
        "not now, dear",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let unknown = world
        .site
        .postroad("relay", &["trace", "<none@nowhere.test>"])
        .await
        .unwrap();
    assert_eq!(unknown.code, 1, "{}", unknown.said());
    // A restart forgets nothing of it.
    let World { site, relay, .. } = world;
    assert!(relay.terminate().await.unwrap().success());
    let finished = site
        .postroad("relay", &["trace", id])
        .await
        .unwrap()
        .succeeded();
    assert!(
        finished.output.contains("mx.far.test"),
        "{}",
        finished.output
    );
}

/// The way that mail would take, host by host; asked as far as RCPT, and no mail is sent.
#[tokio::test]
async fn an_explanation_sends_no_mail() {
    let routes = "[[route]]\nrecipient = \"refused.test\"\nvia = \"reject 5.7.1 not there\"\n";
    let world = World::configured(Site::new(), routes).await;
    let first = loopback();
    world.dns.a("mx1.far.test", first);
    world.dns.mx("far.test", 10, "mx1.far.test");
    let second = SocketAddr::new(loopback(), world.port());
    world.dns.a("mx2.far.test", second.ip());
    world.dns.mx("far.test", 20, "mx2.far.test");
    let identity = Identity::new("mx2.far.test", &Authority::new().unwrap()).unwrap();
    let script: Script = "RCPT eve: 550 5.1.1 no Eve here".parse().unwrap();
    let second = Hop::start(second, Language::Smtp, script, Arc::new(identity)).await;
    let explained = json(&world, &["explain", "bob@far.test", "--connect", "--json"]).await;
    assert_eq!(explained["running"], true);
    assert_eq!(explained["deliverable"], true, "{explained:#}");
    let hosts = explained["explanations"][0]["hosts"].as_array().unwrap();
    let names: Vec<_> = hosts
        .iter()
        .map(|h| (&h["name"], &h["preference"]))
        .collect();
    assert_eq!(
        names,
        [
            (&"mx1.far.test".into(), &10.into()),
            (&"mx2.far.test".into(), &20.into())
        ]
    );
    let session = |n: usize| &hosts[n]["addresses"][0]["session"];
    assert!(
        session(0)["error"].is_string() && session(0)["accepts"] == false,
        "{explained:#}"
    );
    assert_eq!(session(1)["accepts"], true, "{explained:#}");
    let address = SocketAddr::new(first, world.port()).to_string();
    assert_eq!(hosts[0]["addresses"][0]["address"], address);

    let refused = world
        .site
        .postroad("relay", &["explain", "eve@far.test", "--connect"])
        .await;
    let refused = refused.unwrap();
    assert_eq!(refused.code, 1, "{}", refused.said());
    assert!(refused.output.contains("no Eve here"), "{}", refused.said());
    let routed = world
        .site
        .postroad("relay", &["explain", "bob@refused.test"])
        .await
        .unwrap();
    assert_eq!(routed.code, 1, "{}", routed.said());
    let where_from = ["relay.toml:", "[[route]] 1", "not there"];
    assert!(
        where_from.iter().all(|word| routed.output.contains(word)),
        "{}",
        routed.said()
    );
    // Two sessions, each up to RCPT and then RSET.
    let seen = ["MAIL", "RCPT", "RSET", "DATA", "BDAT", "END"].map(|event| second.seen(event));
    assert_eq!(seen, [2, 2, 2, 0, 0, 0]);
    assert_eq!(world.site.queued("relay").await.unwrap(), 0);
    // One who mails the same host then is the first whose mail it gets.
    world.send(&["<bob@far.test>"], "").await;
    world.log(&["delivered", "bob@far.test"]).await;
    assert_eq!(second.kept().len(), 1);
}

/// What waits, and for what.
#[tokio::test]
async fn statistics_say_why() {
    let routes =
        "[[route]]\nrecipient = \"slow.test\"\nvia = \"mx\"\nlimits = { messages = \"1/1h\" }\n";
    let world = World::configured(Site::new(), routes).await;
    world.dns.a("mx.dead.test", loopback());
    world.dns.mx("dead.test", 10, "mx.dead.test");
    let slow = world.domain("slow.test").await;
    world.send(&["<bob@dead.test>"], "").await;
    world.log(&["deferred", "bob@dead.test"]).await;
    for user in ["ann", "bob", "eve"] {
        world.send(&[&format!("<{user}@slow.test>")], "").await;
    }
    slow.wait_for(1).await;
    let stats = json(&world, &["queue", "stats", "--all", "--json"]).await;
    let about = |domain: &str| {
        let all = stats["destinations"].as_array().unwrap();
        let found = all
            .iter()
            .find(|d| d["lane"].as_str().unwrap().contains(domain));
        found.unwrap_or_else(|| panic!("{stats:#}")).clone()
    };
    let dead = about("dead.test");
    assert_eq!(dead["dead_hosts"][0]["name"], "mx.dead.test", "{stats:#}");
    assert!(
        dead["last_error"]["what"]
            .as_str()
            .unwrap()
            .contains("refused"),
        "{stats:#}"
    );
    let held = about("slow.test");
    let why = held["throttled"]["why"].as_str().unwrap();
    assert!(why.contains("rate") && why.contains("[[route]] 1"), "{why}");
    let said = world
        .site
        .queue("relay", &["stats"])
        .await
        .unwrap()
        .succeeded()
        .output;
    assert!(
        said.contains("mx.dead.test") && said.contains("held back"),
        "{said}"
    );
    assert_eq!(slow.received().len(), 1);
}
