//! What a fuzzer, or a property test, feeds: each takes any octets and panics on a broken promise.

pub use crate::downgrade::check::downgrade;
