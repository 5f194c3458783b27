//! The one place where Postroad reads the clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use postroad_mail::Timestamp;

/// Monotonic time, for timeouts. Follows tokio's clock, so that tests can pause it.
#[must_use]
pub fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall-clock time, for the queue and for headers.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
