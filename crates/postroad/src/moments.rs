//! Moments and spans of time as a timeline shows them.

use std::time::Duration;

use postroad_mail::Timestamp;

/// A moment to the millisecond, in UTC: `2026-11-24 12:49:01.123Z`.
pub(crate) fn moment(at: Timestamp) -> String {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    let moment = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{moment:.3}").replacen('T', " ", 1)
}

/// How long that is, in the two largest units: `77ms`, `1.234s`, `2m03s`, `4h05m`, `5d02h`.
pub(crate) fn span(span: Duration) -> String {
    let (millis, seconds) = (span.as_millis(), span.as_secs());
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}.{:03}s", span.subsec_millis()),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// How long before or behind now a moment is: `in 2m03s`, `4h05m ago`.
pub(crate) fn from_now(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        format!("in {}", span(at.since(now)))
    } else {
        format!("{} ago", span(now.since(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_read_them() {
        let at = Timestamp::from_millis(1_795_524_541_023);
        assert_eq!(moment(at), "2026-11-24 12:49:01.023Z");
        assert!(moment(Timestamp::MAX).starts_with("9999-"));
        for (millis, shown) in [
            (0, "0ms"),
            (77, "77ms"),
            (1234, "1.234s"),
            (123_000, "2m03s"),
            (14_700_000, "4h05m"),
            (439_200_000, "5d02h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), shown);
        }
        assert_eq!(from_now(at + Duration::from_secs(2), at), "in 2.000s");
        assert_eq!(from_now(at, at + Duration::from_millis(5)), "5ms ago");
    }
}
