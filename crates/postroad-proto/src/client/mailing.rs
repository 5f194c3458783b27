use std::collections::VecDeque;

use bytes::{BufMut as _, BytesMut};
use postroad_mail::{Address, BodyKind, Reply, Severity};

use super::chunk::{Chunk, Chunks};
use super::commands::{put_mail, put_rcpt};
use super::dot::DotStuffer;
use super::{Missing, Phase, RecipientResult, Report, SessionError, Transaction};
use crate::ehlo::Extensions;

/// Commands sent ahead of their replies, at most: so much is buffered here, and so much the
/// server must buffer.
const WINDOW: usize = 100;

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct Mailing {
    transaction: Transaction,
    /// None while open: not answered yet, or accepted.
    results: Vec<Option<RecipientResult>>,
    /// What the replies to come will answer.
    expected: VecDeque<Expect>,
    next: Command,
    accepted: usize,
    pipelining: bool,
    chunking: bool,
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
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
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
    pub(crate) fn missing(transaction: &Transaction, extensions: &Extensions) -> Option<Missing> {
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

    pub(crate) fn new(mut transaction: Transaction, extensions: &Extensions, dirty: bool) -> Self {
        transaction.smtputf8 = needs_smtputf8(&transaction);
        Self {
            results: vec![None; transaction.recipients.len()],
            transaction,
            expected: VecDeque::new(),
            next: if dirty { Command::Reset } else { Command::Mail },
            accepted: 0,
            pipelining: extensions.pipelining,
            chunking: extensions.chunking,
            stage: Stage::Commands,
        }
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
                Some(Expect::End) => Phase::EndOfData,
                Some(Expect::Reset | Expect::Mail) | None => Phase::Mail,
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
                        self.next = if self.chunking {
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
                Command::Data if self.expected.is_empty() && self.accepted == 0 => {
                    self.next = Command::Nothing;
                    return;
                }
                Command::Data => {
                    out.put_slice(b"DATA\r\n");
                    self.next = Command::Nothing;
                    Expect::Data
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
        if reply.code.get() == 421 && expect != Expect::End {
            self.expected.push_front(expect);
            return self.over(SessionError::Refused { reply });
        }
        match expect {
            Expect::Reset if !reply.is_success() => {
                return self.over(SessionError::Refused { reply });
            }
            Expect::Reset => {}
            Expect::Mail if !reply.is_success() => {
                self.refuse_open(Phase::Mail, &reply);
                // What has been sent ahead is answered yet; nothing more is sent.
                self.next = Command::Nothing;
            }
            Expect::Mail => {}
            Expect::Rcpt(index) => self.recipient(index, reply),
            Expect::Data => return self.data(&reply, out),
            Expect::Chunk if reply.is_success() => return Progress::Content,
            Expect::Chunk => return self.refused_in_content(reply),
            Expect::End => return self.end(reply),
        }
        self.send(extensions, out);
        if !self.expected.is_empty() {
            return Progress::Wait;
        }
        if self.accepted == 0 {
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
                Chunk::Last => self.expected.push_back(Expect::End),
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
                self.expected.push_back(Expect::End);
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
        self.report(|| RecipientResult::Broken {
            phase,
            error: error.clone(),
        })
    }

    fn recipient(&mut self, index: usize, reply: Reply) {
        let Some(result) = self.results.get_mut(index) else {
            return;
        };
        if result.is_some() {
            // MAIL was refused: that is why this is.
            return;
        }
        if reply.is_success() {
            self.accepted += 1;
        } else {
            *result = Some(RecipientResult::Refused {
                phase: Phase::Rcpt,
                reply,
            });
        }
    }

    fn data(&mut self, reply: &Reply, out: &mut BytesMut) -> Progress {
        if reply.severity() != Severity::Continue {
            self.refuse_open(Phase::Data, reply);
            return self.done(true);
        }
        if self.accepted == 0 {
            // DATA went ahead of the refusals, and the server waits for a message to nobody.
            out.put_slice(b".\r\n");
            self.expected.push_back(Expect::End);
            self.stage = Stage::End;
            return Progress::Wait;
        }
        self.stage = Stage::Dots(DotStuffer::new());
        Progress::Content
    }

    fn end(&mut self, reply: Reply) -> Progress {
        let report = self.report(|| {
            if reply.is_success() {
                RecipientResult::Accepted(reply.clone())
            } else {
                RecipientResult::Refused {
                    phase: Phase::EndOfData,
                    reply: reply.clone(),
                }
            }
        });
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
        self.refuse_open(Phase::Data, &reply);
        let report = self.report(|| RecipientResult::Refused {
            phase: Phase::Data,
            reply: reply.clone(),
        });
        Progress::Over {
            report,
            phase: Phase::Data,
            error: SessionError::Refused { reply },
        }
    }

    fn refuse_open(&mut self, phase: Phase, reply: &Reply) {
        self.accepted = 0;
        for result in self.results.iter_mut().filter(|r| r.is_none()) {
            *result = Some(RecipientResult::Refused {
                phase,
                reply: reply.clone(),
            });
        }
    }

    fn done(&mut self, dirty: bool) -> Progress {
        let error = SessionError::Protocol("no reply");
        let report = self.broken(&error);
        Progress::Done { report, dirty }
    }

    fn over(&mut self, error: SessionError) -> Progress {
        Progress::Over {
            report: self.broken(&error),
            phase: self.phase(),
            error,
        }
    }

    fn report(&mut self, open: impl Fn() -> RecipientResult) -> Report {
        let recipients = self
            .results
            .iter_mut()
            .map(|result| result.take().unwrap_or_else(&open))
            .collect();
        Report { recipients }
    }
}

/// Whether the header or an address of the transaction does.
fn needs_smtputf8(transaction: &Transaction) -> bool {
    let recipients = transaction.recipients.iter().map(|r| &r.address);
    transaction.smtputf8
        || recipients
            .chain(transaction.from.address())
            .any(Address::needs_smtputf8)
}
