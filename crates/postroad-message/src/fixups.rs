use postroad_mail::{ReversePath, Timestamp};

use crate::dates::rfc5322_date;
use crate::head::Fields;

/// The fields that a submission server adds where they are missing (RFC 6409 section 8): Date
/// and Message-ID, each with its CRLF.
#[must_use]
pub fn fix_ups(fields: Fields, at: Timestamp, id: &str, hostname: &str) -> String {
    let mut added = String::new();
    if !fields.has_date {
        added.push_str("Date: ");
        added.push_str(&rfc5322_date(at));
        added.push_str("\r\n");
    }
    if !fields.has_message_id {
        added.push_str("Message-ID: <");
        added.push_str(id);
        added.push('@');
        added.push_str(hostname);
        added.push_str(">\r\n");
    }
    added
}

/// The field that final delivery puts first (RFC 5321 section 4.4), with its CRLF.
#[must_use]
pub fn return_path_header(from: &ReversePath) -> String {
    format!("Return-Path: <{from}>\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing() {
        let at = Timestamp::from_millis(1_795_524_541_000);
        let all = Fields {
            has_date: true,
            has_message_id: true,
            ..Fields::default()
        };
        assert_eq!(fix_ups(all, at, "id", "h"), "");
        assert_eq!(
            fix_ups(Fields::default(), at, "id", "h"),
            "Date: Tue, 24 Nov 2026 12:49:01 +0000\r\nMessage-ID: <id@h>\r\n"
        );
        assert_eq!(
            return_path_header(&ReversePath::Null),
            "Return-Path: <>\r\n"
        );
    }
}
