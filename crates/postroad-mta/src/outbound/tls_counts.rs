//! What came of TLS with the hosts of a domain on one day: the figures of a TLS report
//! (RFC 8460 section 4). Bounded, and without a clock.

use std::net::IpAddr;

use postroad_mail::{CACHE_VALUE_MAX, Timestamp};
use postroad_policy::{FailureDetail, PolicyCounts, ReportedPolicy};
use postroad_routing::{HostSecurity, PolicyKind};
use serde::{Deserialize, Serialize};

use super::security::{FailureKind, SessionResult};

/// Policies of a domain that are told apart on one day, at most: TLSA records differ by host.
pub(crate) const POLICIES_MAX: usize = 20;
/// Failures of a policy that are told apart on one day, at most; more are in the sum only.
pub(crate) const FAILURES_MAX: usize = 50;
/// Lines of a policy that are quoted, at most, and patterns of hosts.
const QUOTED_MAX: usize = 50;
/// Characters of each, and of a reason, at most.
const TEXT_MAX: usize = 256;
/// Milliseconds of a day.
pub(crate) const DAY: u64 = 24 * 60 * 60 * 1000;

/// A day, UTC: days since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Day(pub(crate) u64);

impl Day {
    pub(crate) const fn of(at: Timestamp) -> Self {
        Self(at.as_millis() / DAY)
    }

    pub(crate) const fn start(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(DAY))
    }

    pub(crate) const fn end(self) -> Timestamp {
        Timestamp::from_millis((self.0 + 1).saturating_mul(DAY) - 1000)
    }
}

/// One session with a host, or the lack of one, to be counted.
#[derive(Clone, Debug)]
pub(crate) struct TlsSession<'a> {
    /// Whose mail it was for: the domain whose MX records named the host, or the host itself.
    pub(crate) domain: &'a str,
    /// The host's name.
    pub(crate) host: &'a str,
    /// What was asked of it.
    pub(crate) security: &'a HostSecurity,
    /// Our address, where it is known.
    pub(crate) sending_ip: Option<IpAddr>,
    /// Its address; none where it was not called.
    pub(crate) receiving_ip: Option<IpAddr>,
    /// What came of it; none where the connection says nothing of TLS.
    pub(crate) result: Option<SessionResult>,
}

/// The figures of one domain on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    policies: Vec<Policy>,
    /// How often it has been begun to send the report.
    #[serde(default)]
    pub(crate) begun: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Policy {
    kind: Kind,
    strings: Vec<String>,
    mx: Vec<String>,
    successes: u64,
    failures: u64,
    details: Vec<Failure>,
}

/// [`PolicyKind`], as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Tlsa,
    Sts,
    NoPolicyFound,
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Tlsa => Self::Tlsa,
            PolicyKind::Sts => Self::Sts,
            PolicyKind::NoPolicyFound => Self::NoPolicyFound,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Failure {
    kind: String,
    host: Option<String>,
    sending_ip: Option<IpAddr>,
    receiving_ip: Option<IpAddr>,
    reason: String,
    count: u64,
}

impl Counts {
    /// Counts one session.
    pub(crate) fn add(&mut self, session: &TlsSession<'_>) {
        let security = session.security;
        if let Some(failure) = &security.policy_failure {
            let kind = FailureKind::named(failure);
            let of = kind.of_policy().unwrap_or(security.policy);
            let reason = security.reasons.first().map_or("", String::as_str);
            let mut found = Failure::new(kind, reason);
            // What is wrong with the TLSA records is wrong with those of a host.
            if of == PolicyKind::Tlsa {
                found.host = Some(text(session.host));
            }
            let strings: &[String] = if of == security.policy {
                &security.policy_strings
            } else {
                &[]
            };
            self.fail(of, strings, &[], found);
        }
        let (strings, mx) = (&security.policy_strings, &security.mx_patterns);
        match &session.result {
            None => {}
            Some(SessionResult::Success) => {
                if let Some(policy) = self.policy(security.policy, strings, mx) {
                    policy.successes = policy.successes.saturating_add(1);
                }
            }
            Some(SessionResult::Failure { kind, detail }) => {
                let mut found = Failure::new(*kind, detail);
                found.host = Some(text(session.host));
                found.sending_ip = session.sending_ip;
                found.receiving_ip = session.receiving_ip;
                self.fail(security.policy, strings, mx, found);
            }
        }
    }

    fn fail(&mut self, kind: PolicyKind, strings: &[String], mx: &[String], found: Failure) {
        let Some(policy) = self.policy(kind, strings, mx) else {
            return;
        };
        policy.failures = policy.failures.saturating_add(1);
        let same = |known: &&mut Failure| {
            known.kind == found.kind
                && known.host == found.host
                && known.sending_ip == found.sending_ip
                && known.receiving_ip == found.receiving_ip
        };
        if let Some(known) = policy.details.iter_mut().find(same) {
            known.count = known.count.saturating_add(1);
            known.reason = found.reason;
        } else if policy.details.len() < FAILURES_MAX {
            policy.details.push(found);
        }
    }

    fn policy(
        &mut self,
        kind: PolicyKind,
        strings: &[String],
        mx: &[String],
    ) -> Option<&mut Policy> {
        let kind = Kind::from(kind);
        let (strings, mx) = (quoted(strings), quoted(mx));
        let known = self
            .policies
            .iter()
            .position(|p| p.kind == kind && p.strings == strings && p.mx == mx);
        let at = known.unwrap_or(self.policies.len());
        if known.is_none() && at < POLICIES_MAX {
            self.policies.push(Policy {
                kind,
                strings,
                mx,
                successes: 0,
                failures: 0,
                details: Vec::new(),
            });
        }
        self.policies.get_mut(at)
    }

    /// As it is kept; where it is too large for that, with fewer details, and then fewer policies.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut counts = self.clone();
        loop {
            let octets = serde_json::to_vec(&counts).unwrap_or_default();
            let most = counts.policies.iter().map(|p| p.details.len()).max();
            let most = most.unwrap_or(0);
            if octets.len() <= CACHE_VALUE_MAX {
                return octets;
            }
            if most > 0 {
                for policy in &mut counts.policies {
                    policy.details.truncate(most / 2);
                }
            } else if counts.policies.len() > 1 {
                counts.policies.truncate(counts.policies.len() / 2);
            } else {
                return octets;
            }
        }
    }

    /// What was kept; nothing, where it makes no sense.
    pub(crate) fn decode(octets: &[u8]) -> Option<Self> {
        serde_json::from_slice(octets).ok()
    }

    /// As the report has it.
    pub(crate) fn report(&self, domain: &str) -> Vec<ReportedPolicy> {
        let details = |policy: &Policy| {
            let all = policy.details.iter().map(|failure| FailureDetail {
                result: failure.kind.clone(),
                sending_ip: failure.sending_ip,
                receiving_host: failure.host.clone(),
                receiving_ip: failure.receiving_ip,
                count: failure.count,
                reason: failure.reason.clone(),
            });
            all.collect()
        };
        let policies = self.policies.iter().map(|policy| ReportedPolicy {
            kind: match policy.kind {
                Kind::Tlsa => postroad_policy::PolicyType::Tlsa,
                Kind::Sts => postroad_policy::PolicyType::Sts,
                Kind::NoPolicyFound => postroad_policy::PolicyType::NoPolicyFound,
            },
            strings: policy.strings.clone(),
            domain: domain.to_owned(),
            mx: policy.mx.clone(),
            counts: PolicyCounts {
                successes: policy.successes,
                failures: policy.failures,
            },
            details: details(policy),
        });
        policies.collect()
    }
}

impl Failure {
    fn new(kind: FailureKind, reason: &str) -> Self {
        Self {
            kind: kind.name().to_owned(),
            host: None,
            sending_ip: None,
            receiving_ip: None,
            reason: text(reason),
            count: 1,
        }
    }
}

/// What is kept of a text.
pub(crate) fn text(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

fn quoted(lines: &[String]) -> Vec<String> {
    lines.iter().take(QUOTED_MAX).map(|l| text(l)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session<'a>(security: &'a HostSecurity, result: Option<SessionResult>) -> TlsSession<'a> {
        TlsSession {
            domain: "d.test",
            host: "mx.d.test",
            security,
            sending_ip: None,
            receiving_ip: Some("192.0.2.1".parse().unwrap()),
            result,
        }
    }

    fn failed(kind: FailureKind, detail: &str) -> Option<SessionResult> {
        Some(SessionResult::Failure {
            kind,
            detail: detail.to_owned(),
        })
    }

    #[test]
    fn counted_by_policy_and_failure() {
        let none = HostSecurity::none();
        let sts = HostSecurity {
            policy: PolicyKind::Sts,
            policy_strings: vec!["version: STSv1".to_owned(), "mode: testing".to_owned()],
            mx_patterns: vec!["*.d.test".to_owned()],
            ..HostSecurity::none()
        };
        let unfetched = HostSecurity {
            policy_failure: Some("sts-policy-fetch-error".to_owned()),
            reasons: vec!["MTA-STS: no answer".to_owned()],
            ..HostSecurity::none()
        };
        let mut counts = Counts::default();
        counts.add(&session(&none, Some(SessionResult::Success)));
        counts.add(&session(&none, None));
        for _ in 0..3 {
            counts.add(&session(&sts, failed(FailureKind::Expired, "yesterday")));
        }
        counts.add(&session(&sts, failed(FailureKind::HostMismatch, "x")));
        counts.add(&session(&sts, Some(SessionResult::Success)));
        counts.add(&session(&unfetched, Some(SessionResult::Success)));
        let report = counts.report("d.test");
        let shown: Vec<_> = report
            .iter()
            .map(|p| {
                let details: Vec<_> = p
                    .details
                    .iter()
                    .map(|d| format!("{} {}", d.result, d.count))
                    .collect();
                format!(
                    "{:?} {}/{} {}",
                    p.kind,
                    p.counts.successes,
                    p.counts.failures,
                    details.join(", ")
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "NoPolicyFound 2/0 ",
                "Sts 1/4 certificate-expired 3, certificate-host-mismatch 1",
                "Sts 0/1 sts-policy-fetch-error 1",
            ]
        );
        assert_eq!(Counts::decode(&counts.encode()), Some(counts));
        assert_eq!(Counts::decode(b"{\"x\":"), None);
    }

    #[test]
    fn bounded_whatever_hosts_say() {
        let mut counts = Counts::default();
        for n in 0..(POLICIES_MAX + 3) {
            let security = HostSecurity {
                policy: PolicyKind::Tlsa,
                policy_strings: vec![format!("{n} {}", "\u{1f4ee}".repeat(9000)); 60],
                ..HostSecurity::none()
            };
            for host in 0..(FAILURES_MAX + 3) {
                let host = format!("mx{host}.d.test");
                let detail = "\u{1f4ee}".repeat(9000);
                counts.add(&TlsSession {
                    host: &host,
                    ..session(&security, failed(FailureKind::TlsaInvalid, &detail))
                });
            }
        }
        assert_eq!(counts.policies.len(), POLICIES_MAX);
        for policy in &counts.policies {
            assert_eq!(policy.details.len(), FAILURES_MAX);
            assert_eq!(policy.failures, FAILURES_MAX as u64 + 3);
        }
        // Here the policies themselves are too long to be kept; details alone never are.
        let mut short = Counts::default();
        let detail = "\u{1f4ee}".repeat(9000);
        for n in 0..POLICIES_MAX {
            let security = HostSecurity {
                policy_strings: vec![n.to_string()],
                ..HostSecurity::none()
            };
            for host in 0..FAILURES_MAX {
                let host = format!("mx{host}.d.test");
                short.add(&TlsSession {
                    host: &host,
                    ..session(&security, failed(FailureKind::TlsaInvalid, &detail))
                });
            }
        }
        let octets = short.encode();
        assert!(octets.len() <= CACHE_VALUE_MAX);
        let kept = Counts::decode(&octets).unwrap();
        assert_eq!(kept.policies.len(), POLICIES_MAX);
        assert!(kept.policies.iter().all(|p| !p.details.is_empty()));
    }

    #[test]
    fn days() {
        let at = Timestamp::from_millis(1_795_524_541_000);
        let day = Day::of(at);
        assert!(day.start() <= at && at <= day.end());
        assert_eq!(day.end().since(day.start()).as_secs(), 86_399);
    }
}
