//! The client's session: against scripted servers, and against our own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test stops at the first thing that is not as it must be; any moment will do"
)]

mod script;

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use postroad_mail::{Notify, Protocol};
use postroad_proto::client::{Config, Credentials, Output, Report, Session, StartTls};
use postroad_proto::sasl::{Mechanism, Secret};
use postroad_proto::server;

use script::{MESSAGE, Play, config, show, transaction};

const PLAIN: &str = "S 220 hi\nC EHLO me.test\nS 250 hi\n";
const PIPED: &str = "S 220 hi\nC EHLO me.test\nS 250-hi\\n250 PIPELINING\n";
const THREE: &str = "C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\\nRCPT TO:<e@f.test>\\nDATA\n";
const DOTTED: &str = "C Subject: x\\n\\n..dot\\n.\n";

#[test]
fn scripts() {
    let two = &["c@d.test", "e@f.test"][..];
    let cases: Vec<(&[&str], String, &str)> = vec![
        (two, format!("{PIPED}{THREE}S 250 ok\nS 250 ok\nS 250 ok\nS 354 go\n{DOTTED}S 250 2.0.0 taken"), "accepted 250, accepted 250"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 550 no\nS 250 ok\nS 354 go\n{DOTTED}S 250 taken"), "Rcpt 550, accepted 250"),
        // DATA went ahead of the refusals: a message to nobody is ended at once.
        (two, format!("{PIPED}{THREE}S 250 ok\nS 550 no\nS 450 no\nS 354 go\nC .\nS 554 none"), "Rcpt 550, Rcpt 450"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 550 no\nS 450 no\nS 554 none"), "Rcpt 550, Rcpt 450"),
        (two, format!("{PIPED}{THREE}S 552 no\nS 503 no\nS 503 no\nS 503 no"), "Mail 552, Mail 552"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 250 ok\nS 250 ok\nS 451 no"), "Data 451, Data 451"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 250 ok\nS 250 ok\nS 354 go\n{DOTTED}S 452 full"), "EndOfData 452, EndOfData 452"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 250 ok\nS 250 ok\nS 354 go\n{DOTTED}EOF"), "broken EndOfData, broken EndOfData; EndOfData: the connection was lost"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 250 ok\nS 250 ok\nS 354 go\n{DOTTED}LATE"), "broken EndOfData, broken EndOfData; EndOfData: no reply in time"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 550 no\nEOF"), "Rcpt 550, broken Rcpt; Rcpt: the connection was lost"),
        (two, format!("{PIPED}{THREE}S 250 ok\nS 421 bye"), "broken Rcpt, broken Rcpt; Rcpt: the server said 421 bye"),
        (&["c@d.test"], format!("{PLAIN}C MAIL FROM:<a@b.test>\nS 250 ok\nC RCPT TO:<c@d.test>\nS 250 ok\nC DATA\nS 354 go\n{DOTTED}S 250 ok"), "accepted 250"),
        (&["c@d.test"], format!("{PLAIN}C MAIL FROM:<a@b.test>\nS 250 ok\nC RCPT TO:<c@d.test>\nS 450 no"), "Rcpt 450"),
        (
            &["c@d.test"],
            "S 220 hi\nC EHLO me.test\nS 250-hi\\n250-CHUNKING\\n250-SIZE 100\\n250 DSN\nC MAIL FROM:<a@b.test> SIZE=20 ENVID=e+201\nS 250 ok\nC RCPT TO:<c@d.test> NOTIFY=NEVER\nS 250 ok\nC BDAT 20 LAST\\nSubject: x\\n\\n.dot\nS 250 ok".to_owned(),
            "accepted 250",
        ),
        (&["c@d.test"], "S 220 hi\nC EHLO me.test\nS 250-hi\\n250 SIZE 10".to_owned(), "Size { limit: 10 }"),
        (&["c@d.test"], "S 220 hi\nC EHLO me.test\nS 502 what\nC HELO me.test\nS 250 hi\nC MAIL FROM:<a@b.test>\nS 250 ok\nC RCPT TO:<c@d.test>\nEOF".to_owned(), "broken Rcpt; Rcpt: the connection was lost"),
        (two, "S 554 go away".to_owned(), "Greeting: the server said 554 go away"),
        (two, "S 220-hi\nS 250 hi".to_owned(), "Greeting: the server's reply is not valid: a code that changes between the lines of a reply"),
        (two, "S hello".to_owned(), "Greeting: the server's reply is not valid: a line without a code"),
    ];
    for (recipients, script, ended) in cases {
        for piece in [1, 7, 10_000] {
            let mut one = transaction(recipients);
            if script.contains("NOTIFY=NEVER") {
                one.recipients
                    .iter_mut()
                    .for_each(|r| r.notify = Some(Notify::NEVER));
            }
            let mut play = Play::new(config(StartTls::IfOffered), vec![one]);
            play.split = piece;
            assert_eq!(play.script(&script), ended, "{script}");
        }
    }
}

fn logged_in(mechanism: Mechanism) -> Config {
    Config {
        credentials: Some(Credentials {
            user: "u".to_owned(),
            secret: Secret::new("p".to_owned()),
            mechanisms: vec![mechanism],
        }),
        ..config(StartTls::Require)
    }
}

#[test]
fn tls_and_login() {
    let offer = "S 220 hi\nC EHLO me.test\nS 250-hi\\n250-AUTH PLAIN LOGIN\\n250 STARTTLS\n";
    let shown = |config: Config, script: &str| Play::new(config, vec![]).script(script);
    // What comes behind the 220 in the clear is nothing: EHLO is asked again, and what it said before forgotten.
    let injected = format!(
        "{offer}C STARTTLS\nS 220 go\\n250-evil\\n250 AUTH PLAIN\nTLS\nC EHLO me.test\nS 250 hi\n"
    );
    assert_eq!(shown(config(StartTls::IfOffered), &injected), "");
    assert_eq!(
        shown(logged_in(Mechanism::Plain), &injected),
        "Auth: authentication is required, and not possible here"
    );
    assert_eq!(shown(config(StartTls::Never), offer), "");
    assert_eq!(
        shown(
            config(StartTls::IfOffered),
            &format!("{offer}C STARTTLS\nS 454 later")
        ),
        ""
    );
    assert_eq!(
        shown(
            config(StartTls::Require),
            &format!("{offer}C STARTTLS\nS 454 later")
        ),
        "StartTls: the server said 454 later"
    );
    assert_eq!(
        shown(config(StartTls::Require), PLAIN),
        "StartTls: STARTTLS is required, and not offered"
    );
    // Never a password in the clear.
    let clear = Config {
        starttls: StartTls::Never,
        ..logged_in(Mechanism::Plain)
    };
    assert_eq!(
        shown(clear, offer),
        "Auth: authentication is required, and not possible here"
    );
}

#[test]
fn logins() {
    let offer = "S 220 hi\nC EHLO me.test\nS 250-hi\\n250-AUTH PLAIN LOGIN\\n250 STARTTLS\n";
    let shown = |config: Config, script: &str| Play::new(config, vec![]).script(script);
    let secured = format!(
        "{offer}C STARTTLS\nS 220 go\nTLS\nC EHLO me.test\nS 250-hi\\n250 AUTH PLAIN LOGIN\n"
    );
    assert_eq!(
        shown(
            logged_in(Mechanism::Plain),
            &format!("{secured}C AUTH PLAIN AHUAcA==\nS 235 welcome")
        ),
        ""
    );
    assert_eq!(
        shown(
            logged_in(Mechanism::Login),
            &format!(
                "{secured}C AUTH LOGIN\nS 334 eA==\nC dQ==\nS 334 eA==\nC cA==\nS 235 welcome"
            )
        ),
        ""
    );
    let refused = shown(
        logged_in(Mechanism::Plain),
        &format!("{secured}C AUTH PLAIN AHUAcA==\nS 535 5.7.8 no"),
    );
    assert!(
        refused.starts_with("Auth: the server said 535 5.7.8"),
        "{refused}"
    );
}

#[test]
fn a_password_is_not_shown() {
    let tls = postroad_mail::TlsInfo {
        version: "TLSv1.3".to_owned(),
        cipher: "x".to_owned(),
    };
    for (mechanism, replies) in [
        (Mechanism::Plain, &b""[..]),
        (Mechanism::Login, b"334 eA==\r\n334 eA==\r\n"),
    ] {
        let now = Instant::now();
        let config = Arc::new(logged_in(mechanism));
        let mut session = Session::new(now, config, Some(tls.clone()));
        let mut input = BytesMut::from(&b"220 hi\r\n250-hi\r\n250 AUTH PLAIN LOGIN\r\n"[..]);
        input.extend_from_slice(replies);
        let _ = session.poll(now, &mut input);
        let said = session.requests().clone();
        let secret: &[u8] = if mechanism == Mechanism::Plain {
            b"AHUAcA=="
        } else {
            b"cA=="
        };
        assert!(said.windows(secret.len()).any(|w| w == secret), "{said:?}");
        let shown = format!("{session:?}");
        assert!(!shown.contains("cA=="), "{shown}");
    }
}

#[test]
fn a_half_way_transaction_is_reset_before_the_next() {
    let script = format!(
        "{PIPED}C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\\nDATA\nS 250 ok\nS 550 no\nS 554 none\n\
         C RSET\\nMAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\\nDATA\nS 250 ok\nS 250 ok\nS 250 ok\nS 354 go\n{DOTTED}S 250 ok"
    );
    let transactions = vec![transaction(&["c@d.test"]), transaction(&["c@d.test"])];
    assert_eq!(
        Play::new(config(StartTls::Never), transactions).script(&script),
        "Rcpt 550; accepted 250"
    );
}

/// Our client and our server, the link cut after `up` octets to the server and `down` to the client.
/// Gives what the client says, and what the server has committed.
fn pair(chunking: bool, up: usize, down: usize) -> (Option<Report>, Vec<u8>) {
    let now = Instant::now();
    let mut server_config = server::Config::new("mx.test".parse().unwrap());
    server_config.extensions.chunking = chunking;
    let peer = server::Peer {
        address: [127, 0, 0, 1].into(),
        trusted: false,
        tls: None,
    };
    let mut server = server::Session::new(now, Arc::new(server_config), peer);
    let mut client = Session::new(now, Arc::new(config(StartTls::IfOffered)), None);
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let (mut up_left, mut down_left) = (up, down);
    let (mut content, mut committed, mut sent) = (Vec::new(), Vec::new(), 0);
    let mut begun = false;
    loop {
        let moved = loop {
            match server.poll(now, &mut to_server) {
                server::Output::Ask(server::Question::Commit) => {
                    committed.clone_from(&content);
                    server.answer(now, server::Answer::Queued("id".to_owned()));
                }
                server::Output::Ask(_) => server.answer(now, server::Answer::Accept),
                server::Output::Body(chunk) => content.extend_from_slice(&chunk),
                server::Output::Abandon => content.clear(),
                server::Output::Pause { .. } | server::Output::StartTls => {}
                server::Output::Wait { .. } | server::Output::Close => {
                    let replies = server.replies().split();
                    let passed = replies.len().min(down_left);
                    down_left -= passed;
                    to_client.extend(replies.iter().take(passed));
                    break passed;
                }
            }
        };
        if moved == 0 && down_left == 0 {
            client.end_of_input(now);
        }
        loop {
            match client.poll(now, &mut to_client) {
                Output::Ready if begun => return (None, committed),
                Output::Ready => {
                    client.begin(now, transaction(&["c@d.test"]));
                    begun = true;
                }
                Output::Body if sent == MESSAGE.len() => client.body_end(now),
                Output::Body => {
                    client.body(now, MESSAGE.as_bytes());
                    sent = MESSAGE.len();
                }
                Output::Finished(report) => return (Some(report), committed),
                Output::Failed { .. } | Output::Closed => return (None, committed),
                Output::Wait { .. } | Output::StartTls => break,
            }
        }
        let requests = client.requests().split();
        let passed = requests.len().min(up_left);
        up_left -= passed;
        to_server.extend(requests.iter().take(passed));
        if passed == 0 && moved == 0 {
            // Nothing moves any more: the link is cut for both.
            server.end_of_input(now);
            client.end_of_input(now);
        }
    }
}

#[test]
fn wherever_the_link_is_cut() {
    for chunking in [false, true] {
        let (report, committed) = pair(chunking, usize::MAX, usize::MAX);
        assert_eq!(show(&report.unwrap()), "accepted 250");
        assert_eq!(committed, MESSAGE.as_bytes());
        let (mut lost_replies, mut total) = (0, 0);
        for cut in 0..700 {
            for (up, down) in [(cut, usize::MAX), (usize::MAX, cut)] {
                let (report, committed) = pair(chunking, up, down);
                let shown = report.as_ref().map_or_else(String::new, show);
                let whole = committed == MESSAGE.as_bytes();
                assert!(
                    whole || committed.is_empty(),
                    "half a message was committed"
                );
                assert!(
                    whole || !shown.starts_with("accepted"),
                    "cut at {up}, {down}: accepted, and not committed"
                );
                if whole {
                    assert!(
                        shown == "accepted 250" || shown == "broken EndOfData",
                        "cut at {up}, {down}: {shown}"
                    );
                    lost_replies += usize::from(shown != "accepted 250");
                }
                total += usize::from(whole);
            }
        }
        assert!(lost_replies > 0 && total > lost_replies);
    }
}

/// Recipients of the transaction that any server is asked to take: more than go ahead of their
/// replies, and each command about as long as it may be.
fn many() -> Vec<String> {
    let local = "x".repeat(64);
    (0..150)
        .map(|n| format!("{local}@r{n}.{}.test", "d".repeat(60)))
        .collect()
}

/// What the client keeps to be written, at most, when each answer to `poll` is taken away: a
/// window of commands, or what a piece of the message becomes. Twice is more than escaping takes.
const REQUESTS_MAX: usize = 100 * COMMAND_MAX + 2 * MESSAGE.len();
/// Octets of the longest command here.
const COMMAND_MAX: usize = 160;

proptest::proptest! {
    #[test]
    fn any_server_gets_one_report(pieces in proptest::collection::vec("(220 a\r\n|250 a\r\n|250-a\r\n|250-CHUNKING\r\n|250-PIPELINING\r\n|354 a\r\n|421 a\r\n|550 a\r\n|[ -~\r\n]{0,6})", 0..30), start in "(220 a\r\n(250-PIPELINING\r\n)?(250-CHUNKING\r\n)?250 a\r\n(250 a\r\n){0,3})?", drained in proptest::bool::ANY, lmtp in proptest::bool::ANY) {
        let now = Instant::now();
        let protocol = if lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        let config = Config { protocol, ..config(StartTls::Never) };
        let mut session = Session::new(now, Arc::new(config), None);
        let (mut input, mut begun, mut sent, mut reports) = (BytesMut::new(), false, false, 0);
        let (mut heard, to) = (0, many());
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        let pieces = std::iter::once(&start).chain(&pieces);
        let pieces = pieces.map(Some).chain([None]);
        for piece in pieces {
            match piece {
                Some(piece) => {
                    input.extend_from_slice(piece.as_bytes());
                    heard += piece.matches('\n').count();
                }
                None => session.end_of_input(now),
            }
            loop {
                let output = session.poll(now, &mut input);
                let requests = session.requests();
                // What is not taken away grows by no more than a command for each reply.
                let bound = REQUESTS_MAX + if drained { 0 } else { COMMAND_MAX * heard };
                proptest::prop_assert!(requests.len() <= bound, "{} octets", requests.len());
                if drained {
                    requests.clear();
                }
                match output {
                    Output::Ready if !begun => {
                        session.begin(now, transaction(&to));
                        begun = true;
                    }
                    Output::Body if sent => session.body_end(now),
                    Output::Body => {
                        session.body(now, MESSAGE.as_bytes());
                        sent = true;
                    }
                    Output::Finished(_) => reports += 1,
                    _ => break,
                }
            }
        }
        proptest::prop_assert_eq!(reports, usize::from(begun));
    }
}
