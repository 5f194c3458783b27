//! The client's side of a session.
//!
//! The contract with the driver: call [`Session::poll`] with the input at hand, and do what it
//! says, until it says [`Output::Failed`] or [`Output::Closed`]. What is to be written gathers in
//! [`Session::requests`]. However the session ends, every recipient of a transaction is reported
//! on once, in [`Output::Finished`].

mod auth;
mod chunk;
mod commands;
mod dot;
mod mailing;
mod reply;
mod results;
mod session;

use std::time::{Duration, Instant};

use postroad_mail::{AuthParam, BodyKind, Protocol, Recipient, Reply, Ret, ReversePath};

pub use reply::{REPLY_LINE_MAX, REPLY_LINES_MAX, REPLY_MAX};
pub use session::Session;

use crate::sasl::{Mechanism, Secret};

/// How to talk to a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// SMTP, or LMTP (RFC 2033).
    pub protocol: Protocol,
    /// The argument of EHLO and LHLO.
    pub helo: String,
    /// Whether to use STARTTLS.
    pub starttls: StartTls,
    /// Log in, after TLS, where given.
    pub credentials: Option<Credentials>,
    /// How long to wait, for each kind of reply.
    pub timeouts: Timeouts,
}

/// Whether to use STARTTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartTls {
    /// Do not.
    Never,
    /// Where the server offers it.
    #[default]
    IfOffered,
    /// Or give up on the session.
    Require,
}

/// A login at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Who.
    pub user: String,
    /// The password; it is sent under TLS only.
    pub secret: Secret,
    /// The mechanisms to use, best first.
    pub mechanisms: Vec<Mechanism>,
}

/// Client timeouts (RFC 5321 section 4.5.3.2).
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// The greeting: 5 min.
    pub greeting: Duration,
    /// EHLO, STARTTLS, AUTH, MAIL, RCPT, RSET: 5 min.
    pub command: Duration,
    /// The reply to DATA: 2 min.
    pub data_start: Duration,
    /// Progress while sending the body: 3 min.
    pub data_block: Duration,
    /// The reply to the final dot or last chunk: 10 min.
    pub data_end: Duration,
    /// The reply to QUIT.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            greeting: minutes(5),
            command: minutes(5),
            data_start: minutes(2),
            data_block: minutes(3),
            data_end: minutes(10),
            quit: Duration::from_secs(5),
        }
    }
}

/// One message to send over the session.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// MAIL FROM
    pub from: ReversePath,
    /// RCPT TO, at least one.
    pub recipients: Vec<Recipient>,
    /// Octets of the message, as it is stored.
    pub size: u64,
    /// BODY=, where the server has it. Other than with [`BodyKind::BinaryMime`], a bare CR or LF
    /// in the message leaves as CRLF.
    pub body: BodyKind,
    /// SMTPUTF8: needed by the header. Where an address needs it, it is used without being asked
    /// for here.
    pub smtputf8: bool,
    /// RET=
    pub ret: Option<Ret>,
    /// ENVID=
    pub envid: Option<String>,
    /// AUTH=
    pub auth: Option<AuthParam>,
    /// REQUIRETLS (RFC 8689): the message goes only under TLS, to a server that has the extension.
    /// That the server's certificate has been checked is the caller's affair.
    pub require_tls: bool,
}

/// Where in the dialogue something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Opening the connection.
    Connect,
    /// The greeting.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS and its handshake.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, or the body before its end.
    Data,
    /// The final dot or last chunk has been sent, its reply is awaited: the message may have been taken.
    EndOfData,
    /// Between transactions, RSET, QUIT.
    Idle,
}

/// Why a session is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The server refused, with a reply that ends the session (greeting, EHLO and HELO, STARTTLS where required, AUTH, 421).
    #[error("the server said {reply}")]
    Refused {
        /// Its reply.
        reply: Reply,
    },
    /// The server closed the connection, or it broke.
    #[error("the connection was lost")]
    Lost,
    /// No reply within the time allowed.
    #[error("no reply in time")]
    TimedOut,
    /// Not an SMTP reply, or one beyond all bounds.
    #[error("the server's reply is not valid: {0}")]
    Protocol(&'static str),
    /// STARTTLS is required and not offered.
    #[error("STARTTLS is required, and not offered")]
    NoStartTls,
    /// The login is required, and no mechanism of ours is offered, or it would go in the clear.
    #[error("authentication is required, and not possible here")]
    NoAuth,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientResult {
    /// The server has taken the message for it.
    Accepted(Reply),
    /// The server refused, with this reply to that command.
    Refused {
        /// The command that was refused.
        phase: Phase,
        /// The reply.
        reply: Reply,
    },
    /// The session ended first. In [`Phase::EndOfData`] the server may have taken the message.
    Broken {
        /// What was under way.
        phase: Phase,
        /// What happened.
        error: SessionError,
    },
    /// The server lacks an extension that the message needs; it was not sent.
    Unsupported(Missing),
}

/// What a server lacks for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// 8BITMIME
    EightBitMime,
    /// BINARYMIME with CHUNKING
    BinaryMime,
    /// SMTPUTF8, for the message or for an address of the transaction
    SmtpUtf8,
    /// REQUIRETLS, or TLS itself
    RequireTls,
    /// The message is larger than the server's SIZE.
    Size {
        /// What the server takes.
        limit: u64,
    },
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// For each recipient of the transaction, in order.
    pub recipients: Vec<RecipientResult>,
}

/// What the driver is to do next.
#[derive(Debug)]
pub enum Output {
    /// Write what is in [`Session::requests`], read, poll again; at `until` call [`Session::timed_out`].
    Wait {
        /// When patience ends.
        until: Instant,
    },
    /// Write, make the handshake, call [`Session::tls_started`], or drop the session.
    StartTls,
    /// The session is open and between transactions: call [`Session::begin`] or [`Session::quit`].
    Ready,
    /// Content is wanted: call [`Session::body`] with a piece of it, or [`Session::body_end`].
    /// Write out what has gathered before the next piece. With BDAT the last piece is marked as
    /// such, and may be answered, with [`Output::Finished`], before [`Session::body_end`].
    Body,
    /// The transaction is over; [`Output::Ready`] or [`Output::Failed`] follows.
    Finished(Report),
    /// The session is of no more use: close the connection. Recipients of a transaction under
    /// way have been reported before.
    Failed {
        /// What was under way.
        phase: Phase,
        /// What happened.
        error: SessionError,
    },
    /// QUIT has been answered: close the connection.
    Closed,
}
