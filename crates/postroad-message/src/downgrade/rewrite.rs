//! The second pass: the message is written anew.

use bytes::{BufMut as _, BytesMut};

use super::NotLegal;
use super::encode::{Base64, Encoder, Filler, Quoted, Rewrapped};
use super::header::{Field, Header, Shape};
use super::survey::{Body, Change, Plan};
use super::walk::{Sink, Walker};

/// The second pass over a message: the same octets as [`super::Survey`] got, in any pieces.
#[derive(Debug)]
pub struct Downgrade {
    /// None: nothing has to change.
    writing: Option<(Walker, Writing)>,
}

#[derive(Debug)]
struct Writing {
    plan: Plan,
    /// The entity that has begun last.
    entity: usize,
    begun: bool,
    /// Its Content-Transfer-Encoding has been written.
    labelled: bool,
    /// The field under way is left out.
    dropping: bool,
    body: Encoder,
    filler: Filler,
}

impl Downgrade {
    /// As the plan has it.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let writing = Writing {
            plan: plan.clone(),
            entity: 0,
            begun: false,
            labelled: false,
            dropping: false,
            body: Encoder::Plain,
            filler: Filler::default(),
        };
        Self {
            writing: (!plan.is_unchanged()).then(|| (Walker::new(), writing)),
        }
    }

    /// Takes the next octets in; writes what they become, at most about three times as much and a
    /// few fields.
    pub fn push(&mut self, piece: &[u8], out: &mut BytesMut) {
        match &mut self.writing {
            Some((walker, writing)) => walker.push(piece, &mut Output { writing, out }),
            None => out.put_slice(piece),
        }
    }

    /// The message is complete: writes the rest.
    pub fn finish(self, out: &mut BytesMut) {
        if let Some((mut walker, mut writing)) = self.writing {
            let mut output = Output {
                writing: &mut writing,
                out,
            };
            walker.finish(&mut output);
            output.end_body(true);
        }
    }
}

struct Output<'a> {
    writing: &'a mut Writing,
    out: &'a mut BytesMut,
}

impl Output<'_> {
    fn change(&self) -> Change {
        let changes = &self.writing.plan.changes;
        changes
            .get(self.writing.entity)
            .copied()
            .unwrap_or_default()
    }

    fn end_body(&mut self, last: bool) {
        self.writing.body.finish(last, self.out);
        self.writing.filler.finish(self.out);
    }

    fn label(&mut self) {
        let encoding = match self.change().body {
            Body::Keep | Body::Rewrap => return,
            Body::SevenBit => "7bit",
            Body::QuotedPrintable => "quoted-printable",
            Body::Base64 => "base64",
        };
        self.writing.labelled = true;
        self.out.put_slice(b"Content-Transfer-Encoding: ");
        self.out.put_slice(encoding.as_bytes());
        self.out.put_slice(b"\r\n");
    }
}

impl Sink for Output<'_> {
    fn begin(&mut self, _: Option<usize>) {
        let writing = &mut *self.writing;
        if std::mem::replace(&mut writing.begun, true) {
            writing.entity += 1;
        }
        (writing.labelled, writing.dropping) = (false, false);
    }

    fn field(&mut self, field: Field, first: bool, octets: &[u8]) {
        if first {
            let replaced = !matches!(self.change().body, Body::Keep | Body::Rewrap);
            self.writing.dropping = field == Field::Encoding && replaced;
            if self.writing.dropping {
                self.label();
            }
        }
        if !self.writing.dropping {
            self.out.put_slice(octets);
        }
    }

    fn header(&mut self, header: &Header, _: &Shape) {
        let change = self.change();
        if header.is_message && change.is_touched {
            if !header.has_mime_version {
                self.out.put_slice(b"MIME-Version: 1.0\r\n");
            }
            if !header.has_type && matches!(change.body, Body::QuotedPrintable | Body::Base64) {
                // RFC 1428 section 3: which charset it is in, nobody has said.
                self.out
                    .put_slice(b"Content-Type: text/plain; charset=unknown-8bit\r\n");
            }
        }
        if !self.writing.labelled && change.body != Body::SevenBit {
            self.label();
        }
        self.writing.body = match change.body {
            Body::Keep | Body::SevenBit => Encoder::Plain,
            Body::QuotedPrintable => Encoder::Quoted(Quoted::default()),
            Body::Base64 => Encoder::Base64(Base64::default()),
            Body::Rewrap => Encoder::Rewrapped(Rewrapped::default()),
        };
    }

    fn blank(&mut self, line: &[u8]) {
        self.out.put_slice(line);
    }

    fn boundary(&mut self, before: &[u8], line: &[u8]) {
        self.end_body(false);
        self.out.put_slice(before);
        self.out.put_slice(line);
    }

    fn leaf(&mut self, octets: &[u8]) {
        self.writing.body.write(octets, self.out);
    }

    fn filler(&mut self, _: usize, octets: &[u8]) {
        self.writing.filler.write(octets, self.out);
    }

    fn trouble(&mut self, _: NotLegal) {
        // The first pass has found none.
    }
}
