//! The records of the log and of the state journals. All numbers are big endian; a record begins
//! at a multiple of 8, so that reading can go on behind a damaged one.
//!
//! | log record | octets | | state record | octets |
//! |---|---|---|---|---|
//! | magic `PRQ1` | 4 | | magic `PRS1` | 4 |
//! | version, kind | 1, 1 | | version, zero | 1, 3 |
//! | flags | 2 | | message id | 16 |
//! | message id | 16 | | log epoch | 8 |
//! | log epoch | 8 | | segment number | 4 |
//! | segment number | 4 | | previous record of the message, or all ones | 4 |
//! | length of meta, of head | 4, 4 | | length of payload | 4 |
//! | CRC32C of meta | 4 | | CRC32C of the above and the payload | 4 |
//! | length of body | 8 | | payload: JSON of [`State`] | |
//! | arrived, first due (ms) | 8, 8 | | zeros to a multiple of 8 | |
//! | CRC32C of what follows | 4 | | | |
//! | CRC32C of the above | 4 | | | |
//! | meta: JSON of [`Meta`]; head; body, where inline; zeros | | | | |

use postroad_mail::{Envelope, Origin, ReversePath, Timestamp};
use postroad_queue::jobs::{Flow, Settlement};
use postroad_queue::{Evidence, Lane, QueueId, Resume};
use serde::{Deserialize, Serialize};

pub(crate) const HEADER: usize = 80;
pub(crate) const STATE_HEADER: usize = 48;
/// Octets of a segment before its first record; zeros but for the magic, number and epoch.
pub(crate) const SEGMENT_HEADER: usize = 32;
/// No previous record.
pub(crate) const NONE: u32 = u32::MAX;
/// The body is in the record.
pub(crate) const INLINE: u8 = 1;
/// The body has its own file.
pub(crate) const BIG: u8 = 2;

const MAGIC: [u8; 4] = *b"PRQ1";
const STATE_MAGIC: [u8; 4] = *b"PRS1";
const SEGMENT_MAGIC: [u8; 4] = *b"PRSG";
const VERSION: u8 = 1;

/// The head of a log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) id: QueueId,
    pub(crate) epoch: u64,
    pub(crate) segment: u32,
    pub(crate) meta: u32,
    pub(crate) head: u32,
    pub(crate) body: u64,
    pub(crate) arrived: Timestamp,
    pub(crate) due: Timestamp,
    /// Of meta alone: whether the envelope can be trusted where the rest is damaged.
    pub(crate) meta_crc: u32,
    pub(crate) payload_crc: u32,
}

/// What a log record says of its message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) envelope: Envelope,
    pub(crate) origin: Origin,
    pub(crate) lanes: Vec<Lane>,
    /// CRC32C of a body in a file of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) big_crc: Option<u32>,
    /// The state that owes this message, where it is a notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settles: Option<Settles>,
    /// Where it stood when this record was written, where that is not at its beginning: it came
    /// from another queue, or from a segment that was compacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resumes: Option<Resume>,
    /// From where compaction has moved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<Moved>,
}

/// From where a record was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) segment: u32,
    /// The newest state record there that this record's `resumes` knows of.
    pub(crate) state: u32,
}

/// What recovery needs of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Gist {
    envelope: Sender,
    origin: User,
    pub(crate) lanes: Vec<Lane>,
    #[serde(default)]
    pub(crate) settles: Option<Settles>,
    #[serde(default)]
    pub(crate) resumes: Option<Resume>,
    #[serde(default)]
    pub(crate) moved: Option<Moved>,
}

/// Of an envelope, whose mail it is.
#[derive(Clone, Debug, Deserialize)]
struct Sender {
    from: ReversePath,
}

/// Of an origin, whose mail it is.
#[derive(Clone, Debug, Deserialize)]
struct User {
    #[serde(default)]
    user: Option<String>,
}

impl Gist {
    /// Whose mail it is.
    pub(crate) fn flow(&self) -> Flow {
        Flow::named(self.origin.user.as_deref(), &self.envelope.from)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settles {
    pub(crate) id: QueueId,
    pub(crate) settlement: Settlement,
}

/// What has happened to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Attempt {
        settlement: Settlement,
        evidence: Vec<(u32, Evidence)>,
    },
    Hold,
    Release,
    Retry(Timestamp),
    Removed,
    /// Compaction has written the message anew, in that segment: the record here is out of date.
    Moved {
        to: u32,
    },
    /// Compaction has written the message into this segment, at that offset, and it has not become
    /// its place.
    Void {
        at: u32,
    },
}

/// A state record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateRecord {
    pub(crate) id: QueueId,
    pub(crate) previous: u32,
    pub(crate) state: State,
    /// Octets it takes.
    pub(crate) length: usize,
}

/// A length rounded up to a multiple of 8.
pub(crate) const fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

impl Header {
    /// Octets of the whole record.
    pub(crate) fn length(&self) -> Option<usize> {
        let payload = self.payload()?;
        payload.checked_add(HEADER)?.checked_next_multiple_of(8)
    }

    /// Octets that the payload's CRC covers.
    pub(crate) fn payload(&self) -> Option<usize> {
        let body = if self.kind == INLINE { self.body } else { 0 };
        let sum = u64::from(self.meta) + u64::from(self.head);
        usize::try_from(sum.checked_add(body)?).ok()
    }

    /// Octets of header block and body.
    pub(crate) const fn size(&self) -> u64 {
        self.body.saturating_add(self.head as u64)
    }

    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, self.kind, 0, 0]);
        out.extend_from_slice(&self.id.to_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        for n in [self.segment, self.meta, self.head, self.meta_crc] {
            out.extend_from_slice(&n.to_be_bytes());
        }
        for n in [self.body, self.arrived.as_millis(), self.due.as_millis()] {
            out.extend_from_slice(&n.to_be_bytes());
        }
        out.extend_from_slice(&self.payload_crc.to_be_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
        let mut array = [0; HEADER];
        for (to, from) in array.iter_mut().zip(out) {
            *to = from;
        }
        array
    }

    /// The header at the start of `bytes`, where a good one stands there.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let (covered, crc) = header.split_last_chunk::<4>()?;
        let mut reader = Reader(covered);
        if reader.take()? != MAGIC
            || reader.take()? != [VERSION]
            || crc32c::crc32c(covered) != u32::from_be_bytes(*crc)
        {
            return None;
        }
        let [kind] = reader.take()?;
        let _flags: [u8; 2] = reader.take()?;
        let id = QueueId::from_bytes(reader.take()?);
        let epoch = reader.long()?;
        let segment = reader.int()?;
        let (meta, head, meta_crc) = (reader.int()?, reader.int()?, reader.int()?);
        Some(Self {
            kind,
            id,
            epoch,
            segment,
            meta,
            head,
            body: reader.long()?,
            arrived: Timestamp::from_millis(reader.long()?),
            due: Timestamp::from_millis(reader.long()?),
            meta_crc,
            payload_crc: reader.int()?,
        })
        .filter(|header| matches!(header.kind, INLINE | BIG))
    }
}

/// The head of a segment.
pub(crate) fn segment_header(number: u32, epoch: u64) -> Vec<u8> {
    let mut out = SEGMENT_MAGIC.to_vec();
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&epoch.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
    out
}

/// The epoch of a segment, where its head is good.
pub(crate) fn segment_epoch(bytes: &[u8], number: u32) -> Option<u64> {
    let header = bytes.get(..SEGMENT_HEADER)?;
    let epoch = Reader(header.get(12..)?).long()?;
    (header == segment_header(number, epoch)).then_some(epoch)
}

/// A state record.
pub(crate) fn encode_state(
    id: QueueId,
    epoch: u64,
    segment: u32,
    previous: u32,
    state: &State,
) -> Vec<u8> {
    // Serialising these types cannot fail: no maps with odd keys, no writers.
    let payload = serde_json::to_vec(state).unwrap_or_default();
    let mut out = Vec::with_capacity(padded(STATE_HEADER + payload.len()));
    out.extend_from_slice(&STATE_MAGIC);
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    out.extend_from_slice(&id.to_bytes());
    out.extend_from_slice(&epoch.to_be_bytes());
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    for n in [segment, previous, length] {
        out.extend_from_slice(&n.to_be_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &payload);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(&payload);
    out.resize(padded(out.len()), 0);
    out
}

/// Octets of the payload of the state record that begins there, where it looks like one.
pub(crate) fn state_payload(bytes: &[u8]) -> Option<usize> {
    if bytes.first_chunk()? != &STATE_MAGIC {
        return None;
    }
    usize::try_from(Reader(bytes.get(40..)?).int()?).ok()
}

/// The state record at the start of `bytes`, where a good one of that segment stands there.
pub(crate) fn parse_state(bytes: &[u8], epoch: u64, segment: u32) -> Option<StateRecord> {
    let length = state_payload(bytes)?;
    let (header, rest) = bytes.split_at_checked(STATE_HEADER)?;
    let payload = rest.get(..length)?;
    let (covered, crc) = header.split_last_chunk::<4>()?;
    let found = crc32c::crc32c_append(crc32c::crc32c(covered), payload);
    if found != u32::from_be_bytes(*crc) {
        return None;
    }
    let mut reader = Reader(covered.get(4..)?);
    let version: [u8; 4] = reader.take()?;
    let id = QueueId::from_bytes(reader.take()?);
    if version != [VERSION, 0, 0, 0] || reader.long()? != epoch || reader.int()? != segment {
        return None;
    }
    Some(StateRecord {
        id,
        previous: reader.int()?,
        state: serde_json::from_slice(payload).ok()?,
        length: padded(STATE_HEADER + length),
    })
}

/// What is left of some octets.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn int(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}
