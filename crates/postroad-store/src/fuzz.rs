//! What a fuzzer, or a property test, feeds: each takes any octets, as a disk may give them back,
//! and panics on a broken promise.

use crate::checkpoint;
use crate::record::{HEADER, Header, Meta, parse_state, segment_epoch, state_payload};
use crate::scan::whole;

/// Reads a segment's head, and the record that begins at the start.
///
/// # Panics
/// Where a record is taken for whole that is longer than what there is.
pub fn record(bytes: &[u8]) {
    let _ = segment_epoch(bytes, 1);
    let Some(header) = Header::parse(bytes) else {
        return;
    };
    let _ = header.size();
    if let Some(length) = whole(&header, bytes) {
        assert!(length <= bytes.len() && length.is_multiple_of(8));
        let meta = usize::try_from(header.meta).ok();
        let meta = meta.and_then(|meta| bytes.get(HEADER..)?.get(..meta));
        let _ = meta.map(serde_json::from_slice::<Meta>);
    }
}

/// Reads the state record that begins at the start.
///
/// # Panics
/// Where one is found that is longer than what there is.
pub fn state(bytes: &[u8]) {
    let _ = state_payload(bytes);
    let epoch = bytes.get(24..32).and_then(|b| b.try_into().ok());
    let epoch = u64::from_be_bytes(epoch.unwrap_or_default());
    if let Some(found) = parse_state(bytes, epoch, 1) {
        assert!(found.length < bytes.len() + 8);
    }
}

/// Reads a checkpoint whose checksum is right, whatever else it says.
///
/// # Panics
/// Where it is believed to hold more messages than there can be.
pub fn checkpoint(covered: &[u8]) {
    let mut bytes = covered.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(covered).to_be_bytes());
    if let Some((restored, _)) = checkpoint::parse(&bytes) {
        assert!(restored.table.len() <= covered.len() / 40);
    }
}
