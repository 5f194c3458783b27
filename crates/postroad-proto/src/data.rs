//! The content of a message behind DATA: dots taken out, the end found (RFC 5321 section 4.5.2).

use bytes::{Buf as _, Bytes, BytesMut};

use crate::content::{CRLF, Content, Failure, LineStart, Stop};

/// Reads content until CRLF.CRLF, which alone ends it.
#[derive(Debug)]
pub(crate) struct Data {
    content: Content,
    /// Octets read, of whatever kind.
    read: u64,
}

/// What the input gave.
#[derive(Debug)]
pub(crate) enum Step {
    /// A piece of the content.
    Body(Bytes),
    /// The content is not acceptable: what was given of it is void. The rest will be read.
    Failed,
    /// Nothing yet.
    More,
    /// The content is complete, and why it cannot be taken.
    End(Option<Failure>),
    /// It cannot be taken, and its end is too far away to be waited for.
    Endless(Failure),
}

impl Data {
    pub(crate) const fn new(content: Content) -> Self {
        Self { content, read: 0 }
    }

    /// Whether a piece of the content may have been given that has not been declared void.
    pub(crate) const fn is_sound(&self) -> bool {
        self.content.failure().is_none()
    }

    /// Takes what it can of the input. At most two octets stay there: what may be the start of
    /// the end.
    pub(crate) fn step(&mut self, input: &mut BytesMut) -> Step {
        loop {
            if let Some(failure) = self.content.failure() {
                return self.drain(failure, input);
            }
            let (length, stop) = self.content.scan(input, true);
            if length > 0 {
                let piece = input.split_to(length).freeze();
                self.read = self.read.saturating_add(length as u64);
                if stop == Stop::Dot {
                    self.drop_dot(input);
                }
                if self.content.take(&piece) {
                    return Step::Body(piece);
                }
                return Step::Failed;
            }
            match stop {
                Stop::More => return Step::More,
                Stop::Dot => self.drop_dot(input),
                Stop::End => {
                    self.advance(input, 3);
                    return Step::End(None);
                }
                Stop::Nul => {
                    self.content.fail(Failure::Nul);
                    return Step::Failed;
                }
                Stop::Bare if self.content.normalizes() => {
                    self.advance(input, 1);
                    self.content.line = LineStart::AfterBare;
                    if self.content.take(CRLF) {
                        return Step::Body(Bytes::from_static(CRLF));
                    }
                    return Step::Failed;
                }
                Stop::Bare => {
                    self.content.fail(Failure::BareNewline);
                    return Step::Failed;
                }
            }
        }
    }

    fn advance(&mut self, input: &mut BytesMut, octets: usize) {
        input.advance(octets);
        self.read = self.read.saturating_add(octets as u64);
    }

    fn drop_dot(&mut self, input: &mut BytesMut) {
        self.advance(input, 1);
        self.content.line = LineStart::Inside;
    }

    /// Reads on to the end, for nothing but to find it, and not for ever.
    fn drain(&mut self, failure: Failure, input: &mut BytesMut) -> Step {
        loop {
            let (length, stop) = self.content.scan(input, true);
            self.advance(input, length);
            if self.read > self.content.read_on_max() {
                return Step::Endless(failure);
            }
            match stop {
                Stop::More => return Step::More,
                Stop::Dot | Stop::Bare | Stop::Nul => self.drop_dot(input),
                Stop::End => {
                    self.advance(input, 3);
                    return Step::End(Some(failure));
                }
            }
        }
    }
}
