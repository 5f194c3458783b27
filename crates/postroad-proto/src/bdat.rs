//! The content of a message behind BDAT: octets, counted (RFC 3030 section 2).

use bytes::{Buf as _, Bytes, BytesMut};

use crate::content::Failure;
use crate::content::{CRLF, Content, LineStart, Stop};
use crate::data::Step;

/// One chunk of a message, on its way in.
#[derive(Debug)]
pub(crate) struct Chunk {
    left: u64,
    last: bool,
    content: Content,
}

impl Chunk {
    /// A chunk of `size` octets that continues `content`.
    pub(crate) const fn new(size: u64, last: bool, content: Content) -> Self {
        Self {
            left: size,
            last,
            content,
        }
    }

    pub(crate) const fn is_last(&self) -> bool {
        self.last
    }

    /// Octets of the chunk still to come.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }

    pub(crate) const fn is_sound(&self) -> bool {
        self.content.failure().is_none()
    }

    /// What has been received so far, for the next chunk to continue.
    pub(crate) const fn into_content(self) -> Content {
        self.content
    }

    /// Takes what it can of the input, and never an octet behind the chunk. At most one octet of
    /// the chunk stays there: a CR whose next octet is still to come.
    pub(crate) fn step(&mut self, input: &mut BytesMut) -> Step {
        loop {
            if self.left == 0 {
                return self.end();
            }
            if input.is_empty() {
                return Step::More;
            }
            let at_hand = self.at_hand(input.len());
            if self.content.failure().is_some() {
                self.content.count(at_hand);
                self.advance(input, at_hand);
                continue;
            }
            if self.content.keeps_octets() {
                return self.give(input, at_hand);
            }
            if self.content.held_cr {
                if let Some(step) = self.release_cr(input) {
                    return step;
                }
                continue;
            }
            let (length, stop) = self
                .content
                .scan(input.get(..at_hand).unwrap_or_default(), false);
            if length > 0 {
                return self.give(input, length);
            }
            match stop {
                // Only a CR can be left, and the chunk may end between it and its LF.
                Stop::More if self.left == 1 => {
                    self.advance(input, 1);
                    self.content.held_cr = true;
                }
                Stop::More => return Step::More,
                Stop::Nul => return self.fail(Failure::Nul),
                Stop::Bare if self.content.normalizes() => {
                    self.advance(input, 1);
                    return self.newline(LineStart::AfterBare);
                }
                Stop::Bare | Stop::Dot | Stop::End => return self.fail(Failure::BareNewline),
            }
        }
    }

    fn end(&mut self) -> Step {
        if self.last && self.content.held_cr && self.content.failure().is_none() {
            self.content.held_cr = false;
            if self.content.normalizes() {
                return self.newline(LineStart::AfterBare);
            }
            return self.fail(Failure::BareNewline);
        }
        Step::End(self.content.failure())
    }

    /// The chunk before ended with a CR.
    fn release_cr(&mut self, input: &mut BytesMut) -> Option<Step> {
        self.content.held_cr = false;
        if input.first() == Some(&b'\n') {
            self.advance(input, 1);
            return Some(self.newline(LineStart::AfterCrLf));
        }
        if self.content.normalizes() {
            return Some(self.newline(LineStart::AfterBare));
        }
        Some(self.fail(Failure::BareNewline))
    }

    fn newline(&mut self, line: LineStart) -> Step {
        self.content.line = line;
        if self.content.take(CRLF) {
            Step::Body(Bytes::from_static(CRLF))
        } else {
            Step::Failed
        }
    }

    fn give(&mut self, input: &mut BytesMut, length: usize) -> Step {
        self.left = self.left.saturating_sub(length as u64);
        let piece = input.split_to(length).freeze();
        if self.content.take(&piece) {
            Step::Body(piece)
        } else {
            Step::Failed
        }
    }

    fn fail(&mut self, failure: Failure) -> Step {
        self.content.fail(failure);
        Step::Failed
    }

    fn advance(&mut self, input: &mut BytesMut, octets: usize) {
        input.advance(octets);
        self.left = self.left.saturating_sub(octets as u64);
    }

    /// Octets of this chunk in an input of that length.
    fn at_hand(&self, input: usize) -> usize {
        usize::try_from(self.left).map_or(input, |left| left.min(input))
    }
}
