//! What a fuzzer, or a property test, feeds: each takes any octets and panics on a broken promise.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postroad_mail::{Domain, TlsInfo, replies};

use crate::command::Command;
use crate::ehlo::Extensions;
use crate::grammar;
use crate::sasl::Mechanism;
use crate::server::{
    Answer, BareNewline, Config, INPUT_MAX, Limits, Output, Peer, Question, REPLIES_MAX, Session,
    Verify,
};

/// Parses a line as each command.
pub fn command(line: &[u8]) {
    let offered = extensions();
    let argument = Command::parse(line).map_or(line, |command| command.argument);
    let _ = grammar::hello(argument);
    let _ = grammar::mail(argument, &offered);
    let _ = grammar::rcpt(argument, &offered, true);
    let _ = grammar::bdat(argument);
    let _ = grammar::auth(argument);
    let _ = grammar::text_argument(argument);
}

/// Runs a session over `input` in the pieces whose lengths `cuts` gives, over and over; `choices`
/// decides the settings and the answers.
///
/// # Panics
/// Where the session breaks its contract: input or replies beyond their bounds, content outside
/// a transaction, a transaction neither committed nor abandoned, or no progress.
pub fn server_session(now: Instant, input: &[u8], cuts: &[u8], choices: &[u8]) {
    let mut choices = choices.iter().copied().cycle();
    let mut choose = move || choices.next().unwrap_or(0);
    let mut session = Session::new(now, Arc::new(config(choose())), peer(choose()));
    let (mut buffer, mut now, mut open) = (BytesMut::new(), now, false);
    let mut cuts = cuts.iter().copied().cycle();
    let mut rest = input;
    // Each piece of input, and each octet of it, can cause a few outputs only.
    let mut steps = 64 + 16 * input.len();
    loop {
        steps = steps
            .checked_sub(1)
            .unwrap_or_else(|| panic!("no progress"));
        let output = session.poll(now, &mut buffer);
        assert!(session.replies().len() <= REPLIES_MAX, "replies unbounded");
        match output {
            Output::Ask(question) => {
                let answer = decide(&question, choose());
                match question {
                    Question::Data(_) => {
                        assert!(!open, "content within content");
                        open = answer == Answer::Accept;
                    }
                    Question::Commit => {
                        assert!(open, "a commit of nothing");
                        open = false;
                    }
                    _ => {}
                }
                session.answer(now, answer);
            }
            Output::Body(piece) => assert!(open && !piece.is_empty(), "stray content"),
            Output::Abandon => {
                assert!(open, "nothing to abandon");
                open = false;
            }
            Output::StartTls => {
                assert!(buffer.is_empty(), "input was kept over STARTTLS");
                session.tls_started(now, tls());
            }
            Output::Pause { until } => {
                session.replies().clear();
                now = now.max(until);
            }
            Output::Wait { until } => {
                assert!(buffer.len() <= INPUT_MAX, "input unbounded");
                assert!(until > now, "a wait for the past");
                session.replies().clear();
                let length = usize::from(cuts.next().unwrap_or(0)).max(1).min(rest.len());
                let (piece, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                if piece.is_empty() {
                    session.end_of_input(now);
                }
                buffer.extend_from_slice(piece);
                rest = behind;
            }
            Output::Close => {
                assert!(!open, "closed within a transaction");
                return;
            }
        }
    }
}

fn decide(question: &Question, choice: u8) -> Answer {
    if choice % 16 == 15 {
        return Answer::Reject(replies::REFUSED);
    }
    match question {
        Question::Password { user, .. } => Answer::Identity(user.clone()),
        Question::Commit => Answer::Queued("Q".to_owned()),
        Question::Verify(whom) | Question::Expand(whom) => Answer::Lines(vec![whom.clone()]),
        _ => Answer::Accept,
    }
}

fn extensions() -> Extensions {
    Extensions {
        pipelining: true,
        size: Some(0),
        eight_bit_mime: true,
        smtputf8: true,
        chunking: true,
        binary_mime: true,
        enhanced_status_codes: true,
        dsn: true,
        starttls: true,
        auth: vec![Mechanism::Plain, Mechanism::Login],
        recipients_max: None,
        verify: false,
        help: true,
    }
}

fn config(choice: u8) -> Config {
    Config {
        hostname: Domain::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        extensions: extensions(),
        require_auth: choice & 1 != 0,
        require_tls: choice & 2 != 0,
        verify: if choice & 4 == 0 {
            Verify::None
        } else {
            Verify::Authenticated
        },
        bare_newline: if choice & 8 == 0 {
            BareNewline::Reject
        } else {
            BareNewline::Normalize
        },
        reject_eight_bit_headers: choice & 16 != 0,
        limits: Limits {
            message_size: if choice & 32 == 0 { 64 } else { 4096 },
            header_size: if choice & 64 == 0 { 32 } else { 2048 },
            recipients: 3,
            error_delay: Duration::from_secs(1),
            ..Limits::default()
        },
    }
}

fn peer(choice: u8) -> Peer {
    Peer {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        trusted: choice & 1 != 0,
        tls: (choice & 2 != 0).then(tls),
    }
}

fn tls() -> TlsInfo {
    TlsInfo {
        version: "TLS1.3".to_owned(),
        cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
    }
}
