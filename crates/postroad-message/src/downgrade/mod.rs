//! Makes a message with 8-bit or binary parts one of 7 bits, for a next hop without 8BITMIME or
//! BINARYMIME (RFC 6152 section 3, RFC 3030 section 3): text becomes quoted-printable, all else
//! base64, and each part decodes to the same octets as before.
//!
//! The message is read twice, in pieces of any length, and never held: [`Survey`] finds what has to
//! change, and whether it may; [`Downgrade`] writes the message anew.
//!
//! ```
//! use bytes::BytesMut;
//! use postroad_message::downgrade::{Downgrade, Survey};
//!
//! let message = "Subject: x\r\n\r\nGr\u{fc}\u{df}e\r\n".as_bytes();
//! let mut survey = Survey::new();
//! survey.push(message);
//! let plan = survey.finish()?;
//! let (mut downgrade, mut out) = (Downgrade::new(&plan), BytesMut::new());
//! downgrade.push(message, &mut out);
//! downgrade.finish(&mut out);
//! assert_eq!(
//!     out,
//!     "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n\
//!      Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n",
//! );
//! # Ok::<(), postroad_message::downgrade::NotLegal>(())
//! ```
//!
//! What is not touched: parts that are of 7 bits already, boundaries, and header lines that are
//! longer than [`LINE_MAX`]. What stands before the first boundary of a multipart and behind its
//! last one, which nobody reads, gets `?` for what is not ASCII. A message that is signed is not
//! changed at all, nor is a signed part of one.

pub(crate) mod check;
mod encode;
mod header;
mod rewrite;
mod survey;
mod walk;

pub use rewrite::Downgrade;
pub use survey::{Plan, Survey};

/// Entities within entities, at most.
pub const DEPTH_MAX: usize = 32;
/// Entities of a message, at most: the message itself, and each part.
pub const PARTS_MAX: usize = 10_000;
/// Octets of a line, its CRLF not included (RFC 5321 section 4.5.3.1.6).
pub const LINE_MAX: usize = 998;

/// Why a message must stay as it is. Each completes "it cannot be downgraded: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum NotLegal {
    /// A signature (DKIM, ARC, multipart/signed, application/pkcs7-mime) would be broken.
    #[error("it is signed")]
    Signed,
    /// A header field, of the message or of a part, is not of ASCII.
    #[error("it has 8-bit octets in a header field")]
    EightBitHeader,
    /// A part that is base64 or quoted-printable, as it says, is not.
    #[error("a part of it is not in the encoding that it claims")]
    Mislabelled,
    /// A part is in an encoding that is not known.
    #[error("a part of it has an unknown Content-Transfer-Encoding")]
    UnknownEncoding,
    /// A part is of a type for which no encoding is allowed (message/partial and the like).
    #[error("a part of it is of a type that must not be encoded")]
    FixedEncoding,
    /// Entities within more than [`DEPTH_MAX`] others.
    #[error("its parts are nested too deeply")]
    TooDeep,
    /// More than [`PARTS_MAX`] entities.
    #[error("it has too many parts")]
    TooManyParts,
    /// Readers would differ about what its parts are.
    #[error("its MIME structure is not sound: {0}")]
    Malformed(&'static str),
}
