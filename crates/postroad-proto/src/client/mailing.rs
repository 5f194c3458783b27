use std::collections::VecDeque;

use bytes::{BufMut as _, BytesMut};
use postroad_mail::{Address, BodyKind, Protocol, Reply, Severity};

use super::chunk::{Chunk, Chunks};
use super::commands::{put_mail, put_rcpt};
use super::dot::DotStuffer;
use super::results::{Results, ended};
use super::{Config, Missing, Phase, RecipientResult, Report, SessionError, Transaction};
use crate::ehlo::Extensions;

/// Commands sent ahead of their replies, at most: so much is buffered here, and so much the
/// server must buffer.
const WINDOW: usize = 100;

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct Mailing {
    transaction: Transaction,
    results: Results,
    /// What the replies to come will answer.
    expected: VecDeque<Expect>,
    next: Command,
    pipelining: bool,
    chunking: bool,
    protocol: Protocol,
    /// It ends with RSET behind the recipients.
    probing: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// A chunk that is not the last.
    Chunk,
    /// SMTP: the one reply for all recipients that were accepted.
    End,
    /// LMTP: the reply for one of them (RFC 2033 section 4.2).
    EndFor(usize),
    /// The RSET of a probe.
    Undo,
}

impl Expect {
    const fn is_end(self) -> bool {
        matches!(self, Self::End | Self::EndFor(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    Undo,
    Nothing,
}

#[derive(Debug)]
enum Stage {
    Commands,
    Dots(DotStuffer),
    Chunks(Chunks),
    End,
}

/// What a reply has led to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// More replies are to come.
    Wait,
    /// Content is wanted.
    Content,
    /// The transaction is over; `dirty` where the server must be told to forget it.
    Done { report: Report, dirty: bool },
    /// So is the session.
    Over {
        report: Report,
        phase: Phase,
        error: SessionError,
    },
}

impl Mailing {
    /// What the server lacks for this transaction, if anything.
    pub(crate) fn missing(
        transaction: &Transaction,
        extensions: &Extensions,
        tls: bool,
    ) -> Option<Missing> {
        // RFC 8689 section 4.2.1: what is said of REQUIRETLS outside TLS counts for nothing.
        if transaction.require_tls && !(tls && extensions.require_tls) {
            return Some(Missing::RequireTls);
        }
        if needs_smtputf8(transaction) && !extensions.smtputf8 {
            return Some(Missing::SmtpUtf8);
        }
        match transaction.body {
            BodyKind::BinaryMime if !(extensions.binary_mime && extensions.chunking) => {
                return Some(Missing::BinaryMime);
            }
            BodyKind::EightBitMime if !extensions.eight_bit_mime => {
                return Some(Missing::EightBitMime);
            }
            BodyKind::SevenBit | BodyKind::EightBitMime | BodyKind::BinaryMime => {}
        }
        extensions
            .size
            .filter(|&limit| limit > 0 && transaction.size > limit)
            .map(|limit| Missing::Size { limit })
    }

    pub(crate) fn new(
        mut transaction: Transaction,
        config: &Config,
        extensions: &Extensions,
        dirty: bool,
    ) -> Self {
        transaction.smtputf8 = needs_smtputf8(&transaction);
        Self {
            results: Results::new(transaction.recipients.len()),
            transaction,
            expected: VecDeque::new(),
            next: if dirty { Command::Reset } else { Command::Mail },
            pipelining: extensions.pipelining,
            chunking: extensions.chunking,
            protocol: config.protocol,
            probing: false,
            stage: Stage::Commands,
        }
    }

    /// The same without its message: RSET follows the recipients.
    pub(crate) const fn probing(mut self) -> Self {
        self.probing = true;
        self
    }

    /// What is under way, for the timeout and for whoever asks why.
    pub(crate) fn phase(&self) -> Phase {
        match &self.stage {
            // With its last chunk the message may have been taken.
            Stage::Chunks(chunks) if chunks.is_complete() => Phase::EndOfData,
            Stage::Dots(_) | Stage::Chunks(_) => Phase::Data,
            Stage::End => Phase::EndOfData,
            Stage::Commands => match self.expected.front() {
                Some(Expect::Rcpt(_)) => Phase::Rcpt,
                Some(Expect::Data | Expect::Chunk) => Phase::Data,
                Some(Expect::End | Expect::EndFor(_)) => Phase::EndOfData,
                // Nothing has been asked for this message yet: a refusal says nothing of it.
                Some(Expect::Undo | Expect::Reset) => Phase::Idle,
                Some(Expect::Mail) | None => Phase::Mail,
            },
        }
    }

    pub(crate) const fn wants_content(&self) -> bool {
        matches!(self.stage, Stage::Dots(_) | Stage::Chunks(_))
    }

    /// Whether a piece may be sent before another reply has come.
    pub(crate) fn takes_content(&self) -> bool {
        match &self.stage {
            Stage::Dots(_) => true,
            Stage::Chunks(chunks) => chunks.is_complete() || self.expected.len() < self.window(),
            Stage::Commands | Stage::End => false,
        }
    }

    const fn window(&self) -> usize {
        if self.pipelining { WINDOW } else { 1 }
    }

    /// Sends as many commands as may be sent now.
    pub(crate) fn send(&mut self, extensions: &Extensions, out: &mut BytesMut) {
        while self.expected.len() < self.window() {
            let expect = match self.next {
                Command::Reset => {
                    out.put_slice(b"RSET\r\n");
                    self.next = Command::Mail;
                    Expect::Reset
                }
                Command::Mail => {
                    put_mail(&self.transaction, extensions, out);
                    self.next = Command::Rcpt(0);
                    Expect::Mail
                }
                Command::Rcpt(index) => {
                    let Some(recipient) = self.transaction.recipients.get(index) else {
                        self.next = if self.probing {
                            Command::Undo
                        } else if self.chunking {
                            Command::Nothing
                        } else {
                            Command::Data
                        };
                        continue;
                    };
                    put_rcpt(recipient, self.transaction.smtputf8, extensions, out);
                    self.next = Command::Rcpt(index + 1);
                    Expect::Rcpt(index)
                }
                Command::Data if self.expected.is_empty() && !self.results.any_accepted() => {
                    self.next = Command::Nothing;
                    return;
                }
                Command::Data => {
                    out.put_slice(b"DATA\r\n");
                    self.next = Command::Nothing;
                    Expect::Data
                }
                Command::Undo => {
                    out.put_slice(b"RSET\r\n");
                    self.next = Command::Nothing;
                    Expect::Undo
                }
                Command::Nothing => return,
            };
            self.expected.push_back(expect);
        }
    }

    /// Takes a reply in.
    pub(crate) fn reply(
        &mut self,
        reply: Reply,
        extensions: &Extensions,
        out: &mut BytesMut,
    ) -> Progress {
        if self.wants_content() && self.expected.is_empty() {
            return self.refused_in_content(reply);
        }
        let Some(expect) = self.expected.pop_front() else {
            return self.over(SessionError::Protocol("a reply to nothing"));
        };
        if reply.code.get() == 421 && !expect.is_end() {
            self.expected.push_front(expect);
            return self.over(SessionError::Refused { reply });
        }
        let answers_bdat = expect == Expect::Chunk || expect.is_end() && self.chunking;
        if answers_bdat && is_unknown_command(&reply) {
            // Said of the command, not of the message, which another host may well take.
            return self.over_at(
                Phase::Data,
                SessionError::Protocol("CHUNKING is offered, and BDAT is not known"),
            );
        }
        match expect {
            Expect::Reset if !reply.is_success() => {
                return self.over_at(Phase::Idle, SessionError::Refused { reply });
            }
            Expect::Reset => {}
            Expect::Mail if !reply.is_success() => {
                self.results.refuse(Phase::Mail, &reply);
                // What has been sent ahead is answered yet; nothing more is sent.
                self.next = Command::Nothing;
            }
            Expect::Mail => {}
            Expect::Rcpt(index) => self.results.recipient(index, reply, self.probing),
            Expect::Data => return self.data(&reply, out),
            Expect::Chunk if reply.is_success() => return Progress::Content,
            Expect::Chunk => return self.refused_in_content(reply),
            Expect::End => return self.end(reply),
            Expect::EndFor(index) => return self.end_for(index, reply),
            Expect::Undo => return self.done(!reply.is_success()),
        }
        self.send(extensions, out);
        if !self.expected.is_empty() {
            return Progress::Wait;
        }
        if !self.results.any_accepted() {
            return self.done(true);
        }
        // All recipients are answered, some are accepted, and DATA is not how it goes.
        let binary = self.transaction.body == BodyKind::BinaryMime;
        self.stage = Stage::Chunks(Chunks::new(self.transaction.size, binary));
        // Of an empty message this is the last chunk, else it is nothing yet.
        match self.content(&[], out) {
            Ok(()) => Progress::Content,
            Err(error) => self.over(error),
        }
    }

    /// Takes a piece of content in.
    pub(crate) fn content(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), SessionError> {
        match &mut self.stage {
            Stage::Dots(stuffer) => stuffer.write(piece, out),
            Stage::Chunks(chunks) => match chunks.write(piece, out)? {
                Chunk::Nothing => {}
                Chunk::One => self.expected.push_back(Expect::Chunk),
                Chunk::Last => self.expect_end(),
            },
            Stage::Commands | Stage::End => {
                return Err(SessionError::Protocol("content out of turn"));
            }
        }
        Ok(())
    }

    pub(crate) fn content_end(&mut self, out: &mut BytesMut) -> Result<(), SessionError> {
        match std::mem::replace(&mut self.stage, Stage::End) {
            Stage::Dots(stuffer) => {
                stuffer.finish(out);
                self.expect_end();
            }
            Stage::Chunks(chunks) if chunks.is_complete() => {}
            stage @ Stage::Chunks(_) => {
                self.stage = stage;
                return Err(SessionError::Protocol("less content than was announced"));
            }
            stage @ (Stage::Commands | Stage::End) => {
                self.stage = stage;
                return Err(SessionError::Protocol("content out of turn"));
            }
        }
        Ok(())
    }

    /// The report where the session ends here.
    pub(crate) fn broken(&mut self, error: &SessionError) -> Report {
        let phase = self.phase();
        self.results.report(|| RecipientResult::Broken {
            phase,
            error: error.clone(),
        })
    }

    fn data(&mut self, reply: &Reply, out: &mut BytesMut) -> Progress {
        if reply.severity() != Severity::Continue {
            self.results.refuse(Phase::Data, reply);
            return self.done(true);
        }
        if !self.results.any_accepted() && self.protocol == Protocol::Lmtp {
            // RFC 2033 section 4.2 forbids it. Whether a reply follows a message to nobody
            // cannot be known, so that nothing could be told of what follows.
            let error = SessionError::Protocol("DATA is taken, and no recipient is");
            return self.over_at(Phase::Data, error);
        }
        if !self.results.any_accepted() {
            // DATA went ahead of the refusals, and the server waits for a message to nobody.
            out.put_slice(b".\r\n");
            self.expected.push_back(Expect::End);
            self.stage = Stage::End;
            return Progress::Wait;
        }
        self.stage = Stage::Dots(DotStuffer::new());
        Progress::Content
    }

    /// The whole message has been sent.
    fn expect_end(&mut self) {
        match self.protocol {
            Protocol::Smtp => self.expected.push_back(Expect::End),
            Protocol::Lmtp => {
                self.expected
                    .extend(self.results.open().map(Expect::EndFor));
            }
        }
    }

    /// LMTP: what became of one recipient.
    fn end_for(&mut self, index: usize, reply: Reply) -> Progress {
        let closing = reply.code.get() == 421;
        self.results.ended(index, reply.clone());
        if closing {
            // What the server would have said of the others is not known.
            return self.over(SessionError::Refused { reply });
        }
        if !self.expected.is_empty() {
            return Progress::Wait;
        }
        self.done(false)
    }

    fn end(&mut self, reply: Reply) -> Progress {
        let report = self.results.report(|| ended(reply.clone()));
        if reply.code.get() == 421 {
            return Progress::Over {
                report,
                phase: Phase::EndOfData,
                error: SessionError::Refused { reply },
            };
        }
        Progress::Done {
            report,
            dirty: false,
        }
    }

    /// The server has answered before it has the message: that can only be a refusal.
    fn refused_in_content(&mut self, reply: Reply) -> Progress {
        if reply.is_success() || reply.severity() == Severity::Continue {
            return self.over(SessionError::Protocol("a reply before the end of data"));
        }
        self.results.refuse(Phase::Data, &reply);
        let report = self.results.report(|| RecipientResult::Refused {
            phase: Phase::Data,
            reply: reply.clone(),
        });
        Progress::Over {
            report,
            phase: Phase::Data,
            error: SessionError::Refused { reply },
        }
    }

    fn done(&mut self, dirty: bool) -> Progress {
        let error = SessionError::Protocol("no reply");
        let report = self.broken(&error);
        Progress::Done { report, dirty }
    }

    fn over(&mut self, error: SessionError) -> Progress {
        self.over_at(self.phase(), error)
    }

    fn over_at(&mut self, phase: Phase, error: SessionError) -> Progress {
        let report = self.results.report(|| RecipientResult::Broken {
            phase,
            error: error.clone(),
        });
        Progress::Over {
            report,
            phase,
            error,
        }
    }
}

/// Whether a reply says that there is no such command (RFC 5321 section 4.2.2).
fn is_unknown_command(reply: &Reply) -> bool {
    matches!(reply.code.get(), 500 | 502) && reply.enhanced.is_none_or(|code| code.subject == 5)
}

/// Whether the header or an address of the transaction does.
fn needs_smtputf8(transaction: &Transaction) -> bool {
    let recipients = transaction.recipients.iter().map(|r| &r.address);
    transaction.smtputf8
        || recipients
            .chain(transaction.from.address())
            .any(Address::needs_smtputf8)
}
