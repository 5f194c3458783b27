//! What a fuzzer, or a property test, feeds: each takes any octets and panics on a broken promise.

use crate::static_routes::Pattern;
use crate::via::Via;

/// Reads a way; a host's is read again as it is shown.
///
/// # Panics
/// Where the two differ.
pub fn via(input: &[u8]) {
    let Ok(Ok(via)) = std::str::from_utf8(input).map(str::parse::<Via>) else {
        return;
    };
    if let Via::Hops(hops) = &via {
        let shown: Vec<String> = hops.iter().map(ToString::to_string).collect();
        assert_eq!(Via::list(&shown).as_ref(), Ok(&via), "read as it is shown");
    }
}

/// Reads a pattern, and asks it about addresses made of the same octets.
pub fn pattern(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let (Ok(pattern), Ok(address)) = (text.parse::<Pattern>(), text.parse()) {
        let _ = pattern.matches(&address);
    }
}
