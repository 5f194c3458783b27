//! What an operator does: configure, check, look into the queue, reload, stop.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::{Finished, Service, program, run};
use postroad_tests::sink::Sink;
use postroad_tests::site::{PASSWORD, Settings, Site, USER};
use serde_json::Value;

fn held(address: SocketAddr) -> Settings<'static> {
    Settings {
        listeners: vec![("relay", address, "starttls")],
        domains: &["box.test"],
        routes: vec![("*", "defer 4.2.0 held for the test".to_owned())],
        delivery: "retry = [\"1h\"]",
        ..Settings::default()
    }
}

async fn send(address: SocketAddr, subject: &str, to: &str) {
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
    let address = site.port();
    let mut service = Some(
        site.start("postroad-relay", "relay", &held(address))
            .await
            .unwrap(),
    );
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
    let (first, second) = (site.port(), site.port());
    let _service = site
        .start("postroad-relay", "relay", &held(first))
        .await
        .unwrap();
    let path = site.configure("other", &held(second)).unwrap();
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

async fn refused(site: &Site, name: &str, settings: &Settings<'_>, needles: &[&str]) {
    let path = site.configure(name, settings).unwrap();
    for (binary, arguments) in [
        ("postroad", vec!["check", "--config", &path]),
        ("postroad-relay", vec!["--config", &path]),
    ] {
        let finished = run(program(binary), &arguments, b"").await.unwrap();
        assert_eq!(
            finished.code, 1,
            "{binary}: {}{}",
            finished.output, finished.errors
        );
        let said = format!("{}{}", finished.output, finished.errors);
        for needle in needles {
            assert!(
                said.contains(needle),
                "{binary} does not say {needle:?}:\n{said}"
            );
        }
    }
}

#[tokio::test]
async fn mistakes_are_named() {
    let site = Site::new();
    let address = site.port();
    let base = held(address);
    let more = "[limitz]\nrecipients = 1\n";
    refused(
        &site,
        "a",
        &Settings {
            more,
            ..base.clone()
        },
        &["a.toml:", "limitz", "limits"],
    )
    .await;
    let delivery = "retri = [\"1h\"]";
    refused(
        &site,
        "b",
        &Settings {
            delivery,
            ..base.clone()
        },
        &["b.toml:", "retri", "retry"],
    )
    .await;
    let limits = "message_size = \"50 bananas\"";
    refused(
        &site,
        "c",
        &Settings {
            limits,
            ..base.clone()
        },
        &["c.toml:", "message_size"],
    )
    .await;
    // Open relays do not start.
    let trusted = &["0.0.0.0/0"];
    refused(
        &site,
        "d",
        &Settings {
            trusted,
            ..base.clone()
        },
        &["open relay", "trusted_networks"],
    )
    .await;
    let trusted = &["::/0"];
    refused(
        &site,
        "e",
        &Settings {
            trusted,
            ..base.clone()
        },
        &["open relay"],
    )
    .await;
    let domains = &["*"];
    refused(
        &site,
        "f",
        &Settings {
            domains,
            routes: vec![("*", "mx".to_owned())],
            ..base.clone()
        },
        &["open relay", "domains"],
    )
    .await;
    // What is not built yet says so.
    let routes = vec![("*", "lmtp://127.0.0.1:24".to_owned())];
    refused(
        &site,
        "g",
        &Settings {
            routes,
            ..base.clone()
        },
        &["lmtp"],
    )
    .await;
    std::fs::write(site.path("key.pem"), "no key").unwrap();
    refused(&site, "h", &base, &["key.pem"]).await;
}

#[tokio::test]
async fn reload_takes_the_new_and_keeps_the_old() {
    let site = Site::new();
    let address = site.port();
    let settings = held(address);
    let service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
    let mut before = Dialogue::open(address).await.unwrap();
    before.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    before
        .say("RCPT TO:<x@new.test>", "550 5.7.1")
        .await
        .unwrap();

    site.configure(
        "relay",
        &Settings {
            domains: &["box.test", "new.test"],
            ..settings.clone()
        },
    )
    .unwrap();
    service.signal("HUP").unwrap();
    service.log().wait_for(&["reloaded"]).await.unwrap();
    let mut after = Dialogue::open(address).await.unwrap();
    after.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    after.say("RCPT TO:<x@new.test>", "250").await.unwrap();
    // The connection from before was not dropped.
    before.say("NOOP", "250").await.unwrap();

    site.configure(
        "relay",
        &Settings {
            domains: &["box.test"],
            more: "[limitz]\n",
            ..settings
        },
    )
    .unwrap();
    service.signal("HUP").unwrap();
    service.log().wait_for(&["limitz"]).await.unwrap();
    let mut after = Dialogue::open(address).await.unwrap();
    after.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    after.say("RCPT TO:<x@new.test>", "250").await.unwrap();
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way() {
    let site = Site::new();
    let address = site.port();
    let service = site
        .start("postroad-relay", "relay", &held(address))
        .await
        .unwrap();
    let mut idle = Dialogue::open(address).await.unwrap();
    let mut busy = Dialogue::open(address).await.unwrap();
    busy.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    busy.say("RCPT TO:<x@box.test>", "250").await.unwrap();
    busy.say("DATA", "354").await.unwrap();
    busy.send("Subject: x\r\n\r\n").await.unwrap();
    service.signal("TERM").unwrap();
    idle.expect("421 4.3.2").await.unwrap();
    busy.say("late\r\n.", "250 2.0.0").await.unwrap();
    busy.expect("421 4.3.2").await.unwrap();
    assert!(
        service
            .terminate()
            .await
            .map_or(true, |status| status.success())
    );
    assert_eq!(site.queued("relay").await.unwrap(), 1);
}

#[tokio::test]
async fn passwords_stay_out_of_files_and_logs() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let users = std::fs::read_to_string(site.path("users.toml")).unwrap();
    assert!(
        users.contains("$argon2id$") && !users.contains(PASSWORD),
        "{users}"
    );
    let file = site.path("users.toml").to_string_lossy().into_owned();
    let listed = run(program("postroad"), &["user", "list", "--file", &file], b"")
        .await
        .unwrap()
        .succeeded();
    assert!(
        listed.output.contains(USER) && !listed.output.contains("argon2"),
        "{}",
        listed.output
    );
    let again = ["user", "add", USER, "--file", &file, "--password-stdin"];
    assert_ne!(
        run(program("postroad"), &again, b"x\n").await.unwrap().code,
        0
    );
    let change = ["user", "passwd", USER, "--file", &file, "--password-stdin"];
    let _ = run(program("postroad"), &change, b"another one\n")
        .await
        .unwrap()
        .succeeded();
    assert_ne!(
        std::fs::read_to_string(site.path("users.toml")).unwrap(),
        users
    );
    let _ = run(
        program("postroad"),
        &["user", "remove", USER, "--file", &file],
        b"",
    )
    .await
    .unwrap()
    .succeeded();
    let listed = run(program("postroad"), &["user", "list", "--file", &file], b"")
        .await
        .unwrap()
        .succeeded();
    assert!(!listed.output.contains(USER));
}

/// The line that `postroad dev` prints works when pasted, and the mail lands in its inbox.
#[tokio::test]
async fn dev_prints_a_line_that_works() {
    let site = Site::new();
    let directory = site.path("dev").to_string_lossy().into_owned();
    let service = Service::start(
        "postroad",
        &["dev", "--dir", &directory, "--ports", "0,0,0,0"],
    )
    .await
    .unwrap();
    let line = service.log().wait_for(&["swaks "]).await.unwrap();
    let line = line.get(line.find("swaks ").unwrap()..).unwrap().to_owned();
    let _ = run("sh", &["-c", &line], b"").await.unwrap().succeeded();
    let shown = service.log().wait_for(&["Subject", "test"]).await;
    let lines = service.log().lines().join("\n");
    assert!(shown.is_ok() || lines.contains("test"), "{lines}");
    let found = std::process::Command::new("grep")
        .args(["-rl", "This is a test mailing", &directory])
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.lines().any(|path| path.contains("/new/")), "{found}");
    assert!(service.terminate().await.unwrap().success());
}

/// The example of README.md: a program of a site's own, with routing in code.
#[tokio::test]
async fn routing_in_code() {
    let site = Site::new();
    let address = site.port();
    let partner = Sink::start("127.0.0.1:0".parse().unwrap()).await;
    let settings = Settings {
        trusted: &["127.0.0.0/8"],
        ..held(address)
    };
    let path = site.configure("relay", &settings).unwrap();
    let port = partner.address().port().to_string();
    let service = Service::start("examples/partners", &[&path, &port])
        .await
        .unwrap();
    send(address, "private", "bob@partner.example").await;
    assert_eq!(partner.wait_for(1).await[0].to, ["bob@partner.example"]);
    send(address, "public", "bob@box.test").await;
    service
        .log()
        .wait_for(&["deferred", "bob@box.test", "held for the test"])
        .await
        .unwrap();
    assert!(service.terminate().await.unwrap().success());
}
