//! Plays a script against a client session.
//!
//! ```text
//! S 250 ok       said by the server; \n is a line end, \l a bare LF, \r a bare CR
//! C NOOP         must have been said by the client
//! W 300          how many seconds the client is ready to wait from now
//! P              the moment at which the driver has another piece of the message
//! TLS            a handshake
//! EOF            the server has closed
//! LATE           the time that the client was ready to wait has passed
//! ```

#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postroad_mail::{BodyKind, Protocol, Recipient, TlsInfo};
use postroad_proto::client::{
    Config, Output, RecipientResult, Report, Session, StartTls, Timeouts, Transaction,
};

pub(crate) const MESSAGE: &str = "Subject: x\r\n\r\n.dot\r\n";

pub(crate) fn config(starttls: StartTls) -> Config {
    Config {
        protocol: Protocol::Smtp,
        helo: "me.test".to_owned(),
        starttls,
        credentials: None,
        timeouts: Timeouts::default(),
    }
}

pub(crate) fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        from: "<a@b.test>".parse().unwrap(),
        recipients: recipients
            .iter()
            .map(|r| Recipient::new(r.parse().unwrap()))
            .collect(),
        size: MESSAGE.len() as u64,
        body: BodyKind::SevenBit,
        smtputf8: false,
        ret: None,
        envid: Some("e 1".to_owned()),
        auth: None,
        require_tls: false,
    }
}

pub(crate) fn tls() -> TlsInfo {
    TlsInfo {
        version: "TLS1.3".to_owned(),
        cipher: "X".to_owned(),
    }
}

/// What a script is played with.
pub(crate) struct Play {
    pub(crate) config: Config,
    pub(crate) transactions: Vec<Transaction>,
    /// The message, in pieces; all are sent as soon as they may, or each at a `P` of the script.
    pub(crate) pieces: Vec<Vec<u8>>,
    /// The same pieces for each transaction, or for the first alone.
    pub(crate) refill: bool,
    /// Ask only, without the message.
    pub(crate) probe: bool,
    /// Octets of what the server says that come at a time.
    pub(crate) split: usize,
}

impl Play {
    pub(crate) fn new(config: Config, transactions: Vec<Transaction>) -> Self {
        Self {
            config,
            transactions,
            pieces: vec![MESSAGE.into()],
            refill: false,
            probe: false,
            split: usize::MAX,
        }
    }

    /// Plays, and says how it ended.
    pub(crate) fn script(self, script: &str) -> String {
        let now = now();
        let mut playing = Playing {
            now,
            session: Session::new(now, Arc::new(self.config), None),
            waiting: self.transactions.into(),
            again: if self.refill {
                self.pieces.clone()
            } else {
                Vec::new()
            },
            pieces: self.pieces.into(),
            probe: self.probe,
            allowed: if script.lines().any(|l| l.trim() == "P") {
                0
            } else {
                usize::MAX
            },
            input: BytesMut::new(),
            said: String::new(),
            shown: Vec::new(),
            until: None,
        };
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            playing.line(line, self.split, script);
        }
        playing.drive();
        assert_eq!(playing.said, "", "{script}");
        playing.shown.join("; ")
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any moment will do: the sessions never look at a clock"
)]
fn now() -> Instant {
    Instant::now()
}

struct Playing {
    now: Instant,
    session: Session,
    waiting: std::collections::VecDeque<Transaction>,
    pieces: std::collections::VecDeque<Vec<u8>>,
    again: Vec<Vec<u8>>,
    probe: bool,
    /// Pieces, and the end of them, that may be given now.
    allowed: usize,
    input: BytesMut,
    said: String,
    shown: Vec<String>,
    until: Option<Instant>,
}

impl Playing {
    fn line(&mut self, line: &str, split: usize, script: &str) {
        let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
        let text_sent = text
            .replace("\\n", "\r\n")
            .replace("\\l", "\n")
            .replace("\\r", "\r");
        let octets = format!("{text_sent}\r\n");
        match kind {
            "S" => {
                for part in octets.as_bytes().chunks(split) {
                    self.input.extend_from_slice(part);
                    self.drive();
                }
            }
            "C" => {
                self.drive();
                assert!(
                    self.said.starts_with(&octets),
                    "expected {octets:?}, said {:?}\nin {script}",
                    self.said
                );
                self.said.drain(..octets.len());
            }
            "W" => {
                self.drive();
                let patience = self.until.map(|until| (until - self.now).as_secs());
                assert_eq!(patience, Some(text.parse().unwrap()), "{script}");
                // The next is counted from another moment.
                self.now += Duration::from_secs(1);
            }
            "P" => {
                self.allowed += 1;
                self.drive();
            }
            "TLS" => {
                assert_eq!(self.said, "", "{script}");
                self.input.clear();
                self.session.tls_started(self.now, tls());
            }
            "EOF" => self.session.end_of_input(self.now),
            "LATE" => {
                self.drive();
                let until = self.until.expect("it waits");
                self.session.timed_out(until - Duration::from_millis(1));
                self.drive();
                assert!(self.shown.is_empty(), "too early: {script}");
                self.session.timed_out(until);
            }
            other => panic!("{other}"),
        }
    }

    fn drive(&mut self) {
        loop {
            let output = self.session.poll(self.now, &mut self.input);
            let requests = self.session.requests().split();
            self.said.push_str(std::str::from_utf8(&requests).unwrap());
            self.until = None;
            match output {
                Output::Ready => match self.waiting.pop_front() {
                    Some(next) if self.probe => self.session.probe(self.now, next),
                    Some(next) => self.session.begin(self.now, next),
                    None => return,
                },
                Output::Body if self.allowed == 0 => return,
                Output::Body => {
                    self.allowed -= 1;
                    match self.pieces.pop_front() {
                        Some(piece) => self.session.body(self.now, &piece),
                        None => self.session.body_end(self.now),
                    }
                }
                Output::Finished(report) => {
                    self.shown.push(show(&report));
                    self.pieces.extend(self.again.iter().cloned());
                }
                Output::Failed { phase, error } => {
                    let text = format!("{phase:?}: {error}");
                    if self.shown.last() != Some(&text) {
                        self.shown.push(text);
                    }
                    return;
                }
                Output::Wait { until } => {
                    self.until = Some(until);
                    return;
                }
                Output::StartTls | Output::Closed => return,
            }
        }
    }
}

pub(crate) fn show(report: &Report) -> String {
    let one = |result: &RecipientResult| match result {
        RecipientResult::Accepted(reply) => format!("accepted {}", reply.code),
        RecipientResult::Refused { phase, reply } => format!("{phase:?} {}", reply.code),
        RecipientResult::Broken { phase, .. } => format!("broken {phase:?}"),
        RecipientResult::Unsupported(missing) => format!("{missing:?}"),
    };
    report
        .recipients
        .iter()
        .map(one)
        .collect::<Vec<_>>()
        .join(", ")
}
