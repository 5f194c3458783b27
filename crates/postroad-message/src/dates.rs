use jiff::Timestamp as JiffTimestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use postroad_mail::Timestamp;

/// A date as header fields have it (RFC 5322 section 3.3), in UTC.
#[must_use]
pub fn rfc5322_date(at: Timestamp) -> String {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    let moment = JiffTimestamp::from_millisecond(millis).unwrap_or(JiffTimestamp::MAX);
    let mut text = String::with_capacity(32);
    match DateTimePrinter::new().print_timestamp(&moment, &mut text) {
        Ok(()) => {
            // What is written for UTC is -0000, "nothing is known of the local time": we know.
            text.truncate(text.len().saturating_sub(5));
            text.push_str("+0000");
            text
        }
        // Only years beyond 9999 cannot be written.
        Err(_) => "Fri, 31 Dec 9999 23:59:59 +0000".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_utc() {
        assert_eq!(
            rfc5322_date(Timestamp::from_millis(1_795_524_541_000)),
            "Tue, 24 Nov 2026 12:49:01 +0000"
        );
        assert!(rfc5322_date(Timestamp::MAX).contains("9999"));
    }
}
