use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postroad_msa::{Authenticator as _, add_user};
use postroad_net::clock;
use postroad_proto::sasl::Secret;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::load;

fn service(path: &Path) -> Service {
    Service::new(load(path).unwrap())
}

fn certificate(directory: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed(vec![format!("{name}.test")]).unwrap();
    let path = |end: &str| directory.join(format!("{name}.{end}"));
    std::fs::write(path("pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
}

/// Says lines, each after the reply to the one before; the last replies.
async fn talk(stream: &mut BufReader<TcpStream>, lines: &[&str]) -> String {
    let mut reply = String::new();
    for line in lines {
        stream.write_all(line.as_bytes()).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
        loop {
            reply.clear();
            stream.read_line(&mut reply).await.unwrap();
            if reply.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
    }
    reply
}

async fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut greeting = String::new();
    stream.read_line(&mut greeting).await.unwrap();
    assert!(greeting.starts_with("220 "), "{greeting}");
    stream
}

fn configuration(directory: &Path, more: &str) -> std::path::PathBuf {
    let path = directory.join("c.toml");
    let text = format!(
        "hostname = \"mx.test\"\npostmaster = \"admin@box.test\"\nqueue = {{ store = \"memory\" }}\n[admin]\nsocket = \"admin.sock\"\n[log]\nlevel = \"warn\"\n{more}"
    );
    std::fs::write(&path, text).unwrap();
    path
}

const BOTH: &str = "[submission]\ndirectory = { kind = \"file\", path = \"USERS.toml\" }\n[tls]\ncertificate = \"CERT.pem\"\nkey = \"CERT.key\"\n[[listener]]\nservice = \"submission\"\nbind = [\"127.0.0.1:0\"]\n[[listener]]\nservice = \"relay\"\nbind = [\"127.0.0.1:0\"]\n";

#[tokio::test]
async fn a_reload_takes_all_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    certificate(at, "one");
    certificate(at, "two");
    add_user(&at.join("one.toml"), "alice", "one").unwrap();
    let configure = |cert: &str, users: &str, more: &str| {
        let text = BOTH.replace("CERT", cert).replace("USERS", users);
        configuration(at, &format!("{text}{more}"))
    };
    let path = configure("one", "one", "");
    let running = Running::start(service(&path)).await.unwrap();
    let seen = || format!("{:?}", running.certificates);
    let users = Arc::clone(running.users.as_ref().unwrap());
    let alice = async |password: &str| {
        let secret = Secret::new(password.to_owned());
        users.verify("alice", &secret).await.unwrap().is_some()
    };
    let first = seen();

    // The certificate is good, the users are not: neither is taken.
    configure("two", "none", "");
    let error = running.try_reload().unwrap_err().to_string();
    assert!(
        error.contains("c.toml:9: submission.directory: reading ") && error.contains("none.toml"),
        "{error}"
    );
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
    assert_eq!(seen(), first);
    assert!(alice("one").await);

    // All good: paths count, not only what the old files hold now.
    add_user(&at.join("two.toml"), "alice", "two").unwrap();
    configure("two", "two", "[delivery]\nauthorities = [\"two.pem\"]\n");
    assert!(running.try_reload().unwrap().is_empty());
    assert_ne!(seen(), first);
    assert!(!alice("one").await && alice("two").await);

    // What waits for a restart is named.
    configure("two", "two", "tls = \"none\"\n[limits]\ndrain = \"1s\"\n");
    let waiting = running.try_reload().unwrap();
    assert_eq!(waiting, ["listener.tls", "limits.drain"]);
    configure("two", "two", "[delivery]\nauthorities = [\"none.pem\"]\n");
    let error = running.try_reload().unwrap_err().to_string();
    assert!(
        error.contains("delivery.authorities: ") && error.contains("none.pem"),
        "{error}"
    );
    running.stop().await;
}

#[tokio::test]
async fn sessions_and_deliveries_share_the_time_of_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    // A next hop that never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hop = silent.local_addr().unwrap();
    let path = configuration(
        directory.path(),
        &format!(
            "[limits]\ndrain = \"1s\"\n[[listener]]\nservice = \"relay\"\nbind = [\"127.0.0.1:0\"]\ntls = \"none\"\n[[route]]\nvia = \"smtp://{hop}\"\n"
        ),
    );
    let running = Running::start(service(&path)).await.unwrap();
    let address = running.addresses[0];
    let mut sender = connect(address).await;
    let envelope = [
        "EHLO c.test",
        "MAIL FROM:<a@b.test>",
        "RCPT TO:<c@d.test>",
        "DATA",
    ];
    assert!(talk(&mut sender, &envelope).await.starts_with("354 "));
    let queued = talk(&mut sender, &["Subject: x\r\n\r\nx\r\n."]).await;
    assert!(queued.starts_with("250 "), "{queued}");
    let _delivery = silent.accept().await.unwrap();
    // A session in the middle of its message is not finished either.
    let mut slow = connect(address).await;
    assert!(talk(&mut slow, &envelope).await.starts_with("354 "));

    let started = clock::instant();
    running.stop().await;
    let took = clock::instant() - started;
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_millis(1900),
        "{took:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_had_is_named_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    certificate(at, "one");
    add_user(&at.join("one.toml"), "alice", "one").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap();
    let good = BOTH.replace("CERT", "one").replace("USERS", "one");
    let error = async |more: String| {
        let path = configuration(at, &more);
        let error = Running::start(service(&path))
            .await
            .map(|_| ())
            .unwrap_err();
        with_causes(&error)
    };
    for (more, place, cause) in [
        (
            good.replace("one.key", "none.key"),
            "c.toml:12: tls.key: ",
            "No such file",
        ),
        (
            good.replace("one.pem", "none.pem"),
            "c.toml:11: tls.certificate: ",
            "No such file",
        ),
        (
            good.replacen("127.0.0.1:0", &taken.to_string(), 1),
            "c.toml:15: listener.bind: ",
            "in use",
        ),
    ] {
        let text = error(more).await;
        assert!(text.contains(place), "{text}");
        assert_eq!(text.matches(cause).count(), 1, "{text}");
    }
    std::fs::create_dir(at.join("admin.sock")).unwrap();
    let text = error(good).await;
    assert!(text.contains("c.toml:5: admin.socket: "), "{text}");
}

/// A configuration with a table of aliases for a domain; that of `new.test` observes policies.
fn with_aliases(at: &Path, table: &str, domain: &str) -> std::path::PathBuf {
    let policy = if domain == "new.test" {
        "observe"
    } else {
        "enforce"
    };
    let text = format!(
        "[delivery]\ntls_policy = \"{policy}\"\n[relay]\ntrusted_networks = []\n[[listener]]\nservice = \"relay\"\nbind = [\"127.0.0.1:0\"]\ntls = \"none\"\n[[alias]]\ntable = \"{table}\"\ndomains = [\"{domain}\"]\n[[route]]\nvia = \"discard\"\n"
    );
    configuration(at, &text)
}

#[tokio::test]
async fn aliases_and_their_domains_follow_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("old.txt"), "bob@old.test box@m.test\n").unwrap();
    std::fs::write(at.join("new.txt"), "bob@new.test box@m.test\n").unwrap();
    std::fs::write(at.join("bad.txt"), "bob@new.test\n").unwrap();
    let configure = |table: &str, domain: &str| with_aliases(at, table, domain);
    let path = configure("old.txt", "old.test");
    let running = Running::start(service(&path)).await.unwrap();
    let address = running.addresses[0];
    let said = async |to: &str| {
        let mut client = connect(address).await;
        let lines = [
            "EHLO c.test",
            "MAIL FROM:<a@b.test>",
            &format!("RCPT TO:<{to}>"),
        ];
        talk(&mut client, &lines).await
    };
    for (to, reply) in [
        ("bob@old.test", "250 2.1.5"),
        ("eve@old.test", "550 5.1.1"),
        ("bob@new.test", "550 5.7.1"),
    ] {
        let said = said(to).await;
        assert!(said.starts_with(reply), "{to}: {said}");
    }
    configure("bad.txt", "new.test");
    let error = running.try_reload().unwrap_err().to_string();
    assert!(
        error.contains("alias.table: ") && error.contains("bad.txt:1: "),
        "{error}"
    );
    assert!(said("bob@old.test").await.starts_with("250 "));
    configure("new.txt", "new.test");
    assert!(running.try_reload().unwrap().is_empty());
    for (to, reply) in [
        ("bob@new.test", "250 2.1.5"),
        ("eve@new.test", "550 5.1.1"),
        ("bob@old.test", "550 5.7.1"),
    ] {
        let said = said(to).await;
        assert!(said.starts_with(reply), "{to}: {said}");
    }
    running.stop().await;
}

#[tokio::test]
async fn who_asks_is_told_what_holds_since_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("new.txt"), "bob@new.test box@m.test\n").unwrap();
    let path = with_aliases(at, "new.txt", "old.test");
    let running = Running::start(service(&path)).await.unwrap();
    let enforced = crate::tls_report::ask(&load(&path).unwrap()).await.unwrap();
    assert_eq!(enforced.tls_policy, crate::config::TlsPolicy::Enforce);
    with_aliases(at, "new.txt", "new.test");
    assert!(running.try_reload().unwrap().is_empty());
    let loaded = load(&path).unwrap();
    let request = crate::explain::ExplainRequest {
        recipient: "bob@new.test".parse().unwrap(),
        sender: postroad_mail::ReversePath::Null,
        user: None,
        network: None,
        connect: false,
    };
    let explained = crate::explain::ask(&loaded, &request).await.unwrap();
    assert!(explained.running && explained.deliverable, "{explained:?}");
    let report = crate::tls_report::ask(&loaded).await.unwrap();
    assert_eq!(report.tls_policy, crate::config::TlsPolicy::Observe);
    assert_eq!(explained.members[0].address, "box@m.test");
    assert!(
        explained.explanations[0]
            .chosen_by
            .as_deref()
            .unwrap()
            .ends_with("[[route]] 1")
    );
    running.stop().await;
}
