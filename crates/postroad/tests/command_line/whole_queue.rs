//! Export, import and verify of a queue that no service runs on, and the filters.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use postroad_mail::{EnhancedCode, Envelope, Origin, Recipient, Reply, Timestamp};
use postroad_queue::{Draft, Evidence, Lane, RecipientState, Resume, Resumed, Store};
use serde_json::Value;

use super::{GOOD, Site, said, with_queue};

/// A message in the middle, larger than any piece in which it travels.
const LARGE: usize = 3 << 20;

fn arrived(n: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + n * 1000)
}

/// Tried before: deferred with these words, or not.
fn resumed(n: u64, reply: &'static str) -> Resumed {
    Resumed {
        attempts: 2,
        due: Some(arrived(9000 + n)),
        warned: true,
        last: Some(Evidence {
            at: arrived(n),
            hop: None,
            remote_mta: None,
            reply: Reply::row(451, EnhancedCode::transient(7, 1), "").with_text(reply),
            remote: true,
            tls: None,
        }),
        ..Resumed::default()
    }
}

async fn put(store: &dyn Store, n: u64, to: &str, body: Vec<u8>, resumes: Resume) {
    let mut envelope = Envelope::new(
        format!("<alice{n}@b.test>").parse().unwrap(),
        Recipient::new(to.parse().unwrap()),
    );
    envelope.push(Recipient::new("done@b.test".parse().unwrap()));
    let mut incoming = store.begin(arrived(n)).unwrap();
    incoming.write(body.into()).await.unwrap();
    let draft = Draft {
        envelope,
        origin: Origin::default(),
        head: format!("Subject: {n}\r\nX: y\r\n\r\n").into_bytes().into(),
        lanes: vec![Lane::new("some lane")],
        resumes: Some(resumes),
    };
    incoming.commit(arrived(n), draft).await.unwrap();
}

/// A site with three messages in `queue`, and a second configuration with an empty queue.
fn site() -> Site {
    let site = Site::new();
    site.write("main.toml", GOOD);
    site.write("other.toml", &GOOD.replace("\"queue\"", "\"other\""));
    fs::create_dir(site.path("other")).unwrap();
    with_queue(&site.path("main.toml"), async |store| {
        let large = (0_u32..).flat_map(u32::to_le_bytes).take(LARGE);
        for (n, to, body, reply) in [
            (1, "bob@b.test", b"one\r\n".to_vec(), "greylisted"),
            (2, "carol@c.test", large.collect(), "come again"),
            (3, "bob@c.test", Vec::new(), "greylisted too"),
        ] {
            let done = Resumed {
                state: RecipientState::Delivered,
                ..resumed(n, "taken")
            };
            let resume = Resume {
                arrived: arrived(n),
                held: n == 2,
                recipients: vec![resumed(n, reply), done],
            };
            put(store, n, to, body, resume).await;
        }
    });
    site
}

impl Site {
    fn order(&self, config: &str, order: &[&str]) -> (Option<i32>, String) {
        self.run(&[&["queue"], order, &["--config", config]].concat())
    }

    fn done(&self, config: &str, order: &[&str]) -> String {
        let (status, text) = self.order(config, order);
        assert_eq!(status, Some(0), "{order:?}: {text}");
        text
    }

    fn listed(&self, config: &str, which: &[&str]) -> Vec<Value> {
        let text = self.done(config, &[&["list", "--json"], which].concat());
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    /// Messages without their names, and what they are made of.
    fn told(&self, config: &str) -> Vec<(Value, Vec<u8>)> {
        let mut messages = self.listed(config, &[]);
        let told = messages.iter_mut().map(|message| {
            let id = message.as_object_mut().unwrap().remove("id").unwrap();
            let body = ["queue", "body", id.as_str().unwrap(), "--config", config];
            let body = self.command(&body).output().unwrap().stdout;
            (message.clone(), body)
        });
        told.collect()
    }
}

#[test]
fn a_queue_moves_to_another_as_it_is() {
    let site = site();
    let text = site.done("main.toml", &["export", "--output", "mail.export"]);
    assert!(text.starts_with("3 messages exported, "), "{text}");
    let mode = fs::metadata(site.path("mail.export"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let text = site.done("other.toml", &["import", "mail.export"]);
    assert!(text.starts_with("3 messages imported, "), "{text}");
    let (told, other) = (site.told("main.toml"), site.told("other.toml"));
    assert_eq!(told.len(), 3);
    assert_eq!(told[1].1.len(), "Subject: 2\r\nX: y\r\n\r\n".len() + LARGE);
    assert!(told == other, "{told:?}\n{other:?}");
    assert_eq!(told[0].0["recipients"][0]["attempts"], 2);
    assert_eq!(told[1].0["held"], true);

    // An export is not written over another.
    let (status, text) = site.order("main.toml", &["export", "-o", "mail.export"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("mail.export is there already"), "{text}");
    let (status, text) = site.order("main.toml", &["export", "-o", "none/mail"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("creating none/mail"), "{text}");
}

#[test]
fn some_of_a_queue_through_a_pipe() {
    let site = site();
    let mut export = site
        .command(&["queue", "export", "--to", "bob", "--config", "main.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let import = site
        .command(&["queue", "import", "--json", "--config", "other.toml"])
        .stdin(export.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(export.wait().unwrap().success());
    let (status, text) = said(import);
    assert_eq!(status, Some(0), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["imported"]["messages"], 2, "{text}");
    let to = |m: &Value| m["recipients"][0]["address"].as_str().unwrap().to_owned();
    let listed = site.listed("other.toml", &[]);
    let listed: Vec<_> = listed.iter().map(to).collect();
    assert_eq!(listed, ["bob@b.test", "bob@c.test"]);
}

#[test]
fn an_import_that_fails_says_how_to_go_on() {
    let site = site();
    site.done("main.toml", &["export", "--output", "whole"]);
    let whole = fs::read(site.path("whole")).unwrap();
    fs::write(site.path("cut"), &whole[..whole.len() / 2]).unwrap();
    let (status, text) = site.order("other.toml", &["import", "cut"]);
    assert_eq!(status, Some(1), "{text}");
    for said in [
        "1 message imported",
        &format!(
            "damaged at octet {}, in its message 2: it ends here",
            whole.len() / 2
        ),
        "`--skip 1`",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let text = site.done("other.toml", &["import", "--skip", "1", "whole"]);
    assert!(
        text.contains("2 messages imported") && text.contains("1 message skipped"),
        "{text}"
    );
    assert!(site.told("main.toml") == site.told("other.toml"));

    for (order, said) in [
        (
            &["import", "main.toml"][..],
            "nothing was imported: the export is damaged at octet 0: it is no export of a queue",
        ),
        (&["import", "none"], "opening none: "),
        (
            &["import", "--skip", "x", "whole"],
            "expected how many messages to skip",
        ),
    ] {
        let (status, text) = site.order("other.toml", order);
        assert_ne!(status, Some(0), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn verify_names_what_is_damaged() {
    let site = site();
    let text = site.done("main.toml", &["verify"]);
    assert!(
        text.starts_with("3 messages, ") && text.contains("as it was written"),
        "{text}"
    );
    let ids = site.listed("main.toml", &[]);
    let (path, at) = place_of(&site, b"one\r\n");
    let mut octets = fs::read(&path).unwrap();
    octets[at] ^= 1;
    fs::write(&path, octets).unwrap();

    let (status, text) = site.order("main.toml", &["verify"]);
    assert_eq!(status, Some(1), "{text}");
    let name = path.file_name().unwrap().to_str().unwrap();
    let id = ids[0]["id"].as_str().unwrap();
    let first = text.lines().next().unwrap();
    assert!(
        first.contains(name) && first.contains(id) && first.contains(" at octet "),
        "{text}"
    );
    let (status, text) = site.order("main.toml", &["verify", "--json"]);
    assert_eq!(status, Some(1), "{text}");
    let verified: Value = serde_json::from_str(&text).unwrap();
    let finding = &verified["findings"][0];
    assert_eq!(finding["id"], id, "{text}");
    let number: u64 = name
        .trim_start_matches("seg-")
        .split('.')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(finding["segment"], number, "{text}");
    assert!(finding["offset"].as_u64().unwrap() <= at as u64, "{text}");
    assert_eq!(verified["messages"], 2, "{text}");

    // The others can be moved all the same, and what is missing is said.
    let (_, text) = site.order("main.toml", &["export", "-o", "rest"]);
    assert!(text.contains("2 messages exported"), "{text}");
    let text = site.done("other.toml", &["import", "rest"]);
    assert!(text.contains("2 messages imported"), "{text}");
}

/// The file of the queue in which that stands, and where.
fn place_of(site: &Site, octets: &[u8]) -> (PathBuf, usize) {
    let files = fs::read_dir(site.path("queue")).unwrap();
    let found = files.flatten().find_map(|file| {
        let path = file.path();
        let is_log = path.extension().is_some_and(|e| e == "log");
        let text = is_log.then(|| fs::read(&path).unwrap())?;
        let at = text.windows(octets.len()).position(|w| w == octets)?;
        Some((path, at))
    });
    found.unwrap()
}

#[test]
fn filters_by_age_and_reason() {
    let site = site();
    let count = |which: &[&str]| site.listed("main.toml", which).len();
    assert_eq!(count(&["--older", "1d"]), 3);
    assert_eq!(count(&["--older", "100000d"]), 0);
    assert_eq!(count(&["--reason", "GREYlisted"]), 2);
    assert_eq!(count(&["--reason", "greylisted too"]), 1);
    assert_eq!(
        count(&["--reason", "taken"]),
        0,
        "of a recipient that is done with"
    );
    assert_eq!(count(&["--reason", "451 4.7.1", "--to", "c.test"]), 2);
    assert_eq!(
        site.done("main.toml", &["hold", "--reason", "greylisted"]),
        "2 held\n"
    );
    assert_eq!(count(&["--held"]), 3);
    assert_eq!(
        site.done("main.toml", &["hold", "--reason", "no such word"]),
        "0 held\n"
    );
    let text = site.done("main.toml", &["release", "--older", "1d", "--json"]);
    assert_eq!(text, "{\"messages\":3}\n");
    let text = site.done("main.toml", &["hold", "--to", "carol", "--json"]);
    assert_eq!(text, "{\"messages\":1}\n");
    let text = site.done("main.toml", &["retry", "--all", "--json"]);
    assert_eq!(text, "{\"messages\":3,\"held\":1}\n");
    assert_eq!(
        site.done("main.toml", &["delete", "--domain", "c.test"]),
        "2 removed\n"
    );
    let (status, text) = site.order("main.toml", &["list", "--older", "5 weeks"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("expected a time such as"), "{text}");
    let (status, text) = site.order("main.toml", &["hold"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("--older, --reason"), "{text}");
    let text = site.done("main.toml", &["stats"]);
    assert!(
        text.contains(" octets of files, ") && text.contains(" octets free"),
        "{text}"
    );
    let stats: Value = serde_json::from_str(&site.done("main.toml", &["stats", "--json"])).unwrap();
    assert!(stats["health"]["disk"].as_u64().unwrap() > 0, "{stats}");
}
