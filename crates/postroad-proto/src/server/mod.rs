//! The server's side of a session.
//!
//! The contract with the driver: call [`Session::poll`] with the input at hand until it returns
//! [`Output::Wait`] or [`Output::Close`]. At most one [`Question`] is open; while it is, only
//! [`Session::answer`] is legal. Replies gather in [`Session::replies`]; the driver writes them
//! out before it waits for input, pauses, starts TLS or closes, and where answering takes time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postroad_mail::{
    AuthParam, BodyKind, Domain, Envelope, ForwardPath, Notify, OriginalRecipient, Reply, Ret,
    ReversePath, TlsInfo,
};

use crate::ehlo::Extensions;
use crate::sasl::{Mechanism, Secret};

/// What is the same for all sessions of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name in the greeting and the EHLO reply; `<postmaster>` means postmaster at it.
    pub hostname: Domain,
    /// What EHLO offers. STARTTLS is left out under TLS; plaintext AUTH mechanisms outside it.
    /// `size` and `recipients_max` are taken from `limits`, `verify` from `verify`.
    pub extensions: Extensions,
    /// MAIL is refused with 530 before AUTH: the submission service.
    pub require_auth: bool,
    /// MAIL is refused with 530 outside TLS.
    pub require_tls: bool,
    /// Who gets real VRFY and EXPN answers.
    pub verify: Verify,
    /// What becomes of a bare CR or LF.
    pub bare_newline: BareNewline,
    /// Refuse 8-bit octets in the header of a message without SMTPUTF8.
    pub reject_eight_bit_headers: bool,
    /// Bounds in number, size and time.
    pub limits: Limits,
}

/// Who gets real answers to VRFY and EXPN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Nobody: VRFY 252, EXPN 502.
    #[default]
    None,
    /// Who has authenticated.
    Authenticated,
}

/// What becomes of a bare CR or LF in a message; neither ever ends DATA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareNewline {
    /// Refused.
    #[default]
    Reject,
    /// Stored as CRLF.
    Normalize,
    /// Stored as CRLF for authenticated users and trusted peers, refused for others.
    NormalizeTrusted,
}

/// Bounds of a session. All inclusive.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Octets of a message.
    pub message_size: u64,
    /// Octets of a message's header.
    pub header_size: usize,
    /// Recipients of a transaction.
    pub recipients: usize,
    /// Errors in a session; at the limit 421 and the end.
    pub errors: u32,
    /// Pause before the reply to an error, once half of `errors` are used up; doubles up to 8 times it.
    pub error_delay: Duration,
    /// Wait for a command (RFC 5321 section 4.5.3.2.7: at least 5 minutes).
    pub command_timeout: Duration,
    /// Wait for the next octets of a message.
    pub data_timeout: Duration,
    /// The whole session.
    pub session_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 50 << 20,
            header_size: 256 << 10,
            recipients: 1000,
            errors: 20,
            error_delay: Duration::from_secs(1),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            session_timeout: Duration::from_secs(7200),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address, IPv4-mapped ones as IPv4.
    pub address: IpAddr,
    /// Whether it is in a trusted network.
    pub trusted: bool,
    /// The connection's TLS, where the listener is of the implicit kind.
    pub tls: Option<TlsInfo>,
}

/// What the session knows so far.
#[derive(Clone, Debug)]
pub struct Info {
    /// Who is at the other end; `tls` is kept current.
    pub peer: Peer,
    /// HELO or EHLO, once given.
    pub hello: Option<Hello>,
    /// The authenticated identity.
    pub identity: Option<String>,
    /// Whether the current transaction came with SMTPUTF8.
    pub smtputf8: bool,
}

/// The client's HELO or EHLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The argument, as it came.
    pub name: String,
    /// EHLO.
    pub extended: bool,
}

/// What the driver is to do next.
#[derive(Debug)]
pub enum Output {
    /// Get this decided, then call [`Session::answer`].
    Ask(Question),
    /// Content of the message: dot-unstuffed, in order.
    Body(Bytes),
    /// The transaction is over without a commit: forget what was received of it.
    Abandon,
    /// Write the replies, then make the handshake and call [`Session::tls_started`]. What was
    /// received before has been discarded, also from the input buffer.
    StartTls,
    /// Write the replies already gathered except the last, wait until then, poll again: a pause before the reply to an error.
    Pause {
        /// The end of the pause.
        until: Instant,
    },
    /// Write the replies, read, poll again; at `until` call [`Session::timed_out`].
    Wait {
        /// When patience ends.
        until: Instant,
    },
    /// Write the replies and close.
    Close,
}

/// What the session cannot decide by itself.
#[derive(Debug)]
pub enum Question {
    /// A client has connected; nothing has been sent yet.
    Connect,
    /// HELO or EHLO.
    Hello(Hello),
    /// AUTH: is this the user's password? [`Answer::Identity`] or [`Answer::Reject`].
    Password {
        /// How it came.
        mechanism: Mechanism,
        /// The identity to act as, where another one than `user` was asked for.
        authorization: Option<String>,
        /// Who it says it is.
        user: String,
        /// The password.
        secret: Secret,
    },
    /// MAIL.
    Mail(Mail),
    /// RCPT.
    Rcpt(Rcpt),
    /// DATA or the first BDAT: content will follow. An accepted one ends in `Commit` or
    /// [`Output::Abandon`].
    Data(Box<Envelope>),
    /// The message is complete: [`Answer::Queued`] only once it is durable.
    Commit,
    /// VRFY, where real answers are given: [`Answer::Lines`] or [`Answer::Reject`].
    Verify(String),
    /// EXPN, likewise.
    Expand(String),
}

/// MAIL with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The reverse-path.
    pub from: ReversePath,
    /// SIZE=
    pub size: Option<u64>,
    /// BODY=
    pub body: BodyKind,
    /// SMTPUTF8
    pub smtputf8: bool,
    /// RET=
    pub ret: Option<Ret>,
    /// ENVID=, decoded
    pub envid: Option<String>,
    /// AUTH=, decoded
    pub auth: Option<AuthParam>,
}

/// RCPT with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rcpt {
    /// The forward-path.
    pub to: ForwardPath,
    /// NOTIFY=
    pub notify: Option<Notify>,
    /// ORCPT=
    pub original: Option<OriginalRecipient>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Accept,
    /// To `Commit`: it is durable, under this name.
    Queued(String),
    /// To `Password`: who that is.
    Identity(String),
    /// To `Verify` and `Expand`.
    Lines(Vec<String>),
    /// No. A reply of 421 also closes the session.
    Reject(Reply),
}

/// One session, from the connect to the close.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    info: Info,
    replies: BytesMut,
}

impl Session {
    /// A session that has just been connected; the first output is [`Question::Connect`].
    #[must_use]
    pub fn new(_now: Instant, config: Arc<Config>, peer: Peer) -> Self {
        Self {
            config,
            info: Info {
                peer,
                hello: None,
                identity: None,
                smtputf8: false,
            },
            replies: BytesMut::new(),
        }
    }

    /// Takes what it can use of the input and says what to do next.
    pub fn poll(&mut self, _now: Instant, _input: &mut BytesMut) -> Output {
        let _ = &self.config;
        unimplemented!()
    }

    /// Answers the open question.
    pub fn answer(&mut self, _now: Instant, _answer: Answer) {
        unimplemented!()
    }

    /// The handshake that [`Output::StartTls`] asked for has succeeded.
    pub fn tls_started(&mut self, _now: Instant, _tls: TlsInfo) {
        unimplemented!()
    }

    /// The moment named by [`Output::Wait`] has come with no input.
    pub fn timed_out(&mut self, _now: Instant) {
        unimplemented!()
    }

    /// The client has closed its side; nothing more will come.
    pub fn end_of_input(&mut self, _now: Instant) {
        unimplemented!()
    }

    /// The client has sent before the greeting: seen by the driver, since only it knows when the greeting left.
    pub fn spoke_early(&mut self, _now: Instant) {
        unimplemented!()
    }

    /// The service stops: finish the transaction if its data is under way, else 421 and close.
    pub fn shut_down(&mut self, _now: Instant) {
        unimplemented!()
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

    /// Errors counted so far, for the count per address across connections.
    #[must_use]
    pub fn errors(&self) -> u32 {
        unimplemented!()
    }
}
