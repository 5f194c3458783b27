//! Where things are: messages in segments, and what is known of each segment.

use std::sync::Arc;

use postroad_mail::Timestamp;
use postroad_queue::QueueId;
use postroad_queue::jobs::Entry;

use crate::io::Disk;
use crate::record::State;

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Its newest state record.
    pub(crate) state: u32,
    pub(crate) extent: Extent,
}

// There may be millions of them in the table.
const _: () = assert!(size_of::<(QueueId, Entry<Place>)>() <= 96);

/// Octets of a record, and whether the body has a file of its own: in one word, since it is kept
/// for every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent(u32);

impl Extent {
    const BIG: u32 = 1 << 31;

    /// Of a record of so many octets, a multiple of 8 under 16 GiB.
    pub(crate) fn new(octets: usize, big: bool) -> Self {
        let eighths = u32::try_from(octets / 8).map_or(Self::BIG - 1, |n| n.min(Self::BIG - 1));
        Self(eighths | if big { Self::BIG } else { 0 })
    }

    pub(crate) const fn octets(self) -> u64 {
        (self.0 & !Self::BIG) as u64 * 8
    }

    pub(crate) const fn big(self) -> bool {
        self.0 & Self::BIG != 0
    }

    pub(crate) const fn to_bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl Place {
    pub(crate) const fn big(self) -> bool {
        self.extent.big()
    }

    /// Whether the record is the same one, whatever has happened to the message since.
    pub(crate) const fn is_record(self, other: Self) -> bool {
        self.segment == other.segment && self.offset == other.offset
    }
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) epoch: u64,
    /// Messages of the queue that it holds, and the octets of their records.
    pub(crate) live: u64,
    pub(crate) live_octets: u64,
    /// Octets of its log that count.
    pub(crate) end: u64,
    /// Octets of its log's file.
    pub(crate) size: u64,
    /// When it was begun; when the store was opened, where that was later.
    pub(crate) since: Timestamp,
    /// Nothing more is written to its log.
    pub(crate) sealed: bool,
    /// Octets of its journal that count.
    pub(crate) state_end: u64,
    pub(crate) journal: Option<Arc<Disk>>,
    pub(crate) log: Option<Arc<Disk>>,
    /// The journal has grown since it was last synced.
    pub(crate) dirty: bool,
    /// A sync of the journal has failed: what is in it may be lost, and no later sync can tell.
    pub(crate) suspect: bool,
    /// It holds what cannot be moved: compaction leaves it alone until then.
    pub(crate) stuck: Option<Timestamp>,
    /// The index may know messages of it.
    pub(crate) indexed: bool,
}

impl Segment {
    pub(crate) const fn new(epoch: u64, sealed: bool, since: Timestamp) -> Self {
        Self {
            epoch,
            live: 0,
            live_octets: 0,
            end: 0,
            size: 0,
            since,
            sealed,
            state_end: 0,
            journal: None,
            log: None,
            dirty: false,
            suspect: false,
            stuck: None,
            indexed: sealed,
        }
    }

    pub(crate) const fn gains(&mut self, place: Place) {
        self.live += 1;
        self.live_octets += place.extent.octets();
    }

    pub(crate) const fn loses(&mut self, place: Place) {
        self.live = self.live.saturating_sub(1);
        self.live_octets = self.live_octets.saturating_sub(place.extent.octets());
    }

    /// Octets of its files.
    pub(crate) const fn disk(&self) -> u64 {
        self.size + self.state_end
    }
}

/// A state record that is owed to a journal. It may keep another segment until it is there and
/// synced: without it, what that segment's going leaves would be misread.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) segment: u32,
    pub(crate) id: QueueId,
    pub(crate) state: State,
    pub(crate) holds: Option<u32>,
    /// The message's body in a file of its own is not needed once this is written.
    pub(crate) ends: bool,
}

impl Mark {
    /// One that keeps a segment.
    pub(crate) const fn new(segment: u32, id: QueueId, state: State, holds: u32) -> Self {
        Self {
            segment,
            id,
            state,
            holds: Some(holds),
            ends: false,
        }
    }
}
