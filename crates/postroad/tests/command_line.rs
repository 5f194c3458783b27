//! The program as an operator runs it.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, and so may what it is made of"
)]

#[path = "command_line/explain.rs"]
mod explain;
#[path = "command_line/tables.rs"]
mod tables;
#[path = "command_line/trace.rs"]
mod trace;
#[path = "command_line/whole_queue.rs"]
mod whole_queue;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory with what a configuration names, and no more variables than a service has.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postroad"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("POSTROAD_CONFIG")
            .env_remove("POSTROAD_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        said(self.command(arguments).output().unwrap())
    }
}

fn said(output: Output) -> (Option<i32>, String) {
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    (output.status.code(), text)
}

const GOOD: &str = "hostname = \"mx.test\"\npostmaster = \"admin@mx.test\"\ninclude = [\"conf.d/*.toml\"]\n[queue]\npath = \"queue\"\n[[listener]]\nservice = \"relay\"\nbind = [\"127.0.0.1:0\"]\ntls = \"none\"\n[dns]\nnameservers = [\"127.0.0.1:9\"]\ntimeout = \"100ms\"\n";
const MAILDIRS: &str = "[relay]\ndomains = [\"a.test\"]\n[[route]]\nrecipient = \"*@a.test\"\nvia = \"maildir:mail/{local}\"\n";

#[test]
fn a_good_configuration_passes_the_check() {
    let site = Site::new();
    site.write("main.toml", GOOD);
    site.write("conf.d/1.toml", MAILDIRS);
    let (status, text) = site.run(&["check", "--config", "main.toml"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.ends_with("the configuration is good\n"), "{text}");
    // By the environment, and from another directory, it is the same.
    let output = site
        .command(&["check"])
        .current_dir("/")
        .env("POSTROAD_CONFIG", site.path("main.toml"))
        .output()
        .unwrap();
    let (status, text) = said(output);
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn a_mistake_in_an_included_file_is_placed_there() {
    let site = Site::new();
    site.write("main.toml", GOOD);
    site.write("conf.d/1.toml", MAILDIRS);
    site.write("conf.d/2.toml", "\n[[route]]\nvia = \"pigeon\"\n");
    for command in ["check", "run"] {
        let output = site
            .command(&[command])
            .env("POSTROAD_CONFIG", "main.toml")
            .output()
            .unwrap();
        let (status, text) = said(output);
        assert_eq!(status, Some(if command == "run" { 2 } else { 1 }), "{text}");
        assert!(
            text.contains("conf.d/2.toml:3: route.via: `pigeon`")
                && text.matches("pigeon").count() == 1,
            "{text}"
        );
    }
    site.write("conf.d/2.toml", "\n[limits]\nmesage_size = 5\n");
    let (status, text) = site.run(&["check", "--config", "main.toml"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("conf.d/2.toml:3:1: ") && text.contains("did you mean `message_size`?"),
        "{text}"
    );
}

#[test]
fn what_makes_no_sense_fails_the_check() {
    let site = Site::new();
    for (more, mistake) in [
        (
            "[log]\nlevel = \"inof\"\n",
            "main.toml:14: log.level: `inof`",
        ),
        (
            "[limits]\nmessage_size = 0\n",
            "main.toml:14: limits.message_size: ",
        ),
        (
            "[limits]\ncommand_timeout = \"0s\"\n",
            "main.toml:14: limits.command_timeout: ",
        ),
        (
            "[delivery]\nexpire = \"0s\"\n",
            "main.toml:14: delivery.expire: ",
        ),
        (
            "[delivery]\nwarn_after = \"0s\"\n",
            "main.toml:14: delivery.warn_after: ",
        ),
        (
            "[delivery]\nconnect_timeout = \"0s\"\n",
            "main.toml:14: delivery.connect_timeout: ",
        ),
        (
            "[[route]]\nvia = \"maildir:/dev/null/{local}\"\n",
            "main.toml:14: route.via: /dev/null is no directory",
        ),
        (
            "[relay]\ntrusted_networks = [\"::ffff:0.0.0.0/1\"]\n",
            "main.toml:14: relay.trusted_networks: ",
        ),
    ] {
        site.write("main.toml", &format!("{GOOD}{more}"));
        let (status, text) = site.run(&["check", "--config", "main.toml"]);
        assert_eq!(status, Some(1), "{more}: {text}");
        assert!(text.contains(mistake), "{more}: {text}");
    }
}

#[test]
fn whatever_the_network_does_is_a_warning() {
    let site = Site::new();
    // Nothing answers at port 9: neither as a name server, nor as a smarthost.
    site.write(
        "main.toml",
        &format!("{GOOD}[relay]\ndomains = [\"a.test\"]\n[[route]]\nrecipient = \"*@b.test\"\nvia = \"smtp://127.0.0.1:9\"\n"),
    );
    let (status, text) = site.run(&["check", "--config", "main.toml"]);
    assert_eq!(status, Some(0), "{text}");
    for warning in [
        "warning: main.toml:14: relay.domains: `a.test` could not be looked up",
        "warning: main.toml:17: route.via: connecting to 127.0.0.1:9",
        "warning: main.toml:11: dns.nameservers: DNSSEC cannot be validated",
    ] {
        assert!(text.contains(warning), "{text}");
    }
}

#[test]
fn the_queue_of_another_is_left_alone() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let site = Site::new();
    site.write("main.toml", GOOD);
    fs::create_dir(site.path("queue")).unwrap();
    std::os::unix::fs::chown(site.path("queue"), Some(65534), Some(65534)).unwrap();
    for arguments in [&["queue", "list"][..], &["run"]] {
        let arguments = [arguments, &["--config", "main.toml"]].concat();
        let (status, text) = site.run(&arguments);
        assert_eq!(status, Some(1), "{text}");
        assert!(
            text.contains("`sudo -u nobody postroad queue list`"),
            "{text}"
        );
        assert_eq!(entries(&site.path("queue")), 0);
    }
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_second_signal_ends_it_at_once() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let site = Site::new();
    site.write("main.toml", &format!("{GOOD}[limits]\ndrain = \"60s\"\n"));
    let manager = std::os::unix::net::UnixDatagram::bind(site.path("notify")).unwrap();
    let told = || {
        let mut state = [0; 512];
        let octets = manager.recv(&mut state).unwrap();
        String::from_utf8_lossy(&state[..octets]).into_owned()
    };
    let mut service = site
        .command(&["run", "--config", "main.toml"])
        .env("NOTIFY_SOCKET", site.path("notify"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(service.stderr.take().unwrap());
    let mut wait_for = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "no {text}");
        }
        line
    };
    let ready = wait_for("ready");
    let port = ready.split("127.0.0.1:").nth(1).unwrap();
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    // A message in the middle of its DATA holds up the stop.
    let mut client = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    for line in [
        "",
        "HELO c.test\r\n",
        "MAIL FROM:<a@b.test>\r\n",
        "RCPT TO:<c@d.test>\r\n",
        "DATA\r\n",
    ] {
        client.write_all(line.as_bytes()).unwrap();
        let mut reply = [0; 512];
        let octets = client.read(&mut reply).unwrap();
        assert!(
            matches!(reply[0], b'2' | b'3'),
            "{}",
            String::from_utf8_lossy(&reply[..octets])
        );
    }
    let pid = Pid::from_raw(i32::try_from(service.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    wait_for("stopping");
    // The service manager must not kill it before its time: 60 s, and what closing takes.
    assert!(told().contains("READY=1"));
    let stopping = told();
    assert!(
        stopping.contains("STOPPING=1") && stopping.contains("EXTEND_TIMEOUT_USEC=75000000"),
        "{stopping}"
    );
    // A repetition is the same order; a second later it is another.
    kill(pid, Signal::SIGTERM).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert!(service.try_wait().unwrap().is_none());
    kill(pid, Signal::SIGTERM).unwrap();
    wait_for("stopped at once");
    assert!(service.wait().unwrap().success());
}

#[test]
fn what_is_given_wrongly_is_named() {
    let site = Site::new();
    for ports in ["2525", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,3,70000"] {
        let (status, text) = site.run(&["dev", "--ports", ports]);
        assert_eq!(status, Some(2), "{text}");
        assert!(text.contains("expected four numbers"), "{text}");
    }
    let (status, text) = site.run(&["user", "add", "alice", "--file", "none/users.toml"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("there is no directory none;"), "{text}");
}

#[test]
fn the_help_shows_an_id_as_they_are() {
    let (status, text) = Site::new().run(&["queue", "--help"]);
    assert_eq!(status, Some(0), "{text}");
    let id = text.split("postroad queue show ").nth(1).unwrap();
    let id = id.lines().next().unwrap();
    assert!(id.parse::<postroad_queue::QueueId>().is_ok(), "{id}");
}

#[test]
fn a_held_message_is_not_said_to_be_due() {
    let site = Site::new();
    site.write("main.toml", GOOD);
    let order = |order: &[&str]| {
        let (status, text) = site.run(&[&["queue"], order, &["--config", "main.toml"]].concat());
        assert_eq!(status, Some(0), "{text}");
        text
    };
    queue_one(&site.path("main.toml"));
    let listed = order(&["list"]);
    assert!(listed.contains("0 attempts  next "), "{listed}");
    assert_eq!(order(&["retry", "--all"]), "1 due now\n");
    assert_eq!(order(&["hold", "--all"]), "1 held\n");
    let retried = order(&["retry", "--all"]);
    assert!(
        retried.starts_with("0 due now; 1 held, not tried until released"),
        "{retried}"
    );
    assert_eq!(order(&["release", "--all"]), "1 released\n");
    assert_eq!(order(&["retry", "--all"]), "1 due now\n");
}

/// A message in the queue of a configuration, while no service runs.
fn queue_one(config: &Path) {
    with_queue(config, async |store| {
        let now = postroad_mail::Timestamp::from_millis(1_700_000_000_000);
        let recipient = postroad_mail::Recipient::new("bob@b.test".parse().unwrap());
        let draft = postroad_queue::Draft {
            envelope: postroad_mail::Envelope::new("<a@b.test>".parse().unwrap(), recipient),
            origin: postroad_mail::Origin::default(),
            head: "Subject: x\r\n\r\n".into(),
            lanes: vec![postroad_queue::Lane::new("b.test")],
            resumes: None,
        };
        let incoming = store.begin(now).unwrap();
        incoming.commit(now, draft).await.unwrap();
    });
}

/// Works on the queue of a configuration, while no service runs.
fn with_queue(config: &Path, work: impl AsyncFnOnce(&dyn postroad_queue::Store)) {
    let config = postroad_service::config::load(config).unwrap().config;
    let worked = async {
        let store = postroad_service::open_store(&config).await.unwrap();
        work(&*store).await;
        store.close().await.unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(worked);
}
