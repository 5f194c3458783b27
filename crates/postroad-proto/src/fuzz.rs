//! What a fuzzer, or a property test, feeds: each takes any octets and panics on a broken promise.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postroad_mail::{Domain, TlsInfo, replies};

use crate::command::Command;
use crate::ehlo::Extensions;
use crate::grammar;
use crate::sasl::{Ask, Decision, Exchange, Mechanism, Secret, Step};
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

/// What a broken promise of either side of SASL would show: runs the exchange of each mechanism
/// with `responses` as a client's, and `challenges` as a server's.
///
/// # Panics
/// Where an exchange does not end after a few steps, asks about a user or a password that the
/// responses do not hold, or the client answers more often than it has something to say.
pub fn sasl(responses: &[&[u8]], challenges: &[&[u8]]) {
    for mechanism in [Mechanism::Plain, Mechanism::Login] {
        server_exchange(mechanism, responses);
        client_exchange(mechanism, responses, challenges);
    }
}

/// Responses in one exchange, at most, of the mechanisms that there are.
const RESPONSES_MAX: usize = 2;

fn server_exchange(mechanism: Mechanism, responses: &[&[u8]]) {
    let mut given = responses.iter().copied();
    let mut said = Vec::new();
    let mut step = Exchange::start(mechanism, None);
    loop {
        step = match step {
            Step::Challenge(exchange, prompt) => {
                let Some(response) = given.next() else {
                    return;
                };
                assert!(prompt.len() <= 64, "a long prompt");
                said.extend_from_slice(response);
                exchange.respond(response)
            }
            Step::Ask(
                exchange,
                Ask::Password {
                    authorization,
                    user,
                    secret,
                    ..
                },
            ) => {
                for part in [user.as_str(), secret.expose()] {
                    assert!(!part.is_empty() && !part.contains('\0'), "asks of nobody");
                    assert!(
                        memchr::memmem::find(&said, part.as_bytes()).is_some(),
                        "asks of somebody else"
                    );
                }
                assert_ne!(authorization.as_deref(), Some(user.as_str()));
                exchange.decided(Decision::Identity(user))
            }
            Step::Accept(who) => {
                assert!(
                    memchr::memmem::find(&said, who.as_bytes()).is_some(),
                    "accepts somebody else"
                );
                break;
            }
            Step::Refuse(reply) => {
                assert!(!reply.is_success(), "refuses with a success");
                break;
            }
        };
    }
    assert!(
        responses.len() - given.len() <= RESPONSES_MAX,
        "an exchange without end"
    );
}

/// Whatever the server asks, the client says what it has to say once.
fn client_exchange(mechanism: Mechanism, credentials: &[&[u8]], challenges: &[&[u8]]) {
    let mut texts = credentials.iter().map(|c| String::from_utf8_lossy(c));
    let (user, secret) = (texts.next(), texts.next());
    let (user, secret) = (user.unwrap_or_default(), secret.unwrap_or_default());
    let mut client = mechanism.client(&user, &Secret::new(secret.into_owned()));
    let mut said = usize::from(client.initial().is_some());
    for challenge in challenges {
        said += usize::from(client.respond(challenge).is_some());
    }
    assert!(said <= RESPONSES_MAX, "the password is said again");
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
        require_tls: true,
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
