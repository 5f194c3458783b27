//! The one place where the benchmark reads the clock.

use std::time::Instant;

/// Now, on the clock that only goes forward.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
