//! What a fuzzer, or a property test, feeds: it takes any octets, as a file may give them back,
//! and panics on a broken promise.

use bytes::Bytes;

use super::{Part, Reader};

/// Reads an export that comes in pieces of `cut` octets.
///
/// # Panics
/// Where more comes out than was put in, octets are left over, a message ends that has not begun,
/// or damage is found where nothing stands.
pub fn export(octets: &[u8], cut: usize) {
    let mut reader = Reader::default();
    let (mut given, mut taken, mut within) = (0_usize, 0_usize, false);
    for piece in octets.chunks(cut.max(1)) {
        given += piece.len();
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match reader.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(Part::Message { .. })) => {
                    assert!(!within, "a message begins in another");
                    within = true;
                }
                Ok(Some(Part::Piece(content))) => {
                    taken += content.len();
                    assert!(within && !content.is_empty() && taken <= given);
                }
                Ok(Some(Part::Whole | Part::Void)) => {
                    assert!(within, "a message ends that has not begun");
                    within = false;
                }
                Ok(Some(Part::End(_))) => assert!(!within, "the end comes in a message"),
                Err(damage) => {
                    assert!(damage.at <= given as u64, "{damage}");
                    return;
                }
            }
        }
        assert!(piece.is_empty(), "all of it is used");
    }
    if reader.finish().is_ok() {
        assert!(!within, "it ends in a message");
    }
}
