use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use postroad_mail::{Protocol, Reply, TlsInfo};

use super::auth::{Login, Next};
use super::mailing::{Mailing, Progress};
use super::reply::ReplyParser;
use super::{Config, Output, Phase, RecipientResult, Report, SessionError, StartTls, Transaction};
use crate::ehlo::Extensions;

/// One session with a server.
pub struct Session {
    config: Arc<Config>,
    requests: BytesMut,
    parser: ReplyParser,
    extensions: Extensions,
    tls: Option<TlsInfo>,
    logged_in: bool,
    state: State,
    /// When patience ends.
    deadline: Instant,
    report: Option<Report>,
}

#[derive(Debug)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Auth(Login),
    /// `dirty`: the last transaction was left half-way, RSET is owed.
    Ready {
        dirty: bool,
    },
    Mailing(Box<Mailing>),
    Quitting,
    Over {
        phase: Phase,
        error: SessionError,
    },
    Closed,
}

/// Without what is to be written, in which there may be a password.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("phase", &self.phase())
            .field("tls", &self.tls)
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session over a connection that has just been made; `tls` where TLS is already on.
    #[must_use]
    pub fn new(now: Instant, config: Arc<Config>, tls: Option<TlsInfo>) -> Self {
        let deadline = now + config.timeouts.greeting;
        Self {
            config,
            requests: BytesMut::new(),
            parser: ReplyParser::default(),
            extensions: Extensions::default(),
            tls,
            logged_in: false,
            state: State::Greeting,
            deadline,
            report: None,
        }
    }

    /// Takes what it can use of the input and says what to do next.
    pub fn poll(&mut self, now: Instant, input: &mut BytesMut) -> Output {
        loop {
            if let Some(report) = self.report.take() {
                return Output::Finished(report);
            }
            match &self.state {
                State::Over { phase, error } => {
                    return Output::Failed {
                        phase: *phase,
                        error: error.clone(),
                    };
                }
                State::Closed => return Output::Closed,
                State::Handshake => return Output::StartTls,
                _ => {}
            }
            match self.parser.take(input) {
                Ok(Some(reply)) => self.reply(now, reply, input),
                Ok(None) => break,
                Err(what) => self.over(SessionError::Protocol(what)),
            }
        }
        match &self.state {
            State::Ready { .. } => Output::Ready,
            State::Mailing(mailing) if mailing.takes_content() => Output::Body,
            _ => Output::Wait {
                until: self.deadline,
            },
        }
    }

    /// Starts a transaction; legal at [`Output::Ready`].
    pub fn begin(&mut self, now: Instant, transaction: Transaction) {
        self.start(now, transaction, false);
    }

    /// Asks what the server says to a transaction, without its message: MAIL, RCPT and RSET. A
    /// recipient is [`RecipientResult::Accepted`] with the reply to its RCPT. Legal at
    /// [`Output::Ready`].
    pub fn probe(&mut self, now: Instant, transaction: Transaction) {
        self.start(now, transaction, true);
    }

    fn start(&mut self, now: Instant, transaction: Transaction, probing: bool) {
        let State::Ready { dirty } = self.state else {
            let broken = || RecipientResult::Broken {
                phase: Phase::Idle,
                error: SessionError::Lost,
            };
            let recipients = transaction.recipients.iter().map(|_| broken()).collect();
            self.report = Some(Report { recipients });
            return;
        };
        if let Some(missing) = Mailing::missing(&transaction, &self.extensions, self.tls.is_some())
        {
            let recipients = transaction
                .recipients
                .iter()
                .map(|_| RecipientResult::Unsupported(missing))
                .collect();
            self.report = Some(Report { recipients });
            return;
        }
        let mut mailing = Mailing::new(transaction, &self.config, &self.extensions, dirty);
        if probing {
            mailing = mailing.probing();
        }
        mailing.send(&self.extensions, &mut self.requests);
        self.state = State::Mailing(Box::new(mailing));
        self.deadline = now + self.patience();
    }

    /// A piece of the message; legal at [`Output::Body`].
    pub fn body(&mut self, now: Instant, piece: &[u8]) {
        if let State::Mailing(mailing) = &mut self.state {
            match mailing.content(piece, &mut self.requests) {
                Ok(()) => self.deadline = now + self.patience(),
                Err(error) => self.over(error),
            }
        }
    }

    /// The message is complete; legal at [`Output::Body`].
    pub fn body_end(&mut self, now: Instant) {
        if let State::Mailing(mailing) = &mut self.state {
            match mailing.content_end(&mut self.requests) {
                Ok(()) => self.deadline = now + self.patience(),
                Err(error) => self.over(error),
            }
        }
    }

    /// The handshake has succeeded: what was known of the server is forgotten, and asked again.
    pub fn tls_started(&mut self, now: Instant, tls: TlsInfo) {
        self.tls = Some(tls);
        self.parser = ReplyParser::default();
        self.requests.clear();
        self.hello(now);
    }

    /// The moment named by [`Output::Wait`] has come with no input.
    pub fn timed_out(&mut self, now: Instant) {
        if now >= self.deadline {
            self.ended(SessionError::TimedOut);
        }
    }

    /// The server has closed the connection, or it broke.
    pub fn end_of_input(&mut self, _now: Instant) {
        self.ended(SessionError::Lost);
    }

    /// Says goodbye; legal at [`Output::Ready`].
    pub fn quit(&mut self, now: Instant) {
        if matches!(self.state, State::Ready { .. }) {
            self.requests.put_slice(b"QUIT\r\n");
            self.state = State::Quitting;
            self.deadline = now + self.patience();
        }
    }

    /// Octets to write to the server; take them out with `split`.
    pub fn requests(&mut self) -> &mut BytesMut {
        &mut self.requests
    }

    /// What the server's last EHLO offered.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Whether the session is open and between transactions.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    fn reply(&mut self, now: Instant, reply: Reply, input: &mut BytesMut) {
        let closing = reply.code.get() == 421;
        match &mut self.state {
            State::Greeting if reply.is_success() => self.hello(now),
            State::Ehlo if reply.is_success() => self.offered(now, &reply),
            State::Ehlo if reply.code.get() >= 500 && self.config.protocol == Protocol::Smtp => {
                self.command(
                    now,
                    State::Helo,
                    format_args!("HELO {}\r\n", Arc::clone(&self.config).helo),
                );
            }
            State::Helo if reply.is_success() => self.secure(now),
            State::StartTls if reply.is_success() => {
                // Whatever came behind this reply came in the clear (CVE-2011-0411).
                input.clear();
                self.state = State::Handshake;
            }
            State::StartTls if !closing && self.config.starttls == StartTls::IfOffered => {
                self.log_in(now);
            }
            State::Auth(login) => match login.reply(reply) {
                Next::Send(line) => {
                    self.requests.put_slice(line.as_bytes());
                    self.deadline = now + self.patience();
                }
                Next::Done => {
                    self.logged_in = true;
                    self.state = State::Ready { dirty: false };
                }
                Next::Failed(error) => self.over(error),
            },
            State::Mailing(mailing) => {
                let progress = mailing.reply(reply, &self.extensions, &mut self.requests);
                self.progressed(now, progress);
            }
            State::Quitting => self.state = State::Closed,
            State::Ready { .. } if !closing => {
                self.over(SessionError::Protocol("a reply to nothing"));
            }
            _ => self.over(SessionError::Refused { reply }),
        }
    }

    fn progressed(&mut self, now: Instant, progress: Progress) {
        match progress {
            Progress::Wait | Progress::Content => self.deadline = now + self.patience(),
            Progress::Done { report, dirty } => {
                self.report = Some(report);
                self.state = State::Ready { dirty };
            }
            Progress::Over {
                report,
                phase,
                error,
            } => {
                self.report = Some(report);
                self.state = State::Over { phase, error };
            }
        }
    }

    fn hello(&mut self, now: Instant) {
        self.extensions = Extensions::default();
        let config = Arc::clone(&self.config);
        let verb = match config.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        self.command(now, State::Ehlo, format_args!("{verb} {}\r\n", config.helo));
    }

    fn offered(&mut self, now: Instant, reply: &Reply) {
        for line in reply.text.split('\n').skip(1) {
            self.extensions.parse_line(line);
        }
        self.secure(now);
    }

    fn secure(&mut self, now: Instant) {
        let (wanted, on) = (self.config.starttls, self.tls.is_some());
        if on || wanted == StartTls::Never {
            self.log_in(now);
        } else if self.extensions.starttls {
            self.command(now, State::StartTls, format_args!("STARTTLS\r\n"));
        } else if wanted == StartTls::Require {
            self.state = State::Over {
                phase: Phase::StartTls,
                error: SessionError::NoStartTls,
            };
        } else {
            self.log_in(now);
        }
    }

    fn log_in(&mut self, now: Instant) {
        let config = Arc::clone(&self.config);
        let Some(credentials) = config.credentials.as_ref().filter(|_| !self.logged_in) else {
            self.state = State::Ready { dirty: false };
            return;
        };
        let usable = |m: &&crate::sasl::Mechanism| {
            self.extensions.auth.contains(m) && (self.tls.is_some() || !m.is_plaintext())
        };
        let Some(&mechanism) = credentials.mechanisms.iter().find(usable) else {
            self.state = State::Over {
                phase: Phase::Auth,
                error: SessionError::NoAuth,
            };
            return;
        };
        let (login, line) = Login::start(mechanism, credentials);
        self.command(now, State::Auth(login), format_args!("{}", *line));
    }

    fn command(&mut self, now: Instant, state: State, line: fmt::Arguments<'_>) {
        use fmt::Write as _;
        // Writing to memory does not fail.
        let _ = self.requests.write_fmt(line);
        self.state = state;
        self.deadline = now + self.patience();
    }

    /// How long to wait for what is awaited now (RFC 5321 section 4.5.3.2).
    fn patience(&self) -> Duration {
        let timeouts = &self.config.timeouts;
        match &self.state {
            State::Greeting => timeouts.greeting,
            State::Quitting => timeouts.quit,
            State::Mailing(mailing) => match mailing.phase() {
                Phase::Data if mailing.wants_content() => timeouts.data_block,
                Phase::Data => timeouts.data_start,
                Phase::EndOfData => timeouts.data_end,
                _ => timeouts.command,
            },
            _ => timeouts.command,
        }
    }

    fn phase(&self) -> Phase {
        match &self.state {
            State::Greeting => Phase::Greeting,
            State::Ehlo | State::Helo => Phase::Hello,
            State::StartTls | State::Handshake => Phase::StartTls,
            State::Auth(_) => Phase::Auth,
            State::Mailing(mailing) => mailing.phase(),
            State::Ready { .. } | State::Quitting | State::Closed => Phase::Idle,
            State::Over { phase, .. } => *phase,
        }
    }

    fn ended(&mut self, error: SessionError) {
        match self.state {
            State::Quitting => self.state = State::Closed,
            State::Closed | State::Over { .. } => {}
            _ => self.over(error),
        }
    }

    fn over(&mut self, error: SessionError) {
        let phase = self.phase();
        if let State::Mailing(mailing) = &mut self.state {
            self.report = Some(mailing.broken(&error));
        }
        self.state = State::Over { phase, error };
    }
}
