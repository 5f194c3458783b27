use std::fmt;

use bytes::Bytes;

use crate::store::Listed;

use super::{LINE_MAX, Line, MAGIC, VERSION};

/// Octets of a line without JSON, at most.
const SHORT_MAX: usize = 64;
/// The longest name of a lane.
const LANE_MAX: usize = 1024;

/// A stream is not what an export wrote, or ends before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Damage {
    /// Octets before the place where that shows.
    pub at: u64,
    /// In which message, from 1; none between or outside them.
    pub message: Option<u64>,
    /// How it shows.
    pub detail: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the export is damaged at octet {}", self.at)?;
        if let Some(message) = self.message {
            write!(f, ", in its message {message}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// A part of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A message begins.
    Message {
        /// It, as it was in the queue.
        message: Box<Listed>,
        /// Octets of its content.
        octets: u64,
    },
    /// Octets of its content.
    Piece(Bytes),
    /// It was all of it, and is what was written.
    Whole,
    /// Its content could not be read at the export: it is to be forgotten.
    Void,
    /// The export is whole, and had so many messages.
    End(u64),
}

/// Takes an export apart, however it is cut into pieces. It holds no more than a line.
#[derive(Debug)]
pub struct Reader {
    step: Step,
    line: Vec<u8>,
    crc: u32,
    /// Octets taken.
    at: u64,
    /// Messages begun.
    messages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    First,
    Between,
    Content(u64),
    Feed,
    Verdict,
    Ended,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            step: Step::First,
            line: Vec::new(),
            crc: 0,
            at: 0,
            messages: 0,
        }
    }
}

impl Reader {
    /// The next part of what comes with `input`, which loses the octets that were used. `None`
    /// where all of it is used up.
    ///
    /// # Errors
    /// Where the stream is not an export, or not what was written. Nothing behind can be read.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Part>, Damage> {
        loop {
            if let Step::Content(0) = self.step {
                self.step = Step::Feed;
            }
            if input.is_empty() {
                return Ok(None);
            }
            match self.step {
                Step::Content(left) => {
                    let fits = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let piece = input.split_to(fits);
                    self.step = Step::Content(left - fits as u64);
                    self.used(&piece);
                    return Ok(Some(Part::Piece(piece)));
                }
                Step::Ended => return Err(self.damage("more comes after its end")),
                Step::First => {
                    if self.whole_line(input, SHORT_MAX)? {
                        self.first()?;
                    }
                }
                Step::Feed => {
                    if !input.starts_with(b"\n") {
                        return Err(self.damage("the content is longer than was said"));
                    }
                    let feed = input.split_to(1);
                    self.used(&feed);
                    self.step = Step::Verdict;
                }
                Step::Between => {
                    if self.whole_line(input, LINE_MAX)? {
                        return self.between().map(Some);
                    }
                }
                Step::Verdict => {
                    if self.whole_line(input, SHORT_MAX)? {
                        return self.verdict().map(Some);
                    }
                }
            }
        }
    }

    /// To be asked at the end of the stream: how many messages it had.
    ///
    /// # Errors
    /// Where it has been cut off.
    pub fn finish(&self) -> Result<u64, Damage> {
        match self.step {
            Step::Ended => Ok(self.messages),
            Step::First => Err(self.damage("it has no first line; is it an export of a queue?")),
            Step::Between | Step::Content(_) | Step::Feed | Step::Verdict => {
                Err(self.damage("it ends here, before its end"))
            }
        }
    }

    fn used(&mut self, octets: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, octets);
        self.at += octets.len() as u64;
    }

    fn damage(&self, detail: impl Into<String>) -> Damage {
        let within = matches!(self.step, Step::Content(_) | Step::Feed | Step::Verdict);
        Damage {
            at: self.at + self.line.len() as u64,
            message: within.then_some(self.messages),
            detail: detail.into(),
        }
    }

    /// Takes a line as far as it is there; whether all of it is.
    fn whole_line(&mut self, input: &mut Bytes, max: usize) -> Result<bool, Damage> {
        let end = input.iter().position(|&octet| octet == b'\n');
        let fits = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + fits > max {
            let detail = match self.step {
                Step::First => NO_EXPORT.to_owned(),
                Step::Between | Step::Content(_) | Step::Feed | Step::Verdict | Step::Ended => {
                    format!("a line of more than {max} octets")
                }
            };
            return Err(self.damage(detail));
        }
        self.line.extend_from_slice(&input.split_to(fits));
        Ok(end.is_some())
    }

    /// The words of the line that is there; it counts as used after this.
    fn words(&self) -> Option<Vec<&str>> {
        let line = std::str::from_utf8(&self.line).ok()?.strip_suffix('\n')?;
        Some(line.split(' ').collect())
    }

    fn line_used(&mut self, step: Step) {
        let line = std::mem::take(&mut self.line);
        self.used(&line);
        self.step = step;
        // The next is about as long; the largest is not kept for the rest.
        if line.capacity() <= super::PIECE {
            self.line = line;
            self.line.clear();
        }
    }

    fn first(&mut self) -> Result<(), Damage> {
        match self.words().as_deref() {
            Some([MAGIC, version]) if *version == VERSION.to_string() => {}
            Some([MAGIC, version]) => {
                let detail =
                    format!("it has version {version:?}; this program knows version {VERSION}");
                return Err(self.damage_here(detail));
            }
            _ => return Err(self.damage_here(NO_EXPORT)),
        }
        self.line_used(Step::Between);
        Ok(())
    }

    /// Damage at the start of the line that is there.
    fn damage_here(&self, detail: impl Into<String>) -> Damage {
        Damage {
            at: self.at,
            ..self.damage(detail)
        }
    }

    fn between(&mut self) -> Result<Part, Damage> {
        if self.line.starts_with(b"{") {
            let line: Result<Line, _> = serde_json::from_slice(&self.line);
            let line = line.map_err(|error| {
                self.damage_here(format!(
                    "the line that begins message {} is none: {error}",
                    self.messages + 1
                ))
            })?;
            let mut lanes = line.message.recipients.iter().map(|r| r.lane.as_str());
            if lanes.any(|lane| lane.len() > LANE_MAX) {
                return Err(self.damage_here("a lane with a name that long"));
            }
            self.messages += 1;
            self.line_used(Step::Content(line.octets));
            return Ok(Part::Message {
                message: Box::new(line.message),
                octets: line.octets,
            });
        }
        let messages = self.messages;
        match self.words().as_deref() {
            Some(["end", count, crc]) if *crc == digits(self.crc) => {
                if *count != messages.to_string() {
                    let detail = format!("it says {count} messages, and {messages} are there");
                    return Err(self.damage_here(detail));
                }
            }
            Some(["end", _, _]) => return Err(self.damage_here(OTHER)),
            _ => return Err(self.damage_here("neither a message nor the end begins here")),
        }
        self.line_used(Step::Ended);
        Ok(Part::End(messages))
    }

    fn verdict(&mut self) -> Result<Part, Damage> {
        let part = match self.words().as_deref() {
            Some(["ok", crc]) if *crc == digits(self.crc) => Part::Whole,
            Some(["void", crc]) if *crc == digits(self.crc) => Part::Void,
            Some(["ok" | "void", _]) => return Err(self.damage_here(OTHER)),
            _ => return Err(self.damage_here("the content is not followed by its checksum")),
        };
        self.line_used(Step::Between);
        Ok(part)
    }
}

const OTHER: &str = "what stands before this is not what was written (its checksum is another)";
const NO_EXPORT: &str = "it is no export of a queue";

/// A checksum as the stream has it.
pub(super) fn digits(crc: u32) -> String {
    format!("{crc:08x}")
}
