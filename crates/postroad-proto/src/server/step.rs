//! What each command does: may it, then do it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::mem;
use zeroize::Zeroizing;

use postroad_mail::{Address, AuthParam, BodyKind, ForwardPath, Recipient, Reply, replies};
use std::time::Instant;

use super::session::{Asked, Session};
use super::state::{Opening, Skip, State, Transaction};
use super::{AUTH_LINE_MAX, Hello, Question};
use crate::bdat::Chunk;
use crate::command::{Command, Verb};
use crate::content::{Bounds, Content, Newlines};
use crate::data::Data;
use crate::grammar::{self, BdatArgument, BdatError};
use crate::sasl::{self, Exchange, Mechanism};

type Result = std::result::Result<(), Reply>;

impl Session {
    /// Carries out one command.
    pub(super) fn command(&mut self, now: Instant, line: &[u8]) -> Result {
        let Some(Command { verb, argument }) = Command::parse(line) else {
            self.close_before_content(line);
            return Err(unknown(line));
        };
        if matches!(self.state, State::Refused) && !matches!(verb, Verb::Quit | Verb::Bdat) {
            return Err(replies::BAD_SEQUENCE);
        }
        match verb {
            Verb::Helo => self.hello(argument, false),
            Verb::Ehlo => self.hello(argument, true),
            Verb::Mail => self.mail(argument),
            Verb::Rcpt => self.rcpt(argument),
            Verb::Data => self.data(argument),
            Verb::Bdat => self.bdat(now, argument),
            Verb::Rset => self.rset(argument),
            Verb::Vrfy => self.vrfy(argument),
            Verb::Expn => self.expn(argument),
            Verb::Noop => grammar::text(argument).and_then(|_| self.say(&replies::OK)),
            Verb::Help => grammar::text(argument).and_then(|_| self.say(&replies::HELP)),
            Verb::Quit => self.quit(argument),
            Verb::StartTls => self.starttls(argument),
            Verb::Auth => self.auth(argument),
        }
    }

    fn hello(&mut self, argument: &[u8], extended: bool) -> Result {
        let name = grammar::hello(argument)?;
        let hello = Hello { name, extended };
        self.ask(Asked::Hello(hello.clone()), Question::Hello(hello));
        Ok(())
    }

    fn mail(&mut self, argument: &[u8]) -> Result {
        self.may_send()?;
        match self.state {
            State::Ready => {}
            State::Transaction(_) | State::Chunks(_) => return Err(replies::NESTED_MAIL),
            State::Broken => return Err(replies::CHUNK_FAILED),
            _ => return Err(replies::HELLO_FIRST),
        }
        let mut mail = grammar::mail(argument, &self.offered)?;
        mail.auth = mail.auth.map(|auth| self.believed(auth));
        if mail
            .size
            .is_some_and(|size| size > self.config.limits.message_size)
        {
            return Err(replies::MESSAGE_TOO_BIG);
        }
        self.ask(Asked::Mail(Box::new(mail.clone())), Question::Mail(mail));
        Ok(())
    }

    /// RFC 4954 section 5: what a client says of another's identity counts for nothing unless it
    /// is trusted; what it says of its own is known to be true.
    fn believed(&self, auth: AuthParam) -> AuthParam {
        match auth {
            AuthParam::Identity(who)
                if self.info.peer.trusted || self.info.identity.as_ref() == Some(&who) =>
            {
                AuthParam::Identity(who)
            }
            AuthParam::Identity(_) | AuthParam::Unknown => AuthParam::Unknown,
        }
    }

    fn rcpt(&mut self, argument: &[u8]) -> Result {
        self.may_send()?;
        let transaction = match &self.state {
            State::Transaction(transaction) => transaction,
            State::Chunks(_) => return Err(replies::BAD_SEQUENCE),
            State::Broken => return Err(replies::CHUNK_FAILED),
            _ => return Err(replies::MAIL_FIRST),
        };
        let rcpt = grammar::rcpt(argument, &self.offered, transaction.smtputf8())?;
        if transaction.recipients() >= self.config.limits.recipients {
            return Err(replies::TOO_MANY_RECIPIENTS);
        }
        let address = match &rcpt.to {
            ForwardPath::Postmaster => Address::postmaster_at(self.config.hostname.clone()),
            ForwardPath::Address(address) => address.clone(),
        };
        let recipient = Recipient {
            address,
            notify: rcpt.notify,
            original: rcpt.original.clone(),
            from: None,
        };
        self.ask(Asked::Rcpt(Box::new(recipient)), Question::Rcpt(rcpt));
        Ok(())
    }

    fn data(&mut self, argument: &[u8]) -> Result {
        self.may_send()?;
        grammar::nothing(argument)?;
        let transaction = match &self.state {
            State::Transaction(transaction) => transaction,
            State::Chunks(_) => return Err(replies::CHUNKING_SEQUENCE),
            State::Broken => return Err(replies::CHUNK_FAILED),
            _ => return Err(replies::MAIL_FIRST),
        };
        has_recipients(transaction)?;
        if transaction.body() == BodyKind::BinaryMime {
            return Err(replies::CHUNKING_SEQUENCE);
        }
        let content = self.new_content(transaction);
        self.open(Opening::Data(Box::new(Data::new(content))));
        Ok(())
    }

    /// The octets behind a BDAT are read past, whatever is wrong with it: they are not commands.
    fn bdat(&mut self, now: Instant, argument: &[u8]) -> Result {
        let (chunk, refusal) = match grammar::bdat(argument) {
            Ok(chunk) => (chunk, self.may_bdat(chunk.size)),
            Err(BdatError::Trailing(size)) => {
                let reply = grammar::syntax("Syntax: BDAT octets [LAST]");
                (BdatArgument { size, last: false }, Err(reply))
            }
            Err(BdatError::Size) => {
                // What is content and what is a command cannot be told from here on.
                self.close();
                return Err(grammar::syntax(
                    "Syntax: BDAT octets [LAST]; closing the connection",
                ));
            }
        };
        if chunk.size > self.config.limits.read_on_max() {
            self.close();
            return Err(replies::MESSAGE_TOO_BIG);
        }
        self.await_content(now);
        if let Err(reply) = refusal {
            self.drop_content();
            let then = match mem::replace(&mut self.state, State::Closed) {
                State::Chunks(_) | State::Broken if !chunk.last => State::Broken,
                State::Chunks(_) | State::Broken => State::Ready,
                State::Transaction(t) if t.recipients() > 0 && chunk.last => State::Ready,
                State::Transaction(t) if t.recipients() > 0 => State::Broken,
                other => other,
            };
            let left = chunk.size;
            self.state = State::Skip(Box::new(Skip { left, reply, then }));
            return Ok(());
        }
        match mem::replace(&mut self.state, State::Closed) {
            State::Chunks(content) => {
                let chunk = Chunk::new(chunk.size, chunk.last, *content);
                self.state = State::Chunk(Box::new(chunk));
            }
            State::Transaction(transaction) => {
                let content = self.new_content(&transaction);
                self.state = State::Transaction(transaction);
                let chunk = Chunk::new(chunk.size, chunk.last, content);
                self.open(Opening::Chunk(Box::new(chunk)));
            }
            // Refused above.
            other => self.state = other,
        }
        Ok(())
    }

    fn may_bdat(&self, size: u64) -> Result {
        if !self.offered.chunking {
            return Err(replies::NOT_IMPLEMENTED);
        }
        self.may_send()?;
        match &self.state {
            State::Transaction(transaction) => {
                has_recipients(transaction)?;
                if size > self.config.limits.message_size {
                    return Err(replies::MESSAGE_TOO_BIG);
                }
                Ok(())
            }
            State::Chunks(content) if content.exceeds(size) => Err(replies::MESSAGE_TOO_BIG),
            State::Chunks(_) => Ok(()),
            State::Broken => Err(replies::CHUNK_FAILED),
            _ => Err(replies::MAIL_FIRST),
        }
    }

    fn rset(&mut self, argument: &[u8]) -> Result {
        grammar::nothing(argument)?;
        self.drop_content();
        self.state = State::idle(self.info.hello.as_ref());
        self.say(&replies::RESET)
    }

    fn vrfy(&mut self, argument: &[u8]) -> Result {
        self.may_send()?;
        let whom = grammar::text_argument(argument)?;
        if self.gives_real_answers() {
            self.ask(Asked::Lookup, Question::Verify(whom));
            return Ok(());
        }
        self.say(&replies::CANNOT_VERIFY)
    }

    fn expn(&mut self, argument: &[u8]) -> Result {
        self.may_send()?;
        if !self.gives_real_answers() {
            return Err(replies::NOT_IMPLEMENTED);
        }
        let whom = grammar::text_argument(argument)?;
        self.ask(Asked::Lookup, Question::Expand(whom));
        Ok(())
    }

    fn quit(&mut self, argument: &[u8]) -> Result {
        grammar::nothing(argument)?;
        self.close();
        self.say(&replies::BYE)
    }

    fn starttls(&mut self, argument: &[u8]) -> Result {
        grammar::nothing(argument)?;
        if self.info.peer.tls.is_some() {
            return Err(replies::TLS_ALREADY);
        }
        if !self.offered.starttls {
            return Err(replies::TLS_UNAVAILABLE);
        }
        self.drop_content();
        self.state = State::Handshake;
        self.say(&replies::READY_FOR_TLS)
    }

    fn auth(&mut self, argument: &[u8]) -> Result {
        let configured = &self.config.extensions.auth;
        if configured.is_empty() {
            return Err(replies::NOT_IMPLEMENTED);
        }
        match self.state {
            State::Start => return Err(replies::HELLO_FIRST),
            State::Transaction(_) | State::Chunks(_) | State::Broken => {
                return Err(replies::BAD_SEQUENCE);
            }
            _ => {}
        }
        if self.info.identity.is_some() {
            return Err(replies::AUTH_ALREADY);
        }
        let (name, initial) = grammar::auth(argument)?;
        let mechanism = Mechanism::from_name(name)
            .filter(|mechanism| configured.contains(mechanism))
            .ok_or(replies::UNKNOWN_MECHANISM)?;
        if !self.offered.auth.contains(&mechanism) {
            return Err(replies::ENCRYPTION_REQUIRED);
        }
        let step = match initial {
            // RFC 4954 section 4: "=" is an initial response of no octets.
            Some("=") => Exchange::start(mechanism, Some(b"")),
            Some(initial) => Exchange::start(mechanism, Some(&decode(initial.as_bytes())?)),
            None => Exchange::start(mechanism, None),
        };
        self.sasl(step)
    }

    /// A line of an AUTH exchange.
    pub(super) fn respond(&mut self, line: &[u8]) -> Result {
        let State::Authenticating(exchange) = mem::replace(&mut self.state, State::Ready) else {
            return Err(replies::BAD_SEQUENCE);
        };
        if line == b"*" {
            return Err(replies::AUTH_CANCELLED);
        }
        self.sasl(exchange.respond(&decode(line)?))
    }

    /// Goes on with an AUTH exchange.
    pub(super) fn sasl(&mut self, step: sasl::Step) -> Result {
        match step {
            sasl::Step::Challenge(exchange, text) => {
                let text = BASE64.encode(text);
                if text.len() > AUTH_LINE_MAX {
                    self.state = State::Ready;
                    return Err(replies::LOCAL_ERROR);
                }
                self.state = State::Authenticating(exchange);
                self.reply_uncut(&replies::CHALLENGE.with_text(text));
                Ok(())
            }
            sasl::Step::Ask(exchange, ask) => {
                let question = match ask {
                    sasl::Ask::Password {
                        mechanism,
                        authorization,
                        user,
                        secret,
                    } => Question::Password {
                        mechanism,
                        authorization,
                        user,
                        secret,
                    },
                };
                self.state = State::Ready;
                self.ask(Asked::Sasl(exchange), question);
                Ok(())
            }
            sasl::Step::Accept(identity) => {
                self.state = State::Ready;
                self.info.identity = Some(identity);
                self.renew_offer();
                self.say(&replies::AUTHENTICATED)
            }
            sasl::Step::Refuse(reply) => {
                self.state = State::Ready;
                Err(reply)
            }
        }
    }

    /// Asks whether the content of the transaction under way is wanted.
    fn open(&mut self, opening: Opening) {
        let state = mem::replace(&mut self.state, State::Opening(opening));
        if let State::Transaction(transaction) = state
            && let Some(envelope) = transaction.into_envelope()
        {
            self.ask(Asked::Data, Question::Data(envelope));
        }
    }

    fn new_content(&self, transaction: &Transaction) -> Content {
        let newlines = if transaction.body() == BodyKind::BinaryMime {
            Newlines::Keep
        } else if self.normalizes() {
            Newlines::Normalize
        } else {
            Newlines::Reject
        };
        let bounds = Bounds {
            message: self.config.limits.message_size,
            header: self.config.limits.header_size,
            ascii_header: self.config.reject_eight_bit_headers && !transaction.smtputf8(),
            read_on: self.config.limits.read_on_max(),
        };
        Content::new(newlines, bounds)
    }

    /// Whether this client may do more than say hello, start TLS and log in.
    fn may_send(&self) -> Result {
        if self.config.require_tls && self.info.peer.tls.is_none() {
            return Err(replies::TLS_REQUIRED);
        }
        if self.config.require_auth && self.info.identity.is_none() {
            return Err(replies::AUTH_REQUIRED);
        }
        Ok(())
    }

    fn say(&mut self, reply: &Reply) -> Result {
        self.reply(reply);
        Ok(())
    }
}

fn has_recipients(transaction: &Transaction) -> Result {
    match (transaction.recipients(), transaction.any_refused()) {
        (0, true) => Err(replies::NO_VALID_RECIPIENTS),
        (0, false) => Err(replies::RCPT_FIRST),
        _ => Ok(()),
    }
}

fn decode(base64: &[u8]) -> std::result::Result<Zeroizing<Vec<u8>>, Reply> {
    BASE64
        .decode(base64)
        .map(Zeroizing::new)
        .map_err(|_| replies::AUTH_BAD_BASE64)
}

/// A line that begins with no verb of ours.
fn unknown(line: &[u8]) -> Reply {
    if line.iter().all(|octet| (b' '..=b'~').contains(octet)) {
        replies::UNKNOWN_COMMAND
    } else {
        replies::INVALID_OCTETS
    }
}
