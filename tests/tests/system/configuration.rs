//! What a configuration may say, and what is said of one that may not.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::Service;
use postroad_tests::programs::{program, run, run_with};
use postroad_tests::site::{Settings, Site};

use crate::kept;

/// The mistake in the line that starts with `culprit` is named by `check` and by the service
/// itself.
async fn refused(
    site: &Site,
    name: &str,
    settings: &Settings<'_>,
    culprit: &str,
    needles: &[&str],
) {
    let path = site.configure(name, settings).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().position(|line| line.starts_with(culprit));
    let place = format!("{name}.toml:{}:", line.unwrap() + 1);
    for (binary, arguments) in [
        ("postroad", vec!["check", "--config", &path]),
        ("postroad-relay", vec!["--config", &path]),
    ] {
        let finished = run(program(binary), &arguments, b"").await.unwrap();
        let said = finished.said();
        // A service may say by a code of its own that it is no use to start it again.
        let codes: &[i32] = if binary == "postroad" { &[1] } else { &[1, 2] };
        assert!(
            codes.contains(&finished.code),
            "{binary}: {} {said}",
            finished.code
        );
        for needle in needles.iter().copied().chain([place.as_str()]) {
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
    let base = kept::settings(site.port());
    let with = |change: fn(&mut Settings<'static>)| {
        let mut settings = base.clone();
        change(&mut settings);
        settings
    };
    let unknown = with(|s| s.more = "[limitz]\nrecipients = 1\n");
    let needles = ["`limitz`", "did you mean `limits`?"];
    refused(&site, "table", &unknown, "[limitz]", &needles).await;
    let unknown = with(|s| s.delivery = "retri = [\"1h\"]");
    let needles = ["`retri`", "did you mean `retry`?"];
    refused(&site, "key", &unknown, "retri =", &needles).await;
    let value = with(|s| s.limits = "message_size = \"50 bananas\"");
    let needles = ["message_size", "50MiB"];
    refused(&site, "value", &value, "message_size =", &needles).await;
    let kind = with(|s| s.limits = "recipients = \"many\"");
    refused(&site, "kind", &kind, "recipients =", &["recipients"]).await;

    // Open relays do not start.
    let open = with(|s| s.trusted = &["0.0.0.0/0"]);
    let needles = ["open relay", "relay.trusted_networks"];
    refused(&site, "open4", &open, "trusted_networks", &needles).await;
    let open = with(|s| s.trusted = &["::/0"]);
    refused(&site, "open6", &open, "trusted_networks", &needles).await;
    let open = with(|s| (s.domains, s.routes) = (&["*"], vec![("*", "mx".to_owned())]));
    let needles = ["open relay", "relay.domains"];
    refused(&site, "open", &open, "domains =", &needles).await;

    // What is not built yet says so.
    let later = with(|s| s.queue = "store = \"postgres\"");
    let needles = ["postgres", "not built yet"];
    refused(&site, "later", &later, "store =", &needles).await;
    let nowhere = with(|s| s.routes = vec![("*", "uucp://far.test".to_owned())]);
    let needles = ["uucp", "route.via"];
    refused(&site, "nowhere", &nowhere, "via =", &needles).await;
    std::fs::write(site.path("key.pem"), "no key").unwrap();
    refused(&site, "nokey", &base, "key =", &["tls.key", "key.pem"]).await;
}

#[tokio::test]
async fn a_good_one_is_called_good() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let settings = Settings {
        listeners: vec![
            ("relay", site.port(), "starttls"),
            ("submission", site.port(), "implicit"),
        ],
        ..kept::settings(site.port())
    };
    // The name that the certificate is for.
    let path = site.configure("relay", &settings).unwrap();
    let arguments = ["check", "--config", &path];
    let finished = run(program("postroad"), &arguments, b"")
        .await
        .unwrap()
        .succeeded();
    assert_eq!(finished.output, "the configuration is good\n");
    assert_eq!(finished.errors, "");
    // Looking makes nothing.
    assert!(!site.path("queue-relay").exists());
}

/// What stands in another file counts as if it stood in the first; relative paths are the first's.
#[tokio::test]
async fn files_that_are_included() {
    let site = Site::new();
    let address = site.port();
    let path = site.configure("main", &kept::settings(address)).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, listener) = text.split_once("[[listener]]").unwrap();
    let (listener, after) = listener.split_once("[tls]").unwrap();
    std::fs::write(
        &path,
        format!("include = [\"conf.d/*.toml\"]\n{before}[tls]{after}"),
    )
    .unwrap();
    std::fs::create_dir(site.path("conf.d")).unwrap();
    let part = site.path("conf.d/listeners.toml");
    std::fs::write(&part, format!("[[listener]]{listener}")).unwrap();
    let more = "[relay]\ndomains = [\"more.test\"]\n";
    std::fs::write(site.path("conf.d/more.toml"), more).unwrap();
    let arguments = ["check", "--config", &path];
    let _ = run(program("postroad"), &arguments, b"")
        .await
        .unwrap()
        .succeeded();
    let service = Site::start_again("postroad-relay", &path).await.unwrap();
    for to in ["x@box.test", "y@more.test"] {
        kept::send(address, "included", to).await;
    }
    assert!(service.terminate().await.unwrap().success());

    // A mistake is placed in the file where it is.
    std::fs::write(&part, format!("[[listener]]{listener}\nbinds = []\n")).unwrap();
    let finished = run(program("postroad"), &arguments, b"").await.unwrap();
    let said = finished.said();
    assert_eq!(finished.code, 1, "{said}");
    assert!(
        said.contains("listeners.toml:") && said.contains("did you mean `bind`?"),
        "{said}"
    );
}

/// `POSTROAD_CONFIG` stands for `--config`, which goes before it.
#[tokio::test]
async fn the_file_named_by_the_environment() {
    let site = Site::new();
    let address = site.port();
    let path = site.configure("relay", &kept::settings(address)).unwrap();
    let environment = [("POSTROAD_CONFIG", path.as_str())];
    let check = program("postroad");
    let _ = run_with(&check, &["check"], &environment, b"")
        .await
        .unwrap()
        .succeeded();
    let starting = Service::spawn("postroad-relay", &[], &environment).unwrap();
    let service = starting.ready().await.unwrap();
    kept::send(address, "environment", "x@box.test").await;
    let stats = run_with(&check, &["queue", "stats"], &environment, b"")
        .await
        .unwrap()
        .succeeded();
    assert!(stats.output.contains("box.test"), "{}", stats.output);
    assert!(service.terminate().await.unwrap().success());
    let arguments = ["check", "--config", "/nowhere/at/all.toml"];
    let finished = run_with(&check, &arguments, &environment, b"")
        .await
        .unwrap();
    assert_eq!(finished.code, 1);
    assert!(
        finished.said().contains("/nowhere/at/all.toml"),
        "{}",
        finished.said()
    );
}

/// A service of which the configuration has no listener would serve nothing: it does not start.
#[tokio::test]
async fn a_service_without_a_listener() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let relay = kept::settings(site.port());
    let submission = Settings {
        listeners: vec![("submission", site.port(), "implicit")],
        ..kept::settings(site.port())
    };
    let none = Settings {
        listeners: Vec::new(),
        ..kept::settings(site.port())
    };
    for (binary, settings, service) in [
        ("postroad-submission", &relay, "submission"),
        ("postroad-relay", &submission, "relay"),
        ("postroad-relay", &none, "relay"),
        ("postroad", &none, ""),
    ] {
        let path = site.configure("lone", settings).unwrap();
        let error = Site::start_again(binary, &path)
            .await
            .unwrap_err()
            .to_string();
        for needle in ["lone.toml", "[[listener]]", service] {
            assert!(error.contains(needle), "{binary}: {error}");
        }
    }
    let path = site.configure("lone", &none).unwrap();
    let arguments = ["check", "--config", &path];
    let finished = run(program("postroad"), &arguments, b"").await.unwrap();
    assert_eq!(finished.code, 1, "{}", finished.said());
    // Which service it is that nothing is served of does not keep the other from starting.
    let path = site.configure("both", &submission).unwrap();
    let service = Site::start_again("postroad", &path).await.unwrap();
    let mut dialogue = Dialogue::open_tls(submission.listeners[0].1).await.unwrap();
    dialogue.say("QUIT", "221").await.unwrap();
    assert!(service.terminate().await.unwrap().success());
}
