//! `postroad explain` where no service runs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use super::{GOOD, Site};

/// Takes one connection, greets, and answers each command with what is said of it. It gives the
/// commands back.
fn host(answers: &'static [(&'static str, &'static str)]) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let talk = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut commands = Vec::new();
        let mut writer = stream.try_clone().unwrap();
        writer.write_all(b"220 hop.test ESMTP\r\n").unwrap();
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            let answer = answers.iter().find(|(start, _)| line.starts_with(start));
            let answer = answer.map_or("500 5.5.1 what?\r\n", |(_, answer)| answer);
            let gone = writer.write_all(answer.as_bytes()).is_err();
            commands.push(line);
            if gone || commands.last().is_some_and(|last| last == "QUIT") {
                break;
            }
        }
        commands
    });
    (address, talk)
}

const TAKES: &[(&str, &str)] = &[
    (
        "EHLO",
        "250-hop.test\r\n250-PIPELINING\r\n250 SIZE 1000\r\n",
    ),
    ("MAIL", "250 2.1.0 fine\r\n"),
    ("RCPT", "250 2.1.5 I know him\r\n"),
    ("RSET", "250 2.0.0 forgotten\r\n"),
    ("QUIT", "221 2.0.0 bye\r\n"),
];
const REFUSES: &[(&str, &str)] = &[
    ("EHLO", "250 hop.test\r\n"),
    ("MAIL", "250 2.1.0 fine\r\n"),
    ("RCPT", "550 5.1.1 nobody of that name\r\n"),
    ("RSET", "250 2.0.0 forgotten\r\n"),
    ("QUIT", "221 2.0.0 bye\r\n"),
];

#[test]
fn route_table_and_alias_are_named() {
    let site = Site::new();
    site.write(
        "main.toml",
        &format!(
            "{GOOD}[[route]]\nrecipient = \"*@a.test\"\nvia = \"maildir:mail/{{local}}\"\n[[route]]\ntable = \"routes.txt\"\n[[alias]]\ndomains = [\"v.test\"]\ntable = \"aliases.txt\"\n"
        ),
    );
    site.write(
        "routes.txt",
        "# ours\n*@t.test discard\nbad@r.test reject 5.1.1 gone\n",
    );
    site.write(
        "aliases.txt",
        "list@v.test bob@a.test, carol@t.test\nowner-list@v.test boss@a.test\n",
    );
    let explain = |to: &[&str]| site.run(&[&["explain", "--config", "main.toml"], to].concat());
    let (status, text) = explain(&["bob@a.test"]);
    assert_eq!(status, Some(0), "{text}");
    for said in [
        "No service runs",
        "bob@a.test, from <>",
        "  chosen by   main.toml:13, [[route]] 1\n",
        "/mail/bob",
        "It would be delivered now",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let (status, text) = explain(&["x@t.test"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("[[route]] 2, ") && text.contains("routes.txt:2"),
        "{text}"
    );
    let (status, text) = explain(&["bad@r.test"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("fails: 550 5.1.1 gone"), "{text}");
    // The list, with its owner; and one who is not there.
    let (status, text) = explain(&["list@v.test", "--from", "a@b.test"]);
    assert_eq!(status, Some(0), "{text}");
    for said in [
        "list@v.test stands for\n  bob@a.test  (bounces go to <owner-list@v.test>)\n  carol@t.test",
        "bob@a.test, from <owner-list@v.test>",
        "routes.txt:2",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let (status, text) = explain(&["nobody@v.test"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("refused: 550 5.1.1"), "{text}");
    let (status, text) = explain(&["x@elsewhere.test"]);
    assert_eq!(status, Some(1), "no name server answers: {text}");
    assert!(
        text.contains("no route matches: by MX") && text.contains("waits: 451"),
        "{text}"
    );
}

#[test]
fn hosts_are_asked_and_no_mail_is_sent() {
    let site = Site::new();
    for (answers, status, said) in [
        (TAKES, 0, "would take it: RCPT: 250 2.1.5 I know him"),
        (
            REFUSES,
            1,
            "would not take it: RCPT: 550 5.1.1 nobody of that name",
        ),
    ] {
        let (address, talk) = host(answers);
        site.write(
            "main.toml",
            &format!("{GOOD}[[route]]\nvia = \"smtp://{address}\"\nhelo = \"me.test\"\nlimits = {{ messages = \"100/1m\" }}\n"),
        );
        let arguments = [
            "explain",
            "bob@b.test",
            "--config",
            "main.toml",
            "--connect",
        ];
        let (found, text) = site.run(&arguments);
        assert_eq!(found, Some(status), "{text}");
        let limits = "messages: 100 in 60 s ([[route]] 1)";
        for said in [said, limits, &format!("{address}\n")] {
            assert!(text.contains(said), "{said}: {text}");
        }
        let commands = talk.join().unwrap();
        assert_eq!(commands[0], "EHLO me.test");
        assert!(
            commands.iter().any(|c| c == "RCPT TO:<bob@b.test>"),
            "{commands:?}"
        );
        let sent = commands
            .iter()
            .any(|c| c.starts_with("DATA") || c.starts_with("BDAT"));
        assert!(!sent, "{commands:?}");
    }
}

#[test]
fn for_programs_and_for_those_who_mistype() {
    let site = Site::new();
    site.write(
        "main.toml",
        &format!("{GOOD}[[route]]\nvia = \"defer 4.2.0 later\"\n"),
    );
    let arguments = ["explain", "<bob@b.test>", "--config", "main.toml", "--json"];
    let (status, text) = site.run(&arguments);
    assert_eq!(status, Some(1), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["running"], false);
    assert_eq!(value["deliverable"], false);
    assert_eq!(value["explanations"][0]["recipient"], "bob@b.test");
    assert_eq!(
        value["explanations"][0]["outcome"],
        "waits: 451 4.2.0 later"
    );
    for wrong in [
        &["explain", "bob"][..],
        &["explain", "a@b.test", "--from", "x y"],
    ] {
        let (status, text) = site.run(wrong);
        assert_eq!(status, Some(2), "{text}");
        assert!(text.contains("expected an address such as"), "{text}");
    }
    site.write("main.toml", &format!("{GOOD}[[route]]\nvia = \"pigeon\"\n"));
    let (status, text) = site.run(&["explain", "a@b.test", "--config", "main.toml"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("route.via: `pigeon`"), "{text}");
}
