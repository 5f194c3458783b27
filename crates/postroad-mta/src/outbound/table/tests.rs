use super::*;

fn written(row: &Row) -> String {
    let fate = match row.fate {
        Fate::Delivered => "delivered",
        Fate::Deferred => "deferred",
        Fate::Failed => "failed",
    };
    let next = if row.next_host { "yes" } else { "no" };
    let destination = match row.destination {
        Verdict::Well => "well",
        Verdict::Failed => "failed",
        Verdict::Nothing => "–",
    };
    let retry = match (row.fate, row.retry) {
        (Fate::Delivered | Fate::Failed, _) => "–",
        (_, Retry::Usual) => "usual",
        (_, Retry::Soon) => "soon",
        (_, Retry::Later) => "later",
    };
    format!(
        "//! | {} | {fate} | {next} | {destination} | {retry} |",
        row.what
    )
}

#[test]
fn the_documentation_is_the_table() {
    let documented: Vec<_> = include_str!("../table.rs")
        .lines()
        .filter(|line| line.starts_with("//! | "))
        .skip(1)
        .collect();
    let rows: Vec<_> = TABLE.iter().chain([&REST]).map(written).collect();
    assert_eq!(documented, rows);
}

fn reply(text: &str) -> Reply {
    let (code, rest) = text.split_once(' ').unwrap();
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let enhanced = first.parse().ok();
    Reply {
        code: postroad_mail::ReplyCode::new(code.parse().unwrap()).unwrap(),
        enhanced,
        text: if enhanced.is_some() { after } else { rest }
            .to_owned()
            .into(),
    }
}

#[test]
fn replies_as_they_come() {
    use Phase::{Auth, Data, EndOfData, Greeting, Hello, Mail, Rcpt, StartTls};
    for (phase, text, what) in [
        (EndOfData, "250 2.0.0 ok", "the message was taken"),
        (Auth, "535 5.7.8 no", "the login"),
        (Auth, "454 4.7.0 directory down", "4yz else"),
        (Greeting, "554 no service", "5yz to the greeting"),
        (Greeting, "521 no mail here", "5yz to the greeting"),
        (Greeting, "421 4.3.2 busy", "no connection"),
        (Hello, "550 who?", "no connection"),
        (StartTls, "454 4.7.0 not now", "TLS is required"),
        (StartTls, "421 4.3.2 closing", "421 anywhere else"),
        (Mail, "421 4.7.0 too many", "421 anywhere else"),
        (EndOfData, "421 4.3.2 restarting", "421 to the end"),
        (Rcpt, "552 too many", "552 to RCPT"),
        (Rcpt, "552 5.2.2 full", "5yz to RCPT"),
        (Rcpt, "552 5.3.4 too large", "5yz to RCPT"),
        (Rcpt, "550 5.1.1 no", "5yz to RCPT"),
        (Rcpt, "550 5.7.1 greylisted forever", "5yz to RCPT"),
        (EndOfData, "554 5.7.1 spam", "5yz to RCPT"),
        (Mail, "550 5.7.1 blocked", "5yz to MAIL"),
        (Data, "554 no valid recipients", "5yz to MAIL"),
        (Rcpt, "451 4.7.1 try again", "greylisted"),
        (Rcpt, "450 4.7.0 later", "greylisted"),
        (
            Rcpt,
            "450 4.2.0 <bob@b.test>: Greylisted, see http://x",
            "greylisted",
        ),
        (EndOfData, "451 4.3.0 Graylisting in action", "greylisted"),
        (EndOfData, "451 4.7.1 suspicious", "4yz to the end"),
        (Mail, "451 4.7.1 your network is slow", "4yz to MAIL"),
        (Rcpt, "452 4.2.2 no room", "the mailbox is full"),
        (Rcpt, "450 user is over quota", "the mailbox is full"),
        (EndOfData, "452 4.2.2 full", "the mailbox is full"),
        (Mail, "452 4.3.1 no space", "4yz to MAIL"),
        (Rcpt, "452 4.3.1 no space", "4yz to MAIL"),
        (Rcpt, "452 4.5.3 too many", "4yz else"),
        (Rcpt, "450 4.2.1 busy", "4yz else"),
        (Data, "451 4.5.0 x", "4yz else"),
        (Rcpt, "354 what?", "4yz else"),
    ] {
        let reply = reply(text);
        let said = Said {
            phase,
            how: How::Reply(&reply),
        };
        let found = row(&said);
        assert!(found.what.starts_with(what), "{phase:?} {text}: {found:?}");
    }
}

#[test]
fn sessions_that_break() {
    use Phase::{Auth, Connect, Data, EndOfData, Greeting, Mail, StartTls};
    let (lost, silent) = (SessionError::Lost, SessionError::TimedOut);
    let odd = SessionError::Protocol("x");
    for (phase, error, what) in [
        (Greeting, &silent, "no connection"),
        (Greeting, &odd, "no connection"),
        (Mail, &lost, "lost or silent before"),
        (Data, &silent, "lost or silent before"),
        (StartTls, &lost, "lost or silent before"),
        (EndOfData, &lost, "lost or silent after"),
        (EndOfData, &odd, "lost or silent after"),
        (StartTls, &SessionError::NoStartTls, "TLS is required"),
        (Auth, &SessionError::NoAuth, "the login"),
    ] {
        let how = How::Broken(error);
        let found = row(&Said { phase, how });
        assert!(found.what.starts_with(what), "{phase:?} {error}: {found:?}");
    }
    for (phase, how, what) in [
        (Connect, How::NoConnection, "no connection"),
        (StartTls, How::Tls, "TLS is required"),
    ] {
        let found = row(&Said { phase, how });
        assert!(found.what.starts_with(what), "{phase:?}: {found:?}");
    }
}
