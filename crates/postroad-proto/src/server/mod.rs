//! The server's side of a session.
//!
//! The contract with the driver: call [`Session::poll`] with the input at hand until it returns
//! [`Output::Wait`] or [`Output::Close`]. At most one [`Question`] is open; while it is, only
//! [`Session::answer`] is legal. Replies gather in [`Session::replies`]; the driver writes them
//! out before it waits for input, pauses, starts TLS or closes, and where answering takes time.

mod answer;
mod receive;
mod session;
mod state;
mod step;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use postroad_mail::{
    AuthParam, BodyKind, Domain, Envelope, ForwardPath, Notify, OriginalRecipient, Reply, Ret,
    ReversePath, TlsInfo,
};

use crate::ehlo::Extensions;
use crate::sasl::{Mechanism, Secret};

pub use session::Session;

/// Octets of an AUTH line, at most, its end not included (RFC 4954 section 4).
pub const AUTH_LINE_MAX: usize = 12_288;

/// Octets that a session leaves in the driver's input buffer, at most, when it says
/// [`Output::Wait`]: the start of a line that may still become a good one.
pub const INPUT_MAX: usize = AUTH_LINE_MAX + 2;

/// Octets of [`Session::replies`], at most: at [`REPLIES_FLUSH`] the session asks for them to be
/// written, and the reply that came then is the last.
pub const REPLIES_MAX: usize = REPLIES_FLUSH + 64 * 1024;

/// Octets of [`Session::replies`] at which the session asks for them to be written, with an
/// [`Output::Pause`] that is over at once.
pub const REPLIES_FLUSH: usize = 16 * 1024;

/// What is the same for all sessions of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name in the greeting and the EHLO reply; `<postmaster>` means postmaster at it.
    pub hostname: Domain,
    /// What EHLO offers. STARTTLS is left out under TLS; REQUIRETLS and plaintext AUTH mechanisms
    /// outside it.
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

impl Config {
    /// A relay of that name: all extensions, usual limits, no AUTH. STARTTLS is left out, since
    /// only the driver knows whether it can make a handshake.
    #[must_use]
    pub fn new(hostname: Domain) -> Self {
        let extensions = Extensions {
            pipelining: true,
            size: Some(0),
            eight_bit_mime: true,
            smtputf8: true,
            chunking: true,
            binary_mime: true,
            enhanced_status_codes: true,
            dsn: true,
            help: true,
            require_tls: true,
            recipients_max: Some(0),
            ..Extensions::default()
        };
        Self {
            hostname,
            extensions,
            require_auth: false,
            require_tls: false,
            verify: Verify::default(),
            bare_newline: BareNewline::default(),
            reject_eight_bit_headers: false,
            limits: Limits::default(),
        }
    }
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

impl Limits {
    /// Octets that are read of content that is refused, to find the command behind it: twice
    /// `message_size` and 1 MiB. Of DATA they are counted from its start; a chunk is measured by
    /// what its BDAT announces. Beyond them the refusal is given, and the session closes.
    #[must_use]
    pub const fn read_on_max(&self) -> u64 {
        self.message_size.saturating_mul(2).saturating_add(1 << 20)
    }
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
    /// Write the replies, wait until then (reading nothing), poll again. A pause before the reply
    /// to an error, which is not among the replies yet; or, where the moment has come already, a
    /// wish that what has gathered be written before more is answered.
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
///
/// More will come; to one that it does not know, a handler answers [`Answer::Reject`] with
/// [`postroad_mail::replies::LOCAL_ERROR`].
#[derive(Debug)]
#[non_exhaustive]
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
    /// VRFY, where real answers are given: [`Answer::Lines`], [`Answer::Forward`], or
    /// [`Answer::Reject`] with [`postroad_mail::replies::NOT_LOCAL`] and the like.
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
    /// REQUIRETLS (RFC 8689)
    pub require_tls: bool,
    /// RET=
    pub ret: Option<Ret>,
    /// ENVID=, decoded
    pub envid: Option<String>,
    /// AUTH=, decoded; [`AuthParam::Unknown`] where this client's word for it does not count
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
#[non_exhaustive]
pub enum Answer {
    /// Go on.
    Accept,
    /// To `Commit`: it is durable, under this name.
    Queued(String),
    /// To `Password`: who that is.
    Identity(String),
    /// To `Verify` and `Expand`.
    Lines(Vec<String>),
    /// To `Verify`: the user is not here; mail is taken, and goes to this address.
    Forward(String),
    /// No. A reply of 421 also closes the session.
    Reject(Reply),
}
