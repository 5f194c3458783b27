//! The states of a session. Each owns what belongs to it; leaving it gives that up.

use postroad_mail::{BodyKind, Envelope, Recipient, Reply};

use super::{Hello, Mail};
use crate::bdat::Chunk;
use crate::content::Content;
use crate::data::Data;
use crate::sasl::Exchange;

/// Where a session is.
#[derive(Debug)]
pub(super) enum State {
    /// Connected; nothing has been sent.
    Connecting,
    /// Greeted with a refusal: only QUIT is of use (RFC 5321 section 3.1).
    Refused,
    /// Greeted; no HELO or EHLO yet.
    Start,
    /// Between transactions.
    Ready,
    /// Behind MAIL.
    Transaction(Transaction),
    /// Behind a chunk that was not the last.
    Chunks(Box<Content>),
    /// Behind a chunk that failed: still in the transaction (RFC 3030 section 2), of which nothing
    /// more is taken. RSET, EHLO and HELO end it, and so does the chunk that is marked as the last,
    /// which a client may have sent before it heard of the failure.
    Broken,
    /// Within AUTH: the next line is a response.
    Authenticating(Exchange),
    /// Content has been announced, and is being decided upon.
    Opening(Opening),
    /// Content comes behind DATA.
    Data(Box<Data>),
    /// Content comes behind BDAT.
    Chunk(Box<Chunk>),
    /// A chunk comes that nobody wants.
    Skip(Box<Skip>),
    /// The content is complete, and is being made durable.
    Committing,
    /// STARTTLS has been granted.
    Handshake,
    /// Over.
    Closed,
}

/// What is to come once the transaction's content is wanted.
#[derive(Debug)]
pub(super) enum Opening {
    Data(Box<Data>),
    Chunk(Box<Chunk>),
}

/// Octets of a refused BDAT, to be read past.
#[derive(Debug)]
pub(super) struct Skip {
    pub(super) left: u64,
    pub(super) reply: Reply,
    pub(super) then: State,
}

impl State {
    /// The state between transactions.
    pub(super) const fn idle(hello: Option<&Hello>) -> Self {
        match hello {
            Some(_) => Self::Ready,
            None => Self::Start,
        }
    }

    /// Whether content has been wanted, and neither committed nor abandoned.
    pub(super) fn holds_content(&self) -> bool {
        match self {
            Self::Chunks(content) => content.failure().is_none(),
            Self::Data(data) => data.is_sound(),
            Self::Chunk(chunk) => chunk.is_sound(),
            _ => false,
        }
    }

    /// Whether a message is on its way that a stopping service should still take.
    pub(super) const fn data_is_under_way(&self) -> bool {
        matches!(
            self,
            Self::Chunks(_) | Self::Opening(_) | Self::Data(_) | Self::Chunk(_) | Self::Committing
        )
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "Connecting",
            Self::Refused => "Refused",
            Self::Start => "Start",
            Self::Ready => "Ready",
            Self::Transaction(_) => "Transaction",
            Self::Chunks(_) => "Chunks",
            Self::Broken => "Broken",
            Self::Authenticating(_) => "Authenticating",
            Self::Opening(_) => "Opening",
            Self::Data(_) => "Data",
            Self::Chunk(_) => "Chunk",
            Self::Skip(_) => "Skip",
            Self::Committing => "Committing",
            Self::Handshake => "Handshake",
            Self::Closed => "Closed",
        }
    }
}

/// A transaction before its content.
#[derive(Debug)]
pub(super) struct Transaction {
    mail: Mail,
    recipients: Vec<Recipient>,
    refused: bool,
}

impl Transaction {
    pub(super) const fn new(mail: Mail) -> Self {
        Self {
            mail,
            recipients: Vec::new(),
            refused: false,
        }
    }

    pub(super) fn push(&mut self, recipient: Recipient) {
        self.recipients.push(recipient);
    }

    /// A recipient was refused.
    pub(super) const fn refuse_one(&mut self) {
        self.refused = true;
    }

    pub(super) const fn any_refused(&self) -> bool {
        self.refused
    }

    pub(super) const fn recipients(&self) -> usize {
        self.recipients.len()
    }

    pub(super) const fn smtputf8(&self) -> bool {
        self.mail.smtputf8
    }

    pub(super) const fn body(&self) -> BodyKind {
        self.mail.body
    }

    /// What was agreed on, where there is a recipient.
    pub(super) fn into_envelope(self) -> Option<Box<Envelope>> {
        let mut recipients = self.recipients.into_iter();
        let mut envelope = Envelope::new(self.mail.from, recipients.next()?);
        for recipient in recipients {
            envelope.push(recipient);
        }
        envelope.body = self.mail.body;
        envelope.smtputf8 = self.mail.smtputf8;
        envelope.require_tls = self.mail.require_tls;
        envelope.ret = self.mail.ret;
        envelope.envid = self.mail.envid;
        envelope.auth = self.mail.auth;
        Some(Box::new(envelope))
    }
}
