use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::mta_sts::{ReportUri, TlsRpt};
use postroad_mail::Address;

/// Addresses that a report goes to, at most, and services.
pub const REPORT_ADDRESSES_MAX: usize = 5;
/// Octets of a record that are read, at most.
const RECORD_MAX: usize = 4096;

/// Where a domain wants its TLS reports: its `_smtp._tls` TXT record (RFC 8460 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportTo {
    /// By mail, to these: at most [`REPORT_ADDRESSES_MAX`].
    pub mail: Vec<Address>,
    /// By HTTPS, to these: at most [`REPORT_ADDRESSES_MAX`].
    pub https: Vec<String>,
}

impl ReportTo {
    /// Finds the record among the TXT records of `_smtp._tls.<domain>`: there must be exactly one
    /// that begins with `v=TLSRPTv1;`. `None`: no reports are wanted, or nowhere that can be
    /// written to.
    #[must_use]
    pub fn find(records: &[String]) -> Option<Self> {
        let mut ours = records.iter().filter(|r| is_version_1(r));
        let only = ours.next()?;
        if ours.next().is_some() || only.len() > RECORD_MAX {
            return None;
        }
        let record = TlsRpt::parse(only.as_bytes()).ok()?;
        let mut to = Self::default();
        for uri in record.rua {
            match uri {
                ReportUri::Mail(address) if to.mail.len() < REPORT_ADDRESSES_MAX => {
                    to.mail.extend(mailbox(&address));
                }
                ReportUri::Http(url) if to.https.len() < REPORT_ADDRESSES_MAX => {
                    to.https.push(url);
                }
                ReportUri::Mail(_) | ReportUri::Http(_) => {}
            }
        }
        (to != Self::default()).then_some(to)
    }
}

fn is_version_1(text: &str) -> bool {
    text.strip_prefix("v=TLSRPTv1")
        .is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with(';'))
}

/// The address of a `mailto:` URI, without what may follow it; of ASCII, as all URIs are, so that
/// the report can be.
fn mailbox(text: &str) -> Option<Address> {
    let end = text.find(['?', '!']).unwrap_or(text.len());
    let text = text.get(..end).filter(|text| text.is_ascii())?;
    text.parse().ok()
}

/// For fuzzing: whatever records are, reading them ends, and what is taken is within its bounds.
///
/// # Panics
/// Where that does not hold.
pub fn fuzz_tlsrpt_record(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets).into_owned();
    for record in [format!("v=TLSRPTv1;{text}"), text] {
        if let Some(to) = ReportTo::find(&[record]) {
            assert!(
                to.mail.len() <= REPORT_ADDRESSES_MAX,
                "addresses are bounded"
            );
            assert!(to.https.len() <= REPORT_ADDRESSES_MAX, "so are services");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        for (records, shown) in [
            (
                &["v=TLSRPTv1; rua=mailto:r@example.com"][..],
                "r@example.com |",
            ),
            (
                &["v=TLSRPTv1;rua=https://r.example/v1"],
                "| https://r.example/v1",
            ),
            (
                &["v=TLSRPTv1; rua=mailto:a@x.test,https://y.test/z,mailto:b@x.test;"],
                "a@x.test b@x.test | https://y.test/z",
            ),
            (&["v=TLSRPTv1; rua=mailto:a@x.test?subject=x"], "a@x.test |"),
            (
                &["v=spf1 -all", "v=TLSRPTv1;rua=mailto:a@x.test"],
                "a@x.test |",
            ),
            (
                &[
                    "v=TLSRPTv1;rua=mailto:a@x.test",
                    "v=TLSRPTv1;rua=mailto:a@x.test",
                ],
                "-",
            ),
            (&["v=TLSRPTv1; rua=mailto:nobody"], "-"),
            (&["v=TLSRPTv1; rua=mailto:\u{fc}@x.test"], "-"),
            (
                &["v=TLSRPTv1; rua=mailto:a@\u{fc}.test,mailto:b@x.test"],
                "b@x.test |",
            ),
            (&["v=TLSRPTv1; rua=ftp://x.test"], "-"),
            (&["v=TLSRPTv1;"], "-"),
            (&["v=TLSRPTv2; rua=mailto:a@x.test"], "-"),
            (&[], "-"),
        ] {
            let records: Vec<_> = records.iter().map(|&r| r.to_owned()).collect();
            let found = ReportTo::find(&records).map(|to| {
                let mail: Vec<_> = to.mail.iter().map(ToString::to_string).collect();
                format!("{} | {}", mail.join(" "), to.https.join(" "))
            });
            let found = found.unwrap_or_else(|| "-".to_owned());
            assert_eq!(found.trim(), shown, "{records:?}");
        }
        let many: Vec<_> = (0..9).map(|n| format!("mailto:a{n}@x.test")).collect();
        let record = format!("v=TLSRPTv1; rua={}", many.join(","));
        let to = ReportTo::find(&[record]).unwrap();
        assert_eq!(to.mail.len(), REPORT_ADDRESSES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn any_octets(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            fuzz_tlsrpt_record(&octets);
        }

        #[test]
        fn nearly_records(rest in "( ?rua ?= ?((mailto:|https:|x:)[a-z@.%0-9/,!?]{0,12},?){0,8};?){0,3}") {
            fuzz_tlsrpt_record(rest.as_bytes());
        }
    }
}
