//! Which destinations would fail, were their policies in force: what `tls_policy = "observe"` is
//! for. A summary per domain over the last days, bounded.

use std::collections::BTreeMap;

use postroad_mail::{Timestamp, escape_peer_text};
use postroad_routing::{PolicyKind, Requirement};
use serde::{Deserialize, Serialize};

use super::security::SessionResult;
use super::tls_counts::{Day, TlsSession, text};

/// Days that are summed up.
pub(crate) const OBSERVED_DAYS: u64 = 30;
/// Domains that are kept, at most: of more, those seen least recently go.
pub(crate) const OBSERVED_MAX: usize = 10_000;

/// How TLS with the hosts of one domain went, by what its policy asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ObservedDomain {
    /// The domain.
    pub domain: String,
    /// `tlsa`, `sts`, or `no-policy-found` where the policy could not be had.
    pub policy: &'static str,
    /// Whether it was in force when last seen.
    pub enforced: bool,
    /// Sessions that the policy has, or would have, let pass, in the last 30 days.
    pub sessions_ok: u64,
    /// Sessions that failed, or would have, and attempts at hosts that must not, or would not, be
    /// used.
    pub would_fail: u64,
    /// Why the last one failed.
    pub last_reason: Option<String>,
    /// When the last session was.
    pub last: Timestamp,
}

/// Per domain, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Observed {
    policy: String,
    enforced: bool,
    /// Passed and failed, by day; at most [`OBSERVED_DAYS`] days.
    days: BTreeMap<u64, (u64, u64)>,
    last_reason: Option<String>,
    pub(crate) last: Timestamp,
}

impl Observed {
    /// What is kept of a domain not seen before.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            policy: name(PolicyKind::NoPolicyFound).to_owned(),
            enforced: false,
            days: BTreeMap::new(),
            last_reason: None,
            last: now,
        }
    }

    /// Whether there is something to observe: a policy, or one that could not be had.
    pub(crate) fn concerns(session: &TlsSession<'_>) -> bool {
        let security = session.security;
        security.policy != PolicyKind::NoPolicyFound || security.policy_failure.is_some()
    }

    /// Takes a session in.
    pub(crate) fn add(&mut self, now: Timestamp, session: &TlsSession<'_>) {
        let security = session.security;
        name(security.policy).clone_into(&mut self.policy);
        self.enforced = security.enforced;
        self.last = now;
        let (mut passed, mut failed, mut why) = (0, 0, None);
        if let Some(failure) = &security.policy_failure {
            let reason = security.reasons.first().map_or("", String::as_str);
            why = Some(format!("{failure}: {reason}"));
            // Where only a newer policy could not be had, the session is judged by the older.
            failed = u64::from(matches!(security.requirement, Requirement::Unusable(_)));
        }
        match &session.result {
            None => {}
            Some(SessionResult::Success) => passed = 1,
            Some(SessionResult::Failure { kind, detail }) => {
                failed = 1;
                why = Some(format!("{}: {}: {detail}", session.host, kind.name()));
            }
        }
        let day = self.days.entry(Day::of(now).0).or_default();
        day.0 = day.0.saturating_add(passed);
        day.1 = day.1.saturating_add(failed);
        if let Some(why) = why {
            self.last_reason = Some(text(&escape_peer_text(&why)));
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Timestamp) {
        let today = Day::of(now).0;
        self.days.retain(|&day, _| day + OBSERVED_DAYS > today);
    }

    /// Whether nothing of it is within the days that are summed up.
    pub(crate) fn is_past(&self, now: Timestamp) -> bool {
        Day::of(self.last).0 + OBSERVED_DAYS <= Day::of(now).0
    }

    /// The summary.
    pub(crate) fn summary(&self, domain: &str, now: Timestamp) -> ObservedDomain {
        let mut current = self.clone();
        current.forget(now);
        let (mut ok, mut failed) = (0u64, 0u64);
        for (passed, not) in current.days.values() {
            ok = ok.saturating_add(*passed);
            failed = failed.saturating_add(*not);
        }
        let kinds = [PolicyKind::Tlsa, PolicyKind::Sts].map(name);
        let policy = kinds.into_iter().find(|kind| *kind == self.policy);
        ObservedDomain {
            domain: domain.to_owned(),
            policy: policy.unwrap_or_else(|| name(PolicyKind::NoPolicyFound)),
            enforced: self.enforced,
            sessions_ok: ok,
            would_fail: failed,
            last_reason: self.last_reason.clone(),
            last: self.last,
        }
    }
}

const fn name(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::Tlsa => "tlsa",
        PolicyKind::Sts => "sts",
        PolicyKind::NoPolicyFound => "no-policy-found",
    }
}
