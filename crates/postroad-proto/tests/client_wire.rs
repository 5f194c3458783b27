//! What the client writes, what it needs, and how long it waits, line by line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod script;

use std::fmt::Write as _;

use postroad_mail::{AuthParam, BodyKind, Notify, OriginalRecipient, Ret};
use postroad_proto::client::{StartTls, Timeouts, Transaction};

use script::{Play, config, transaction};

const DOTTED: &str = "C Subject: x\\n\\n..dot\\n.\n";

/// A server's greeting, and the EHLO reply with these extensions.
fn hello(extensions: &[&str]) -> String {
    let mut lines = vec!["hi"];
    lines.extend(extensions);
    let last = lines.pop().unwrap();
    let before: String = lines.iter().map(|line| format!("250-{line}\\n")).collect();
    format!("S 220 hi\nC EHLO me.test\nS {before}250 {last}\n")
}

fn one() -> Transaction {
    let mut transaction = transaction(&["c@d.test"]);
    transaction.envid = None;
    transaction
}

fn play(transaction: Transaction, script: &str) -> String {
    Play::new(config(StartTls::Never), vec![transaction]).script(script)
}

/// What is behind the addresses of MAIL and RCPT for a transaction so changed, at a server with
/// these extensions.
fn writes(change: impl FnOnce(&mut Transaction), extensions: &[&str], mail: &str, rcpt: &str) {
    let mut transaction = one();
    change(&mut transaction);
    let (hello, from) = (hello(extensions), &transaction.from.to_string());
    let to = match &transaction.recipients[0].address {
        address if mail.contains(" SMTPUTF8") => address.to_string(),
        address => address.to_ascii_domain(),
    };
    let script =
        format!("{hello}C MAIL FROM:<{from}>{mail}\nS 250 ok\nC RCPT TO:<{to}>{rcpt}\nS 550 no");
    assert_eq!(play(transaction, &script), "Rcpt 550", "{script}");
}

const ALL: &[&str] = &[
    "SIZE",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "BINARYMIME",
    "CHUNKING",
];

#[test]
fn parameters_of_mail() {
    let body = |body| move |t: &mut Transaction| t.body = body;
    writes(|_| (), &[], "", "");
    writes(|_| (), ALL, " SIZE=20", "");
    writes(body(BodyKind::SevenBit), ALL, " SIZE=20", "");
    let with_body = " SIZE=20 BODY=8BITMIME";
    writes(body(BodyKind::EightBitMime), ALL, with_body, "");
    let with_body = " SIZE=20 BODY=BINARYMIME";
    writes(body(BodyKind::BinaryMime), ALL, with_body, "");
    writes(|t| t.smtputf8 = true, ALL, " SIZE=20 SMTPUTF8", "");
    // An address that needs it brings it; a domain does not need it, but has another form.
    let utf8 = &["SMTPUTF8"];
    let from = |t: &mut Transaction| t.from = "<ü@b.test>".parse().unwrap();
    writes(from, utf8, " SMTPUTF8", "");
    let to = |to: &'static str| {
        move |t: &mut Transaction| {
            t.recipients[0].address = to.parse().unwrap();
        }
    };
    writes(to("ü@ö.test"), utf8, " SMTPUTF8", "");
    writes(to("c@ö.test"), utf8, "", "");
    writes(|t| t.ret = Some(Ret::Full), &["DSN"], " RET=FULL", "");
    writes(|t| t.ret = Some(Ret::Headers), ALL, " SIZE=20 RET=HDRS", "");
    writes(|t| t.ret = Some(Ret::Full), &[], "", "");
    let auth = |auth| move |t: &mut Transaction| t.auth = Some(auth);
    let identity = || AuthParam::Identity("a b@c".to_owned());
    writes(auth(identity()), &["AUTH PLAIN"], " AUTH=a+20b@c", "");
    writes(auth(AuthParam::Unknown), &["AUTH PLAIN"], " AUTH=<>", "");
    writes(auth(identity()), &["AUTH GSSAPI"], "", "");
    let envid = |t: &mut Transaction| t.envid = Some("e=1".to_owned());
    writes(envid, &["DSN"], " ENVID=e+3D1", "");
}

#[test]
fn parameters_of_rcpt() {
    let notify = |t: &mut Transaction| t.recipients[0].notify = Some(Notify::DEFAULT);
    writes(notify, &["DSN"], "", " NOTIFY=FAILURE,DELAY");
    writes(notify, &[], "", "");
    let original = |value: &str| {
        let original: OriginalRecipient = value.parse().unwrap();
        move |t: &mut Transaction| t.recipients[0].original = Some(original)
    };
    let plain = "rfc822;c+2Bx@old.test";
    writes(
        original(plain),
        &["DSN"],
        "",
        " ORCPT=rfc822;c+2Bx@old.test",
    );
    writes(original(plain), &[], "", "");
    // RFC 6533 section 3: as it is under SMTPUTF8, escaped without.
    let (raw, escaped) = (r"utf-8;ü\x{2B}x@ö.test", r"utf-8;\x{FC}\x{2B}x@\x{F6}.test");
    for form in [raw, escaped] {
        writes(
            original(form),
            &["DSN", "SMTPUTF8"],
            "",
            &format!(" ORCPT={escaped}"),
        );
        let both = |t: &mut Transaction| {
            t.smtputf8 = true;
            original(form)(t);
        };
        writes(
            both,
            &["DSN", "SMTPUTF8"],
            " SMTPUTF8",
            &format!(" ORCPT={raw}"),
        );
    }
    // What would be longer than any server takes is left out.
    let long = format!("utf-8;{}@b", "ü".repeat(90));
    writes(original(&long), &["DSN"], "", "");
}

#[test]
fn what_the_server_lacks() {
    let body = |body| Transaction { body, ..one() };
    let utf8 = |from: &str, to: &str| {
        let mut transaction = one();
        transaction.from = from.parse().unwrap();
        transaction.recipients[0].address = to.parse().unwrap();
        transaction
    };
    for (transaction, extensions, missing) in [
        (body(BodyKind::EightBitMime), &[][..], "EightBitMime"),
        (body(BodyKind::BinaryMime), &["8BITMIME"], "BinaryMime"),
        (body(BodyKind::BinaryMime), &["BINARYMIME"], "BinaryMime"),
        (body(BodyKind::BinaryMime), &["CHUNKING"], "BinaryMime"),
        (
            Transaction {
                smtputf8: true,
                ..one()
            },
            &["8BITMIME"],
            "SmtpUtf8",
        ),
        (utf8("<ü@b.test>", "c@d.test"), &[], "SmtpUtf8"),
        (utf8("<a@b.test>", "ü@d.test"), &[], "SmtpUtf8"),
        (one(), &["SIZE 19"], "Size { limit: 19 }"),
        // Nothing that is said outside TLS counts for it.
        (required(), &["REQUIRETLS"], "RequireTls"),
    ] {
        let script = hello(extensions);
        assert_eq!(play(transaction, &script), missing, "{script}");
    }
}

fn required() -> Transaction {
    Transaction {
        require_tls: true,
        ..one()
    }
}

/// RFC 8689 section 4.2.1.
#[test]
fn require_tls() {
    let secured = |offer: &str| {
        let hello = hello(&["STARTTLS"]);
        format!("{hello}C STARTTLS\nS 220 go\nTLS\nC EHLO me.test\nS 250-hi\\n250 {offer}\n")
    };
    let play = |script: &str| Play::new(config(StartTls::Require), vec![required()]).script(script);
    let script = secured("REQUIRETLS")
        + "C MAIL FROM:<a@b.test> REQUIRETLS\nS 250 ok\nC RCPT TO:<c@d.test>\nS 550 no";
    assert_eq!(play(&script), "Rcpt 550");
    let script = secured("REQUIRETLS") + "C MAIL FROM:<a@b.test> REQUIRETLS\nS 550 5.7.30 no";
    assert_eq!(play(&script), "Mail 550");
    assert_eq!(play(&secured("DSN")), "RequireTls");
    // A message that does not need it says nothing of it.
    let script = secured("REQUIRETLS") + "C MAIL FROM:<a@b.test>\nS 550 no";
    let plain = Play::new(config(StartTls::Require), vec![one()]).script(&script);
    assert_eq!(plain, "Mail 550");
}

/// The message in pieces, sent by BDAT or DATA.
fn pieces(script: &str, body: BodyKind, pieces: &[&str]) -> String {
    let size = pieces.iter().map(|p| p.len() as u64).sum();
    let mut play = Play::new(
        config(StartTls::Never),
        vec![Transaction {
            body,
            size,
            ..one()
        }],
    );
    play.pieces = pieces.iter().map(|&p| p.into()).collect();
    play.script(script)
}

/// Up to where the message is wanted.
fn begun(extensions: &[&str], mail: &str) -> String {
    format!(
        "{}C MAIL FROM:<a@b.test>{mail}\nS 250 ok\nC RCPT TO:<c@d.test>\nS 250 ok\n",
        hello(extensions)
    )
}

#[test]
fn chunks() {
    use BodyKind::{BinaryMime, SevenBit};
    let piped = hello(&["CHUNKING", "PIPELINING"])
        + "C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\nS 250 ok\nS 250 ok\n";
    let waiting = begun(&["CHUNKING"], "");
    let binary = begun(&["CHUNKING", "BINARYMIME"], " BODY=BINARYMIME");
    let play = |begun: &str, rest: &str, body, message: &[&str]| {
        pieces(
            &format!("{begun}{}", rest.replace('|', "\n")),
            body,
            message,
        )
    };
    let (taken, two) = ("accepted 250", &["a\r\n", "b\r\n"]);
    let rest = r"C BDAT 0 LAST|S 250 ok";
    assert_eq!(play(&waiting, rest, SevenBit, &[]), taken);
    let rest = r"C BDAT 3 LAST\nb|S 250 ok";
    assert_eq!(play(&waiting, rest, SevenBit, &["b\r\n"]), taken);
    // Without PIPELINING a chunk waits for the reply to the one before.
    let rest = r"C BDAT 3\na|S 250 ok|C BDAT 3 LAST\nb|S 250 ok";
    assert_eq!(play(&waiting, rest, SevenBit, two), taken);
    let rest = r"C BDAT 3\na\nBDAT 3 LAST\nb|S 250 ok|S 250 ok";
    assert_eq!(play(&piped, rest, SevenBit, two), taken);
    let rest = r"C BDAT 3\na\nBDAT 3 LAST\nb|S 250 ok|S 452 full";
    assert_eq!(play(&piped, rest, SevenBit, two), "EndOfData 452");
    let rest = r"C BDAT 3\na\nBDAT 3 LAST\nb|S 552 big";
    let refused = "Data 552; Data: the server said 552 big";
    assert_eq!(play(&piped, rest, SevenBit, two), refused);
    // A bare newline leaves as CRLF, a CRLF that comes in two pieces as it is.
    let rest = r"C BDAT 9 LAST\na\n.\nb|S 250 ok";
    assert_eq!(play(&piped, rest, SevenBit, &["a\n.\rb\r\n"]), taken);
    let rest = r"C BDAT 1\naBDAT 5 LAST\n\nb|S 250 ok|S 250 ok";
    assert_eq!(play(&piped, rest, SevenBit, &["a\r", "\nb\r\n"]), taken);
    let rest = r"C BDAT 7 LAST\na\l.\rb|S 250 ok";
    assert_eq!(play(&binary, rest, BinaryMime, &["a\n.\rb\r\n"]), taken);
}

/// What a server says to a transaction, without its message.
#[test]
fn probes() {
    let piped = hello(&["PIPELINING", "CHUNKING"])
        + "C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\\nRCPT TO:<e@d.test>\\nRSET\n";
    let plain = hello(&[]) + "C MAIL FROM:<a@b.test>\n";
    for (script, end) in [
        (
            format!("{piped}S 250 ok\nS 250 ok\nS 550 no\nS 250 ok"),
            "accepted 250, Rcpt 550",
        ),
        (
            format!("{piped}S 550 no\nS 503 no\nS 503 no\nS 250 ok"),
            "Mail 550, Mail 550",
        ),
        (
            format!("{piped}S 250 ok\nS 250 ok\nS 421 bye"),
            "accepted 250, broken Rcpt; Rcpt: the server said 421 bye",
        ),
        (
            format!("{piped}S 250 ok\nS 250 ok\nS 250 ok\nEOF"),
            "accepted 250, accepted 250; Idle: the connection was lost",
        ),
        (format!("{plain}S 550 no"), "Mail 550, Mail 550"),
        (
            format!(
                "{plain}S 250 ok\nC RCPT TO:<c@d.test>\nS 450 no\n\
                 C RCPT TO:<e@d.test>\nS 251 ok\nC RSET\nS 250 ok"
            ),
            "Rcpt 450, accepted 251",
        ),
    ] {
        let both = Transaction {
            envid: None,
            ..transaction(&["c@d.test", "e@d.test"])
        };
        let mut play = Play::new(config(StartTls::Never), vec![both]);
        play.probe = true;
        assert_eq!(play.script(&script), end, "{script}");
    }
}

/// A server that offers CHUNKING and does not have it says nothing of the message.
#[test]
fn bdat_is_not_known() {
    let two = &["one\r\n", "two\r\n"];
    let chunk = begun(&["CHUNKING"], "") + "C BDAT 5\\none\nS ";
    let last = chunk.clone() + "250 ok\nC BDAT 5 LAST\\ntwo\nS ";
    let unknown =
        "Data: the server's reply is not valid: CHUNKING is offered, and BDAT is not known";
    for (begun, reply, end) in [
        (&chunk, "500 what?", format!("broken Data; {unknown}")),
        (&chunk, "502 5.5.1 no", format!("broken Data; {unknown}")),
        (&last, "502 5.5.1 no", format!("broken Data; {unknown}")),
        (&last, "500 5.7.1 spam", "EndOfData 500".to_owned()),
        (&last, "554 no", "EndOfData 554".to_owned()),
    ] {
        let script = format!("{begun}{reply}");
        assert_eq!(pieces(&script, BodyKind::SevenBit, two), end, "{script}");
    }
    // Behind DATA it is said of the message.
    let dotted = begun(&[], "") + "C DATA\nS 354 go\nC one\\ntwo\\n.\nS 500 what?";
    assert_eq!(pieces(&dotted, BodyKind::SevenBit, two), "EndOfData 500");
}

/// A server that offers PIPELINING and hears only the first of each group is silent then: nobody
/// waits longer than for any other silence, and nothing is taken for more than it is.
#[test]
fn pipelining_is_not_known() {
    let script = hello(&["PIPELINING"])
        + "C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\\nDATA\nS 250 ok\nW 300\nLATE";
    let end = Play::new(config(StartTls::Never), vec![one()]).script(&script);
    assert_eq!(end, "broken Rcpt; Rcpt: no reply in time");
}

#[test]
fn refused_while_the_message_is_sent() {
    let dotted = begun(&[], "") + "C DATA\nS 354 go\nP\nC one\n";
    let chunked = begun(&["CHUNKING", "PIPELINING"], "")
        .replace("S 250 ok\nC RCPT TO:<c@d.test>\n", "")
        .replace(
            "C MAIL FROM:<a@b.test>\n",
            "C MAIL FROM:<a@b.test>\\nRCPT TO:<c@d.test>\nS 250 ok\n",
        )
        + "P\nC BDAT 5\\none\n";
    for begun in [dotted, chunked] {
        for (reply, end) in [
            ("552 too big", "Data 552; Data: the server said 552 too big"),
            ("452 full", "Data 452; Data: the server said 452 full"),
        ] {
            let script = format!("{begun}S {reply}");
            let end_of = pieces(&script, BodyKind::SevenBit, &["one\r\n", "two\r\n"]);
            assert_eq!(end_of, end, "{script}");
        }
    }
}

#[test]
fn lost_before_and_after_the_end_of_the_message() {
    let dotted = begun(&[], "") + "C DATA\nS 354 go\n";
    let chunked = begun(&["CHUNKING"], "");
    let lost = |phase: &str| format!("broken {phase}; {phase}: the connection was lost");
    for (begun, rest, phase) in [
        (&dotted, "P|C one|EOF", "Data"),
        (&dotted, "P|C one|P|C two|EOF", "Data"),
        (&dotted, "P|C one|P|C two|P|C .|EOF", "EndOfData"),
        (&chunked, r"P|C BDAT 5\none|EOF", "Data"),
        (&chunked, r"P|C BDAT 5\none|S 250 ok|EOF", "Data"),
        // The last chunk has no end behind it: from here on the server may have the message.
        (
            &chunked,
            r"P|C BDAT 5\none|S 250 ok|P|C BDAT 5 LAST\ntwo|EOF",
            "EndOfData",
        ),
        (
            &chunked,
            r"P|C BDAT 5\none|S 250 ok|P|C BDAT 5 LAST\ntwo|P|EOF",
            "EndOfData",
        ),
    ] {
        let script = format!("{begun}{}", rest.replace('|', "\n"));
        let end = pieces(&script, BodyKind::SevenBit, &["one\r\n", "two\r\n"]);
        assert_eq!(end, lost(phase), "{script}");
    }
}

#[test]
fn patience_by_phase() {
    // RFC 5321 section 4.5.3.2, one by one; of EHLO, RSET and the like it says nothing.
    assert_eq!(Timeouts::default().data_block.as_secs(), 3 * 60);
    let late = |phase: &str| format!("{phase}: no reply in time");
    let broken = |phase: &str| format!("broken {phase}; {phase}: no reply in time");
    let to_mail = "W 300|S 220 hi|C EHLO me.test|W 300|S 250 hi|C MAIL FROM:<a@b.test>|W 300|";
    let to_rcpt = format!("{to_mail}S 250 ok|C RCPT TO:<c@d.test>|W 300|");
    let to_data = format!("{to_rcpt}S 250 ok|C DATA|W 120|");
    let to_end = format!("{to_data}S 354 go|C one\\n.|W 600|");
    let to_chunk =
        to_rcpt.replace("250 hi", r"250-hi\n250 CHUNKING") + r"S 250 ok|C BDAT 5\none|W 180|";
    let to_last = format!("{to_chunk}S 250 ok|C BDAT 5 LAST\\ntwo|W 600|");
    for (script, message, end) in [
        ("W 300|".to_owned(), &["one\r\n"][..], late("Greeting")),
        (
            "S 220 hi|C EHLO me.test|W 300|".to_owned(),
            &["one\r\n"],
            late("Hello"),
        ),
        (
            "S 220 hi|C EHLO me.test|S 500 no|C HELO me.test|W 300|".to_owned(),
            &["one\r\n"],
            late("Hello"),
        ),
        (to_mail.to_owned(), &["one\r\n"], broken("Mail")),
        (to_rcpt, &["one\r\n"], broken("Rcpt")),
        (to_data, &["one\r\n"], broken("Data")),
        (to_end, &["one\r\n"], broken("EndOfData")),
        (to_chunk, &["one\r\n", "two\r\n"], broken("Data")),
        (to_last, &["one\r\n", "two\r\n"], broken("EndOfData")),
    ] {
        let script = format!("{script}LATE").replace('|', "\n");
        assert_eq!(
            pieces(&script, BodyKind::SevenBit, message),
            end,
            "{script}"
        );
    }
}

#[test]
fn refusals_outside_a_message() {
    let reset = format!(
        "{}C MAIL FROM:<a@b.test>\nS 250 ok\nC RCPT TO:<c@d.test>\nS 550 no\nC RSET\n",
        hello(&[])
    );
    for (script, transactions, end) in [
        (
            "S 220 hi\nC EHLO me.test\nS 450 later".to_owned(),
            1,
            "Hello: the server said 450 later",
        ),
        (
            "S 220 hi\nC EHLO me.test\nS 421 bye".to_owned(),
            1,
            "Hello: the server said 421 bye",
        ),
        (
            "S 220 hi\nC EHLO me.test\nS 500 what\nC HELO me.test\nS 550 no".to_owned(),
            1,
            "Hello: the server said 550 no",
        ),
        (
            "S 220 hi\nC EHLO me.test\nS 500 what\nC HELO me.test\nS 450 no".to_owned(),
            1,
            "Hello: the server said 450 no",
        ),
        (
            format!("{reset}S 500 what"),
            2,
            "Rcpt 550; broken Idle; Idle: the server said 500 what",
        ),
        (
            format!("{reset}S 451 no"),
            2,
            "Rcpt 550; broken Idle; Idle: the server said 451 no",
        ),
        (
            format!("{reset}S 250 ok\nC MAIL FROM:<a@b.test>\nS 550 no"),
            2,
            "Rcpt 550; Mail 550",
        ),
    ] {
        let play = Play::new(config(StartTls::Never), vec![one(); transactions]);
        assert_eq!(play.script(&script), end, "{script}");
    }
}

#[test]
fn more_recipients_than_go_at_once() {
    const RECIPIENTS: usize = 250;
    /// MAIL and RCPT that go ahead of their replies.
    const WINDOW: usize = 100;
    let names: Vec<String> = (0..RECIPIENTS).map(|n| format!("r{n}@d.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut transaction = transaction(&names);
    transaction.envid = None;
    let mut commands = vec!["MAIL FROM:<a@b.test>".to_owned()];
    commands.extend(names.iter().map(|name| format!("RCPT TO:<{name}>")));
    commands.push("DATA".to_owned());
    let mut script = hello(&["PIPELINING"]);
    writeln!(script, "C {}", commands[..WINDOW].join("\\n")).unwrap();
    // With each reply one more may go; every third recipient is refused.
    for n in 0..commands.len() {
        let reply = match n {
            _ if n + 1 == commands.len() => "354 go",
            0 => "250 ok",
            n if n % 3 == 0 => "550 no",
            _ => "250 ok",
        };
        writeln!(script, "S {reply}").unwrap();
        if let Some(next) = commands.get(n + WINDOW) {
            writeln!(script, "C {next}").unwrap();
        }
    }
    script += DOTTED;
    script += "S 250 taken";
    let end = play(transaction, &script);
    let results: Vec<&str> = end.split(", ").collect();
    assert_eq!(results.len(), RECIPIENTS);
    for (n, result) in results.iter().enumerate() {
        let refused = (n + 1) % 3 == 0;
        assert_eq!(
            *result,
            if refused { "Rcpt 550" } else { "accepted 250" },
            "{n}"
        );
    }
}
