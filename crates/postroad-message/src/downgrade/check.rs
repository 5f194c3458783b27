//! What must hold of any downgrade, for fuzzers and property tests.

use bytes::BytesMut;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;

use super::header::{Encoding, Field, Header, Shape};
use super::walk::{Sink, Walker};
use super::{Downgrade, LINE_MAX, NotLegal, Survey};

/// The bodies of a message, as they stand, with what they say of themselves.
#[derive(Debug, Default)]
struct Bodies {
    all: Vec<(Encoding, Vec<u8>)>,
}

impl Sink for Bodies {
    fn begin(&mut self, _: Option<usize>) {
        self.all.push((Encoding::Unsaid, Vec::new()));
    }

    fn field(&mut self, _: Field, _: bool, _: &[u8]) {}

    fn header(&mut self, header: &Header, _: &Shape) {
        if let Some((encoding, _)) = self.all.last_mut() {
            *encoding = header.encoding;
        }
    }

    fn blank(&mut self, _: &[u8]) {}

    fn boundary(&mut self, _: &[u8], _: &[u8]) {}

    fn leaf(&mut self, octets: &[u8]) {
        if let Some((_, body)) = self.all.last_mut() {
            body.extend_from_slice(octets);
        }
    }

    fn filler(&mut self, _: usize, _: &[u8]) {}

    fn trouble(&mut self, _: NotLegal) {}
}

fn bodies(message: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
    let (mut walker, mut bodies) = (Walker::new(), Bodies::default());
    walker.push(message, &mut bodies);
    walker.finish(&mut bodies);
    bodies.all
}

/// What a message becomes, where it comes in pieces whose lengths `cuts` gives, over and over.
fn downgraded(message: &[u8], cuts: &[u8]) -> Result<Vec<u8>, NotLegal> {
    let pieces = || {
        let mut cuts = cuts.iter().cycle();
        let mut rest = message;
        std::iter::from_fn(move || {
            let length = cuts
                .next()
                .map_or(rest.len(), |cut| usize::from(*cut).max(1));
            let (piece, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        })
    };
    let mut survey = Survey::new();
    pieces().for_each(|piece| survey.push(piece));
    let plan = survey.finish()?;
    let (mut downgrade, mut out) = (Downgrade::new(&plan), BytesMut::new());
    pieces().for_each(|piece| downgrade.push(piece, &mut out));
    downgrade.finish(&mut out);
    Ok(out.to_vec())
}

fn without_line_ends(octets: &[u8]) -> Vec<u8> {
    let kept = octets.iter().filter(|octet| !b"\r\n".contains(octet));
    kept.copied().collect()
}

/// Downgrades a message, whole and in pieces whose lengths `cuts` gives.
///
/// # Panics
/// Where the pieces make a difference; where the result is not of 7 bits, or has lines that are
/// too long and were not there; where it would have to change again; where a part does not decode to what it was.
pub fn downgrade(message: &[u8], cuts: &[u8]) {
    let whole = downgraded(message, &[]);
    assert_eq!(whole, downgraded(message, cuts), "the pieces matter");
    let Ok(result) = whole else { return };
    assert!(result.is_ascii() && !result.contains(&0), "not of 7 bits");
    let text = String::from_utf8_lossy(&result);
    for line in text.split("\r\n") {
        let length = line.len();
        let stays = || message.windows(length).any(|w| w == line.as_bytes());
        assert!(length <= LINE_MAX || stays(), "a line of {length}");
        assert!(!line.contains(['\r', '\n']), "a bare CR or LF");
    }
    assert_eq!(downgraded(&result, &[]).as_ref(), Ok(&result), "not done");
    let (before, after) = (bodies(message), bodies(&result));
    assert_eq!(before.len(), after.len(), "another structure");
    for (n, ((was, before), (is, after))) in before.into_iter().zip(after).enumerate() {
        let decoded = match is {
            Encoding::Base64 if was == is && before != after => {
                assert_eq!(without_line_ends(&before), without_line_ends(&after));
                continue;
            }
            Encoding::Base64 if was != is => base64_decode(&after),
            Encoding::QuotedPrintable if was != is => quoted_printable_decode(&after),
            _ => Some(after),
        };
        assert_eq!(decoded, Some(before), "part {n}");
    }
}
