use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use mail_auth::report::tlsrpt as model;
use postroad_mail::{Address, Timestamp};
use postroad_message::rfc5322_date;

/// Characters of base64 in a line.
const LINE: usize = 76;

/// The kind of a policy (RFC 8460 section 4.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyType {
    /// TLSA records.
    Tlsa,
    /// MTA-STS.
    Sts,
    /// None is published.
    NoPolicyFound,
}

/// How often it went well, and how often not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyCounts {
    /// Sessions with TLS in accordance with the policy.
    pub successes: u64,
    /// Others.
    pub failures: u64,
}

/// One policy of a report, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedPolicy {
    /// Its kind.
    pub kind: PolicyType,
    /// TLSA records, or the lines of the MTA-STS policy.
    pub strings: Vec<String>,
    /// The domain it is about.
    pub domain: String,
    /// The MX patterns of an MTA-STS policy.
    pub mx: Vec<String>,
    /// The sums.
    pub counts: PolicyCounts,
    /// The failures.
    pub details: Vec<FailureDetail>,
}

/// Failures of one kind with one host (RFC 8460 section 4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureDetail {
    /// The result type, as in `certificate-expired`; one that RFC 8460 does not know becomes
    /// `other`.
    pub result: String,
    /// The address that called.
    pub sending_ip: Option<IpAddr>,
    /// The name of the MX host.
    pub receiving_host: Option<String>,
    /// Its address.
    pub receiving_ip: Option<IpAddr>,
    /// How many sessions.
    pub count: u64,
    /// Why, in words.
    pub reason: String,
}

/// A report on one domain (RFC 8460 section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsReport {
    /// Who reports.
    pub organization: String,
    /// Whom to ask about it.
    pub contact: Option<String>,
    /// The domain reported on.
    pub domain: String,
    /// The domain that reports.
    pub submitter: String,
    /// The begin of the time reported on.
    pub start: Timestamp,
    /// The end.
    pub end: Timestamp,
    /// What was found.
    pub policies: Vec<ReportedPolicy>,
}

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("writing a TLS report on {domain}: {detail}")]
pub struct ReportError {
    /// On which domain.
    pub domain: String,
    /// Why not.
    pub detail: String,
}

/// A report as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The header block, with the empty line.
    pub head: Vec<u8>,
    /// The body: ASCII.
    pub body: Vec<u8>,
}

impl TlsReport {
    /// What tells this report from others. The same for the same domain and time, so that one
    /// sent twice is known again.
    #[must_use]
    pub fn id(&self) -> String {
        let seconds = self.start.as_millis() / 1000;
        format!("{seconds}.{}@{}", self.domain, self.submitter)
    }

    /// The report as JSON (RFC 8460 section 4.4).
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn json(&self) -> Result<Vec<u8>, ReportError> {
        let failed = |error: serde_json::Error| self.failed(&error);
        let mut value = serde_json::to_value(self.model()).map_err(failed)?;
        without_nulls(&mut value);
        serde_json::to_vec(&value).map_err(failed)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> ReportError {
        ReportError {
            domain: self.domain.clone(),
            detail: error.to_string(),
        }
    }

    fn model(&self) -> model::TlsReport {
        let seconds = |at: Timestamp| i64::try_from(at.as_millis() / 1000).unwrap_or(i64::MAX);
        model::TlsReport {
            organization_name: Some(self.organization.clone()),
            date_range: model::DateRange::from_timestamps(seconds(self.start), seconds(self.end)),
            contact_info: self.contact.clone(),
            report_id: self.id(),
            policies: self.policies.iter().map(policy).collect(),
        }
    }

    /// The report as a message (RFC 8460 section 5.3): multipart/report, the JSON compressed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(
        &self,
        from: &Address,
        to: &[Address],
        now: Timestamp,
    ) -> Result<Written, ReportError> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&self.json()?).map_err(|e| self.failed(&e))?;
        let compressed = gzip.finish().map_err(|e| self.failed(&e))?;
        let id = self.id();
        let boundary = format!("=_tlsrpt_{}", self.start.as_millis());
        Ok(Written {
            head: self.head(&id, &boundary, from, to, now).into_bytes(),
            body: self.body(&id, &boundary, &compressed).into_bytes(),
        })
    }

    fn head(
        &self,
        id: &str,
        boundary: &str,
        from: &Address,
        to: &[Address],
        now: Timestamp,
    ) -> String {
        let to: Vec<_> = to
            .iter()
            .map(|a| format!("<{}>", a.to_ascii_domain()))
            .collect();
        let (domain, submitter) = (&self.domain, &self.submitter);
        // A report on TLS that fails must arrive where TLS fails (RFC 8689 section 5).
        format!(
            "Date: {}\r\nFrom: TLS reports <{}>\r\nTo: {}\r\nSubject: Report Domain: {domain}\r\n Submitter: {submitter}\r\n Report-ID: <{id}>\r\nMessage-ID: <{}.tlsrpt.{id}>\r\nTLS-Report-Domain: {domain}\r\nTLS-Report-Submitter: {submitter}\r\nTLS-Required: No\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"{boundary}\"\r\n\r\n",
            rfc5322_date(now),
            from.to_ascii_domain(),
            to.join(",\r\n "),
            now.as_millis(),
        )
    }

    fn body(&self, id: &str, boundary: &str, compressed: &[u8]) -> String {
        let (domain, submitter) = (&self.domain, &self.submitter);
        let (mut ok, mut failed) = (0u64, 0u64);
        for policy in &self.policies {
            ok = ok.saturating_add(policy.counts.successes);
            failed = failed.saturating_add(policy.counts.failures);
        }
        let seconds = |at: Timestamp| at.as_millis() / 1000;
        // RFC 8460 section 5.1.
        let file = format!(
            "{submitter}!{domain}!{}!{}.json.gz",
            seconds(self.start),
            seconds(self.end)
        );
        let mut body = format!(
            "This is a report in MIME format.\r\n\r\n--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\nThis is a report on TLS with the mail hosts of\r\n{domain}\r\nfrom {submitter}.\r\n\r\nReport-ID: {id}\r\nFrom: {}\r\nTo: {}\r\nSessions that went well: {ok}\r\nSessions that did not: {failed}\r\n\r\n--{boundary}\r\nContent-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment;\r\n\tfilename=\"{file}\"\r\n\r\n",
            rfc5322_date(self.start),
            rfc5322_date(self.end),
        );
        let encoded = STANDARD.encode(compressed);
        for line in encoded.as_bytes().chunks(LINE) {
            let _ = write!(body, "{}\r\n", String::from_utf8_lossy(line));
        }
        let _ = write!(body, "\r\n--{boundary}--\r\n");
        body
    }
}

fn policy(policy: &ReportedPolicy) -> model::Policy {
    let kind = match policy.kind {
        PolicyType::Tlsa => model::PolicyType::Tlsa,
        PolicyType::Sts => model::PolicyType::Sts,
        PolicyType::NoPolicyFound => model::PolicyType::NoPolicyFound,
    };
    model::Policy {
        policy: model::PolicyDetails {
            policy_type: kind,
            policy_string: policy.strings.clone(),
            policy_domain: policy.domain.clone(),
            mx_host: policy.mx.clone(),
        },
        summary: model::Summary {
            total_success: count(policy.counts.successes),
            total_failure: count(policy.counts.failures),
        },
        failure_details: policy.details.iter().map(detail).collect(),
    }
}

fn detail(detail: &FailureDetail) -> model::FailureDetails {
    let result = serde_json::from_value(detail.result.clone().into());
    model::FailureDetails {
        result_type: result.unwrap_or_default(),
        sending_mta_ip: detail.sending_ip,
        receiving_mx_hostname: detail.receiving_host.clone(),
        receiving_mx_helo: None,
        receiving_ip: detail.receiving_ip,
        failed_session_count: count(detail.count),
        additional_information: None,
        failure_reason_code: (!detail.reason.is_empty()).then(|| detail.reason.clone()),
    }
}

fn count(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// RFC 8460 knows no `null`: what is not known is left out.
fn without_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_auth::report::tlsrpt::{ResultType, TlsReport as Parsed};

    fn report() -> TlsReport {
        TlsReport {
            organization: "Example, Inc.".to_owned(),
            contact: Some("admin@sender.test".to_owned()),
            domain: "d.test".to_owned(),
            submitter: "mx.sender.test".to_owned(),
            start: Timestamp::from_millis(1_795_478_400_000),
            end: Timestamp::from_millis(1_795_564_799_000),
            policies: vec![ReportedPolicy {
                kind: PolicyType::Sts,
                strings: vec!["version: STSv1".to_owned(), "mode: testing".to_owned()],
                domain: "d.test".to_owned(),
                mx: vec!["*.d.test".to_owned()],
                counts: PolicyCounts {
                    successes: 5326,
                    failures: u64::MAX,
                },
                details: vec![
                    FailureDetail {
                        result: "certificate-expired".to_owned(),
                        sending_ip: Some("2001:db8::1".parse().unwrap()),
                        receiving_host: Some("mx1.d.test".to_owned()),
                        receiving_ip: Some("192.0.2.1".parse().unwrap()),
                        count: 100,
                        reason: "a \"reason\"\r\n\u{fc}".to_owned(),
                    },
                    FailureDetail {
                        result: "not-in-the-rfc".to_owned(),
                        sending_ip: None,
                        receiving_host: None,
                        receiving_ip: None,
                        count: 1,
                        reason: String::new(),
                    },
                ],
            }],
        }
    }

    fn written(report: &TlsReport) -> Vec<u8> {
        let from = "tlsrpt@sender.test".parse().unwrap();
        let to = ["a@d.test".parse().unwrap(), "b@x.test".parse().unwrap()];
        let now = Timestamp::from_millis(1_795_570_000_000);
        let written = report.write(&from, &to, now).unwrap();
        assert!(written.body.is_ascii() && written.head.is_ascii());
        [written.head, written.body].concat()
    }

    #[test]
    fn read_back_by_mail_auth() {
        let report = report();
        let message = written(&report);
        let parsed = Parsed::parse_rfc5322(&message, 1 << 20).unwrap();
        assert_eq!(parsed.report_id, report.id());
        assert_eq!(parsed.organization_name.as_deref(), Some("Example, Inc."));
        assert_eq!(parsed.contact_info.as_deref(), Some("admin@sender.test"));
        assert_eq!(
            parsed.date_range.start_datetime.to_rfc3339(),
            "2026-11-24T00:00:00Z"
        );
        assert_eq!(
            parsed.date_range.end_datetime.to_rfc3339(),
            "2026-11-24T23:59:59Z"
        );
        let policy = &parsed.policies[0];
        assert_eq!(policy.policy.mx_host, ["*.d.test"]);
        assert_eq!(policy.policy.policy_string[1], "mode: testing");
        assert_eq!(policy.summary.total_success, 5326);
        assert_eq!(policy.summary.total_failure, u32::MAX);
        let [first, second] = &policy.failure_details[..] else {
            panic!("two details");
        };
        assert_eq!(first.result_type, ResultType::CertificateExpired);
        assert_eq!(first.receiving_ip, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(
            first.failure_reason_code.as_deref(),
            Some("a \"reason\"\r\n\u{fc}")
        );
        assert_eq!(second.result_type, ResultType::Other);
    }

    #[test]
    fn a_message_as_rfc_8460_wants_it() {
        let message = written(&report());
        let parsed = mail_parser::MessageParser::default()
            .parse(&message)
            .unwrap();
        let header = |name: &str| parsed.header_raw(name).unwrap().trim().to_owned();
        assert_eq!(header("TLS-Report-Domain"), "d.test");
        assert_eq!(header("TLS-Report-Submitter"), "mx.sender.test");
        assert_eq!(header("TLS-Required"), "No");
        assert_eq!(
            parsed.subject(),
            Some(
                "Report Domain: d.test Submitter: mx.sender.test Report-ID: <1795478400.d.test@mx.sender.test>"
            )
        );
        assert_eq!(parsed.to().unwrap().iter().count(), 2);
        let kind = header("Content-Type");
        assert!(kind.starts_with("multipart/report; report-type=\"tlsrpt\""));
        let text = String::from_utf8(message).unwrap();
        assert!(text.contains("filename=\"mx.sender.test!d.test!1795478400!1795564799.json.gz\""));
        for line in text.split("\r\n") {
            assert!(
                line.len() <= 998 && !line.contains(['\r', '\n']),
                "{line:?}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut report = report();
        report.contact = None;
        let json = String::from_utf8(report.json().unwrap()).unwrap();
        assert!(!json.contains("null"), "{json}");
        assert!(!json.contains("contact-info"), "{json}");
        assert!(json.contains("\"policy-type\":\"sts\""), "{json}");
    }
}
