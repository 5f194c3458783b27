use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postroad_mail::{Recipient, Reply, Severity, TlsInfo, replies};

use super::state::State;
use super::{
    BareNewline, Config, Hello, Info, Mail, Output, Peer, Question, REPLIES_FLUSH, Verify,
};
use crate::ehlo::Extensions;
use crate::lines::Lines;
use crate::params::LineLimits;
use crate::sasl::Exchange;

/// One session, from the connect to the close.
///
/// After [`Session::new`] call [`Session::poll`]; then do what it says and call it again.
#[derive(Debug)]
pub struct Session {
    pub(super) config: Arc<Config>,
    pub(super) info: Info,
    pub(super) replies: BytesMut,
    pub(super) state: State,
    pub(super) asked: Option<Asked>,
    pub(super) question: Option<Question>,
    /// What this session offers now: depends on TLS and on who has authenticated.
    pub(super) offered: Extensions,
    pub(super) lines: Lines,
    pub(super) line_limits: LineLimits,
    errors: u32,
    pause: Option<Paused>,
    pub(super) deadline: Instant,
    session_end: Instant,
    abandon: bool,
    closing: bool,
    stopping: bool,
    ended: bool,
}

/// The question that is open, with what its answer needs.
#[derive(Debug)]
pub(super) enum Asked {
    Connect,
    Hello(Hello),
    Sasl(Exchange),
    Mail(Box<Mail>),
    Rcpt(Box<Recipient>),
    Data,
    Commit,
    Lookup,
}

/// A reply to an error, held back.
#[derive(Debug)]
struct Paused {
    until: Instant,
    reply: Reply,
}

impl Session {
    /// A session that has just been connected; the first output is [`Question::Connect`].
    #[must_use]
    pub fn new(now: Instant, config: Arc<Config>, peer: Peer) -> Self {
        let mut session = Self {
            info: Info {
                peer,
                hello: None,
                identity: None,
            },
            replies: BytesMut::new(),
            state: State::Connecting,
            asked: None,
            question: None,
            offered: Extensions::default(),
            lines: Lines::default(),
            line_limits: LineLimits::default(),
            errors: 0,
            pause: None,
            deadline: after(now, config.limits.command_timeout),
            session_end: after(now, config.limits.session_timeout),
            abandon: false,
            closing: false,
            stopping: false,
            ended: false,
            config,
        };
        session.renew_offer();
        session
    }

    /// Takes what it can use of the input and says what to do next.
    ///
    /// With [`Output::Wait`] at most [`super::INPUT_MAX`] octets stay in `input`; leave them
    /// there, and add what comes.
    pub fn poll(&mut self, now: Instant, input: &mut BytesMut) -> Output {
        loop {
            if let Some(output) = self.settle(now, input) {
                return output;
            }
            let output = match &mut self.state {
                State::Connecting => {
                    self.ask(Asked::Connect, Question::Connect);
                    None
                }
                State::Committing => {
                    self.ask(Asked::Commit, Question::Commit);
                    None
                }
                State::Handshake => {
                    // What came before the handshake was not protected by it (RFC 3207 section 4.2).
                    input.clear();
                    self.lines.clear();
                    Some(Output::StartTls)
                }
                State::Closed => Some(Output::Close),
                State::Data(_) | State::Chunk(_) => self.receive_content(now, input),
                State::Skip(_) => self.skip(now, input),
                // Decided upon with the question open, which `settle` has seen to.
                State::Opening(_) => self.wait(now),
                State::Refused
                | State::Start
                | State::Ready
                | State::Transaction(_)
                | State::Chunks(_)
                | State::Broken
                | State::Authenticating(_) => self.receive_line(now, input),
            };
            if let Some(output) = output {
                return output;
            }
        }
    }

    /// The handshake that [`Output::StartTls`] asked for has succeeded.
    pub fn tls_started(&mut self, now: Instant, tls: TlsInfo) {
        if !matches!(self.state, State::Handshake) {
            return;
        }
        self.info.peer.tls = Some(tls);
        // RFC 3207 section 4.2: what was known before is forgotten.
        self.info.hello = None;
        self.info.identity = None;
        self.state = State::Start;
        self.deadline = after(now, self.config.limits.command_timeout);
        self.renew_offer();
    }

    /// The moment named by [`Output::Wait`] has come with no input.
    pub fn timed_out(&mut self, now: Instant) {
        if self.closing || self.asked.is_some() {
            return;
        }
        let reply = if now >= self.session_end {
            replies::SESSION_TOO_LONG
        } else {
            replies::IDLE
        };
        self.reply(&reply);
        self.close();
    }

    /// The client has closed its side; nothing more will come. What the input still holds is
    /// served, then the session closes.
    pub fn end_of_input(&mut self, _now: Instant) {
        self.ended = true;
    }

    /// The client has sent before the greeting: seen by the driver, since only it knows when the greeting left.
    pub fn spoke_early(&mut self, _now: Instant) {
        if self.closing {
            return;
        }
        self.asked = None;
        self.question = None;
        self.state = State::Start;
        self.errors = self.errors.saturating_add(1);
        self.reply(&replies::EARLY_TALKER);
        self.close();
    }

    /// The service stops: finish the transaction if its data is under way, else 421 and close.
    pub fn shut_down(&mut self, _now: Instant) {
        self.stopping = true;
    }

    /// Octets to write to the client; take them out with `split`.
    pub fn replies(&mut self) -> &mut BytesMut {
        &mut self.replies
    }

    /// What is known so far.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Errors counted so far, for the count per address across connections: refusals with 5yz,
    /// failed AUTH and refused recipients among them.
    #[must_use]
    pub const fn errors(&self) -> u32 {
        self.errors
    }

    /// The name of the state, for tests that draw the table of them.
    #[doc(hidden)]
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        self.state.name()
    }

    /// What does not depend on the state.
    fn settle(&mut self, now: Instant, input: &mut BytesMut) -> Option<Output> {
        if let Some(question) = self.question.take() {
            return Some(Output::Ask(question));
        }
        if self.asked.is_some() {
            return Some(Output::Wait {
                until: self.session_end,
            });
        }
        if mem::take(&mut self.abandon) {
            return Some(Output::Abandon);
        }
        if let Some(paused) = &self.pause
            && now < paused.until
        {
            return Some(Output::Pause {
                until: paused.until,
            });
        }
        if let Some(paused) = self.pause.take() {
            self.reply(&paused.reply);
        }
        if self.stopping && !self.closing && !self.state.data_is_under_way() {
            self.reply(&replies::SHUTTING_DOWN);
            self.close();
        }
        if self.closing {
            self.state = State::Closed;
            input.clear();
            return Some(Output::Close);
        }
        (self.replies.len() >= REPLIES_FLUSH).then_some(Output::Pause { until: now })
    }

    /// Nothing more can be done with the input at hand.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Output> {
        let until = self.deadline.min(self.session_end);
        if self.ended {
            self.close();
            None
        } else if now >= until {
            self.timed_out(now);
            None
        } else {
            Some(Output::Wait { until })
        }
    }

    pub(super) fn ask(&mut self, asked: Asked, question: Question) {
        self.asked = Some(asked);
        self.question = Some(question);
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.replies);
    }

    /// A reply whose text is for a machine, and must not be cut.
    pub(super) fn reply_uncut(&mut self, reply: &Reply) {
        reply.write_uncut(&mut self.replies);
    }

    /// Gives a reply that says no: counted where it is the client's fault, and held back where
    /// there have been many.
    pub(super) fn refuse(&mut self, now: Instant, reply: Reply) {
        let mut reply = reply;
        let mut pause = Duration::ZERO;
        if reply.severity() == Severity::Permanent {
            self.errors = self.errors.saturating_add(1);
            pause = self.pause_before_error();
            if self.errors >= self.config.limits.errors {
                reply = replies::TOO_MANY_ERRORS;
            }
        }
        if reply.code == replies::SHUTTING_DOWN.code {
            self.close();
        }
        if pause.is_zero() {
            self.reply(&reply);
        } else {
            self.pause = Some(Paused {
                until: after(now, pause),
                reply,
            });
        }
    }

    fn pause_before_error(&self) -> Duration {
        let limits = &self.config.limits;
        match self.errors.checked_sub(limits.errors / 2 + 1) {
            Some(beyond) => limits.error_delay.saturating_mul(1 << beyond.min(3)),
            None => Duration::ZERO,
        }
    }

    /// Ends the session once what is to be said has been said.
    pub(super) fn close(&mut self) {
        self.drop_content();
        self.closing = true;
    }

    /// Declares content void that has been given out.
    pub(super) fn drop_content(&mut self) {
        if self.state.holds_content() {
            self.abandon = true;
        }
    }

    /// Works out what is offered: after a change of TLS or identity.
    pub(super) fn renew_offer(&mut self) {
        let config = &*self.config;
        let tls = self.info.peer.tls.is_some();
        let mut offered = config.extensions.clone();
        offered.size = Some(config.limits.message_size);
        offered.recipients_max = u64::try_from(config.limits.recipients).ok();
        offered.starttls &= !tls;
        // RFC 8689 section 4.2: never offered, nor taken, outside TLS.
        offered.require_tls &= tls;
        offered.auth.retain(|m| tls || !m.is_plaintext());
        offered.binary_mime &= offered.chunking;
        offered.verify = self.gives_real_answers();
        self.line_limits = LineLimits::new(&offered);
        self.offered = offered;
    }

    /// Whether VRFY and EXPN are answered in earnest.
    pub(super) fn gives_real_answers(&self) -> bool {
        match self.config.verify {
            Verify::None => false,
            Verify::Authenticated => self.info.identity.is_some(),
        }
    }

    /// Whether bare newlines are taken for CRLF.
    pub(super) fn normalizes(&self) -> bool {
        match self.config.bare_newline {
            BareNewline::Reject => false,
            BareNewline::Normalize => true,
            BareNewline::NormalizeTrusted => self.info.peer.trusted || self.info.identity.is_some(),
        }
    }

    pub(super) fn await_command(&mut self, now: Instant) {
        self.deadline = after(now, self.config.limits.command_timeout);
    }

    pub(super) fn await_content(&mut self, now: Instant) {
        self.deadline = after(now, self.config.limits.data_timeout);
    }
}

/// A moment later; one that no clock can name is put off for a year.
fn after(now: Instant, wait: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    now.checked_add(wait)
        .or_else(|| now.checked_add(YEAR))
        .unwrap_or(now)
}
