//! Plays a dialogue against a server session, and writes down what happens.
//!
//! ```text
//! = relay size=1000       the settings; the first line
//! # a comment
//! C: NOOP                 the client writes a line; \r \n \0 \xNN \\ and {300*x} are understood
//! C+: NOOP                the same, in one write with the next
//! C>: BDAT                the same, without a line end
//! S: 250 2.0.0 OK         the server's reply
//! ? Rcpt <a@b> -> NAME    a question, and its answer where it is not the usual one: a row of the
//!                         table of replies, or `identity x`, `lines a | b`,
//!                         `forward x`, `accept`
//! M: Subject: x           a line of the message that was committed
//! ! abandon               what else the session says: abandon, close, starttls, pause 1s
//! @ +5m                   time passes; also: eof, shutdown, early
//! ```

#![allow(dead_code, reason = "each test program uses a part")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postroad_mail::{Reply, TlsInfo, replies};
use postroad_proto::Extensions;
use postroad_proto::sasl::Mechanism;
use postroad_proto::server::{
    Answer, BareNewline, Config, INPUT_MAX, Limits, Mail, Output, Peer, Question, REPLIES_MAX,
    Session, Verify,
};

/// A moment to count from: the sessions never look at a clock.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn tls() -> TlsInfo {
    TlsInfo {
        version: "TLS1.3".to_owned(),
        cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
    }
}

pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) trusted: bool,
    pub(crate) tls: bool,
}

impl Settings {
    pub(crate) fn parse(words: &str) -> Self {
        let mut settings = Self {
            config: Config {
                hostname: "mx.example.org".parse().unwrap(),
                extensions: Extensions {
                    pipelining: true,
                    eight_bit_mime: true,
                    smtputf8: true,
                    chunking: true,
                    binary_mime: true,
                    enhanced_status_codes: true,
                    dsn: true,
                    starttls: true,
                    require_tls: true,
                    help: true,
                    ..Extensions::default()
                },
                require_auth: false,
                require_tls: false,
                verify: Verify::None,
                bare_newline: BareNewline::Reject,
                reject_eight_bit_headers: false,
                limits: Limits::default(),
            },
            trusted: false,
            tls: false,
        };
        for word in words.split_whitespace() {
            settings.apply(word);
        }
        settings
    }

    fn apply(&mut self, word: &str) {
        let config = &mut self.config;
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "relay" => {}
            "submission" => {
                config.require_auth = true;
                config.extensions.auth = vec![Mechanism::Plain, Mechanism::Login];
            }
            "auth" => config.extensions.auth = vec![Mechanism::Plain, Mechanism::Login],
            "host" => config.hostname = value.parse().unwrap(),
            "tls" => self.tls = true,
            "trusted" => self.trusted = true,
            "verify" => config.verify = Verify::Authenticated,
            "require-tls" => config.require_tls = true,
            "normalize" => config.bare_newline = BareNewline::Normalize,
            "normalize-trusted" => config.bare_newline = BareNewline::NormalizeTrusted,
            "ascii-header" => config.reject_eight_bit_headers = true,
            "no-starttls" => config.extensions.starttls = false,
            "no-extensions" => config.extensions = Extensions::default(),
            "size" => config.limits.message_size = value.parse().unwrap(),
            "header" => config.limits.header_size = value.parse().unwrap(),
            "recipients" => config.limits.recipients = value.parse().unwrap(),
            "errors" => config.limits.errors = value.parse().unwrap(),
            "session" => config.limits.session_timeout = duration(value),
            _ => panic!("no such setting: {word}"),
        }
    }

    pub(crate) fn session(&self, now: Instant) -> Session {
        let peer = Peer {
            address: "192.0.2.7".parse().unwrap(),
            trusted: self.trusted,
            tls: self.tls.then(tls),
        };
        Session::new(now, Arc::new(self.config.clone()), peer)
    }
}

fn duration(s: &str) -> Duration {
    let (number, unit) = s.split_at(s.len() - 1);
    let number: u64 = number.parse().unwrap();
    Duration::from_secs(match unit {
        "s" => number,
        "m" => 60 * number,
        "h" => 3600 * number,
        _ => panic!("no such unit of time: {s}"),
    })
}

/// A question, as a transcript shows it.
fn show_mail(mail: &Mail) -> String {
    let mut s = format!("Mail <{}>", mail.from);
    if let Some(size) = mail.size {
        write!(s, " size {size}").unwrap();
    }
    if mail.body != postroad_mail::BodyKind::SevenBit {
        write!(s, " {:?}", mail.body).unwrap();
    }
    if mail.smtputf8 {
        s.push_str(" smtputf8");
    }
    if mail.require_tls {
        s.push_str(" require-tls");
    }
    if let Some(ret) = &mail.ret {
        write!(s, " ret {ret:?}").unwrap();
    }
    if let Some(envid) = &mail.envid {
        write!(s, " envid {envid}").unwrap();
    }
    if let Some(auth) = &mail.auth {
        write!(s, " auth {auth:?}").unwrap();
    }
    s
}

fn show(question: &Question) -> String {
    match question {
        Question::Connect => "Connect".to_owned(),
        Question::Hello(hello) => {
            let verb = if hello.extended { "EHLO" } else { "HELO" };
            format!("Hello {verb} {}", hello.name)
        }
        Question::Password {
            mechanism,
            authorization,
            user,
            secret,
        } => {
            let other = authorization.as_deref().map(|a| format!(" as {a}"));
            let (other, secret) = (other.unwrap_or_default(), secret.expose());
            format!("Password {mechanism} {user}{other} {secret}")
        }
        Question::Mail(mail) => show_mail(mail),
        Question::Rcpt(rcpt) => {
            let mut s = format!("Rcpt <{}>", rcpt.to);
            if let Some(notify) = &rcpt.notify {
                write!(s, " notify {notify}").unwrap();
            }
            if let Some(original) = &rcpt.original {
                write!(s, " original {original}").unwrap();
            }
            s
        }
        Question::Data(envelope) => {
            let to: Vec<String> = envelope
                .recipients()
                .iter()
                .map(|r| r.address.to_string())
                .collect();
            let mut s = format!("Data to {}", to.join(", "));
            if let Some(auth) = &envelope.auth {
                write!(s, " auth {auth:?}").unwrap();
            }
            if envelope.require_tls {
                s.push_str(" require-tls");
            }
            s
        }
        Question::Commit => "Commit".to_owned(),
        Question::Verify(whom) => format!("Verify {whom}"),
        Question::Expand(whom) => format!("Expand {whom}"),
        other => format!("{other:?}"),
    }
}

fn usual_answer(question: &Question) -> Answer {
    match question {
        Question::Commit => Answer::Queued("Q1".to_owned()),
        Question::Password { user, .. } => Answer::Identity(user.clone()),
        _ => Answer::Accept,
    }
}

pub(crate) fn row(name: &str) -> Reply {
    let row = replies::ALL.iter().find(|(n, _)| *n == name);
    row.unwrap_or_else(|| panic!("no such reply: {name}"))
        .1
        .clone()
}

fn parse_answer(text: &str) -> Answer {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("accept", _) => Answer::Accept,
        ("identity", who) => Answer::Identity(who.to_owned()),
        ("forward", to) => Answer::Forward(to.to_owned()),
        ("lines", lines) => Answer::Lines(lines.split(" | ").map(str::to_owned).collect()),
        (name, _) => Answer::Reject(row(name)),
    }
}

/// A session with a client's hand on it.
pub(crate) struct Player {
    pub(crate) session: Session,
    pub(crate) input: BytesMut,
    pub(crate) now: Instant,
    /// What happened, line by line.
    pub(crate) log: Vec<String>,
    /// Every message that was committed.
    pub(crate) messages: Vec<Vec<u8>>,
    /// Answers to give, with the beginning of the question each is for.
    pub(crate) answers: Vec<(String, String)>,
    until: Option<Instant>,
    body: Vec<u8>,
    open: bool,
    pub(crate) closed: bool,
}

impl Player {
    pub(crate) fn new(settings: &Settings) -> Self {
        let now = start();
        Self {
            session: settings.session(now),
            input: BytesMut::new(),
            now,
            log: Vec::new(),
            messages: Vec::new(),
            answers: Vec::new(),
            until: None,
            body: Vec::new(),
            open: false,
            closed: false,
        }
    }

    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.run();
    }

    /// Polls until there is nothing more to do.
    pub(crate) fn run(&mut self) {
        loop {
            let output = self.session.poll(self.now, &mut self.input);
            self.take_replies();
            match output {
                Output::Ask(question) => self.answer(&question),
                Output::Body(piece) => {
                    assert!(self.open, "content of no transaction");
                    self.body.extend_from_slice(&piece);
                }
                Output::Abandon => {
                    assert!(self.open, "nothing to abandon");
                    self.open = false;
                    self.body.clear();
                    self.log.push("! abandon".to_owned());
                }
                Output::StartTls => {
                    assert!(self.input.is_empty(), "input was kept over STARTTLS");
                    self.log.push("! starttls".to_owned());
                    self.session.tls_started(self.now, tls());
                }
                Output::Pause { until } => {
                    if until > self.now {
                        let pause = until - self.now;
                        self.log.push(format!("! pause {pause:?}"));
                        self.now = until;
                    }
                }
                Output::Wait { until } => {
                    assert!(self.input.len() <= INPUT_MAX, "too much input is kept");
                    assert!(until > self.now, "waits for the past");
                    self.until = Some(until);
                    return;
                }
                Output::Close => {
                    assert!(
                        !self.open,
                        "closed with a transaction neither committed nor abandoned"
                    );
                    if !self.closed {
                        self.log.push("! close".to_owned());
                    }
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn take_replies(&mut self) {
        assert!(
            self.session.replies().len() <= REPLIES_MAX,
            "too many replies"
        );
        let replies = self.session.replies().split();
        let text = std::str::from_utf8(&replies).expect("replies are ASCII");
        assert!(text.is_empty() || text.ends_with("\r\n"));
        for line in text.split_terminator("\r\n") {
            assert!(line.len() <= 510 && !line.contains(['\r', '\n']));
            self.log.push(format!("S: {line}"));
        }
    }

    fn answer(&mut self, question: &Question) {
        let shown = show(question);
        let mut line = format!("? {shown}");
        let mut answer = usual_answer(question);
        if let Some((asked, text)) = self.answers.first()
            && *asked == shown
        {
            write!(line, " -> {text}").unwrap();
            answer = parse_answer(text);
            self.answers.remove(0);
        }
        self.log.push(line);
        match question {
            Question::Data(_) => {
                assert!(!self.open && self.body.is_empty());
                self.open = answer == Answer::Accept;
            }
            Question::Commit => {
                assert!(self.open);
                self.open = false;
                let message = std::mem::take(&mut self.body);
                self.log.extend(show_message(&message));
                if matches!(answer, Answer::Queued(_)) {
                    self.messages.push(message);
                }
            }
            _ => {}
        }
        self.session.answer(self.now, answer);
        self.take_replies();
    }

    /// Something other than input.
    pub(crate) fn event(&mut self, event: &str) {
        match event {
            "eof" => self.session.end_of_input(self.now),
            "shutdown" => self.session.shut_down(self.now),
            "early" => self.session.spoke_early(self.now),
            time => {
                self.now += duration(time.strip_prefix('+').expect("an event"));
                if self.until.is_some_and(|until| until <= self.now) {
                    self.session.timed_out(self.now);
                }
            }
        }
        self.run();
    }
}

fn show_message(message: &[u8]) -> Vec<String> {
    if message.len() > 1000 {
        return vec![format!("M: ({} octets)", message.len())];
    }
    message
        .split_inclusive(|&b| b == b'\n')
        .map(|line| match line.strip_suffix(b"\r\n") {
            Some(line) => format!("M: {}", line.escape_ascii()),
            None => format!("M>: {}", line.escape_ascii()),
        })
        .collect()
}

/// What a transcript's client writes for one line of it.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let (escape, behind) = rest.split_at(1);
                rest = behind;
                match escape {
                    "r" => out.push(b'\r'),
                    "n" => out.push(b'\n'),
                    "0" => out.push(0),
                    "x" => {
                        let (hex, behind) = rest.split_at(2);
                        out.push(u8::from_str_radix(hex, 16).unwrap());
                        rest = behind;
                    }
                    "\\" => out.push(b'\\'),
                    _ => panic!("no such escape: {escape}"),
                }
            }
            '{' if rest.contains('*') => {
                let (repeat, behind) = rest.split_once('}').unwrap();
                let (count, what) = repeat.split_once('*').unwrap();
                for _ in 0..count.parse::<usize>().unwrap() {
                    out.extend_from_slice(what.as_bytes());
                }
                rest = behind;
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}
