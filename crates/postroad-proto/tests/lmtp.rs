//! The client's session with an LMTP server (RFC 2033): a reply for each recipient that was
//! accepted, behind the end of the message.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod script;

use postroad_mail::Protocol;
use postroad_proto::client::{Config, StartTls, Transaction};

use script::{Play, config, transaction};

const PIPED: &str = "S 220 hi\nC LHLO me.test\nS 250-hi\\n250 PIPELINING\n";
const CHUNKED: &str = "S 220 hi\nC LHLO me.test\nS 250-hi\\n250-PIPELINING\\n250 CHUNKING\n";
const DOTTED: &str = "C Subject: x\\n\\n..dot\\n.\n";
const BDAT: &str = "C BDAT 20 LAST\\nSubject: x\\n\\n.dot\n";

fn lmtp() -> Config {
    Config {
        protocol: Protocol::Lmtp,
        ..config(StartTls::IfOffered)
    }
}

fn to(recipients: &[&str]) -> Transaction {
    Transaction {
        envid: None,
        ..transaction(recipients)
    }
}

fn three() -> Transaction {
    to(&["a@d.test", "b@d.test", "c@d.test"])
}

/// MAIL and three RCPT, with DATA behind them or without.
fn commands(data: &str) -> String {
    format!(
        "C MAIL FROM:<a@b.test>\\nRCPT TO:<a@d.test>\\nRCPT TO:<b@d.test>\\nRCPT TO:<c@d.test>{data}\n"
    )
}

/// Plays a script with what the server says in pieces of several sizes.
fn play(transactions: &[Transaction], script: &str) -> String {
    let ends: Vec<_> = [1, 5, usize::MAX]
        .into_iter()
        .map(|split| {
            let mut play = Play::new(lmtp(), transactions.to_vec());
            play.split = split;
            play.script(script)
        })
        .collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    ends[0].clone()
}

#[test]
fn each_recipient_has_its_own_reply() {
    let dots = |replies: &str| {
        let asked = commands("\\nDATA");
        format!(
            "{PIPED}{asked}{}S 354 go\n{DOTTED}{replies}",
            "S 250 ok\n".repeat(4)
        )
    };
    let chunk = |replies: &str| {
        let asked = commands("");
        format!("{CHUNKED}{asked}{}{BDAT}{replies}", "S 250 ok\n".repeat(4))
    };
    for (replies, end) in [
        (
            "S 250 2.1.5 a\nS 250 2.1.5 b\nS 250 2.1.5 c",
            "accepted 250, accepted 250, accepted 250",
        ),
        (
            "S 250 a\nS 552 5.2.2 b is full\nS 451 later",
            "accepted 250, EndOfData 552, EndOfData 451",
        ),
        (
            "S 550-no\\n550 and no\nS 550 no\nS 550 no",
            "EndOfData 550, EndOfData 550, EndOfData 550",
        ),
        // Who has been answered keeps the answer.
        (
            "EOF",
            "broken EndOfData, broken EndOfData, broken EndOfData; EndOfData: the connection was lost",
        ),
        (
            "S 250 a\nEOF",
            "accepted 250, broken EndOfData, broken EndOfData; EndOfData: the connection was lost",
        ),
        (
            "S 250 a\nS 550 b\nEOF",
            "accepted 250, EndOfData 550, broken EndOfData; EndOfData: the connection was lost",
        ),
        (
            "S 250 a\nS what\nEOF",
            "accepted 250, broken EndOfData, broken EndOfData; EndOfData: the server's reply is not valid: a line without a code",
        ),
        (
            "S 250 a\nS 421 4.3.2 bye\nS 250 c",
            "accepted 250, EndOfData 421, broken EndOfData; EndOfData: the server said 421 4.3.2 bye",
        ),
        // One reply too many is said of nobody.
        (
            "S 250 a\nS 250 b\nS 250 c\nS 250 d",
            "accepted 250, accepted 250, accepted 250; Idle: the server's reply is not valid: a reply to nothing",
        ),
    ] {
        for script in [dots(replies), chunk(replies)] {
            assert_eq!(play(&[three()], &script), end, "{script}");
        }
    }
}

#[test]
fn only_who_was_accepted_is_answered_for() {
    let asked = commands("\\nDATA");
    let replies = "S 250 ok\nS 250 ok\nS 550 no\nS 250 ok\n";
    let script = format!("{PIPED}{asked}{replies}S 354 go\n{DOTTED}S 450 later\nS 250 taken");
    let end = "EndOfData 450, Rcpt 550, accepted 250";
    assert_eq!(play(&[three()], &script), end);
    let asked = commands("");
    let script = format!("{CHUNKED}{asked}{replies}{BDAT}S 450 later\nS 250 taken");
    assert_eq!(play(&[three()], &script), end);
}

#[test]
fn nobody_is_accepted() {
    let refused = "S 250 ok\nS 550 no\nS 450 no\nS 550 no\n";
    let asked = commands("\\nDATA");
    // RFC 2033 section 4.2: DATA must be refused then.
    let script = format!("{PIPED}{asked}{refused}S 503 no recipients");
    let end = "Rcpt 550, Rcpt 450, Rcpt 550";
    assert_eq!(play(&[three()], &script), end);
    // Where it is not, what comes behind a message to nobody cannot be told.
    let script = format!("{PIPED}{asked}{refused}S 354 go");
    let over = "Rcpt 550, Rcpt 450, Rcpt 550; Data: the server's reply is not valid: DATA is taken, and no recipient is";
    assert_eq!(play(&[three()], &script), over);
    let script = format!("{CHUNKED}{}{refused}", commands(""));
    assert_eq!(play(&[three()], &script), end);
}

#[test]
fn one_message_after_another() {
    let asked = "C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\\nRCPT TO:<e@d.test>\\nDATA\nS 250 ok\nS 250 ok\nS 250 ok\nS 354 go\n";
    let script =
        format!("{PIPED}{asked}{DOTTED}S 250 one\nS 452 full\n{asked}{DOTTED}S 550 no\nS 250 two");
    let mut play = Play::new(lmtp(), vec![to(&["c@d.test", "e@d.test"]); 2]);
    play.refill = true;
    assert_eq!(
        play.script(&script),
        "accepted 250, EndOfData 452; EndOfData 550, accepted 250"
    );
}

#[test]
fn the_same_recipient_twice_is_answered_twice() {
    let asked = "C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\\nRCPT TO:<c@d.test>\\nDATA\n";
    let script = format!(
        "{PIPED}{asked}S 250 ok\nS 250 ok\nS 250 ok\nS 354 go\n{DOTTED}S 250 one\nS 550 no"
    );
    let twice = to(&["c@d.test", "c@d.test"]);
    assert_eq!(play(&[twice], &script), "accepted 250, EndOfData 550");
}

/// LHLO is refused, and nothing else is tried: a server that takes HELO is none of LMTP.
#[test]
fn no_helo() {
    let script = "S 220 hi\nC LHLO me.test\nS 500 what\nEOF";
    let end = play(&[three()], script);
    assert_eq!(end, "Hello: the server said 500 what");
}

#[test]
fn patience_for_each_reply() {
    let asked = commands("\\nDATA");
    let script = format!(
        "{PIPED}{asked}{}S 354 go\n{DOTTED}W 600\nS 250 a\nW 600\nS 250 b\nW 600\nLATE",
        "S 250 ok\n".repeat(4)
    );
    let end = Play::new(lmtp(), vec![three()]).script(&script);
    assert_eq!(
        end,
        "accepted 250, accepted 250, broken EndOfData; EndOfData: no reply in time"
    );
}

proptest::proptest! {
    /// Whatever the server says behind the message, and in whatever pieces it comes: the n-th
    /// reply is the n-th recipient's, and nobody is without a result.
    #[test]
    fn chunking_never_changes_the_result(
        replies in proptest::collection::vec("(250|251|450|552|550) [a-z]{0,8}", 0..12),
        split in 1usize..40,
        chunking in proptest::bool::ANY,
        recipients in 1usize..10,
    ) {
        let names: Vec<String> = (0..recipients).map(|n| format!("r{n}@d.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut asked = "C MAIL FROM:<a@b.test>".to_owned();
        for name in &names {
            asked += &format!("\\nRCPT TO:<{name}>");
        }
        asked += if chunking { "\n" } else { "\\nDATA\n" };
        asked += &"S 250 ok\n".repeat(recipients + 1);
        let (hello, body) = if chunking { (CHUNKED, BDAT) } else { (PIPED, DOTTED) };
        let go = if chunking { "" } else { "S 354 go\n" };
        let said: String = replies.iter().take(recipients).map(|r| format!("S {r}\n")).collect();
        let script = format!("{hello}{asked}{go}{body}{said}EOF");
        let mut one = Play::new(lmtp(), vec![to(&names)]);
        one.split = split;
        let end = one.script(&script);
        let results: Vec<&str> = end.split(';').next().unwrap().split(", ").collect();
        proptest::prop_assert_eq!(results.len(), recipients);
        for (n, result) in results.into_iter().enumerate() {
            let want = match replies.get(n) {
                Some(reply) if reply.starts_with("25") => format!("accepted {}", &reply[..3]),
                Some(reply) => format!("EndOfData {}", &reply[..3]),
                None => "broken EndOfData".to_owned(),
            };
            proptest::prop_assert_eq!(result, want.as_str());
        }
    }
}

/// A message that is refused before its last chunk ends the session: what the server says of the
/// chunks behind it cannot be told apart.
#[test]
fn a_chunk_is_refused() {
    let asked = commands("");
    let script = format!(
        "{CHUNKED}{asked}{}C BDAT 5\\none\\nBDAT 5 LAST\\ntwo\nS 552 too big",
        "S 250 ok\n".repeat(4)
    );
    let mut play = Play::new(
        lmtp(),
        vec![Transaction {
            size: 10,
            ..three()
        }],
    );
    play.pieces = vec!["one\r\n".into(), "two\r\n".into()];
    assert_eq!(
        play.script(&script),
        "Data 552, Data 552, Data 552; Data: the server said 552 too big"
    );
}
