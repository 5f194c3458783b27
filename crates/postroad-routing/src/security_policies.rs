//! DANE and MTA-STS together: the one [`SecurityLookup`] of a running system.
//!
//! | DANE | MTA-STS | what is asked |
//! |---|---|---|
//! | records in force, or the host is unusable | not asked for | DANE (RFC 8461 section 2) |
//! | records, none usable | enforce | MTA-STS, which asks for more |
//! | records, none usable | else | TLS, any certificate |
//! | absent | enforce, the host matches | a valid certificate |
//! | absent | enforce, the host does not match | the host is not used |
//! | absent | testing | the same, to be reported only |
//! | absent | none, or not to be had | nothing |

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postroad_mail::{Domain, EnhancedCode, Reply, Timestamp};

use crate::dane::{Dane, SecureLookup, dane};
use crate::plan::Host;
use crate::route::BoxFuture;
use crate::security::{HostSecurity, PolicyKind, Requirement, SecurityLookup};
use crate::sts::{StsMode, StsPolicy};
use crate::sts_policies::{Now, StsAnswer, StsPolicies};

/// How long an answer is kept. What lies behind it, records and policies, is kept elsewhere, for as
/// long as it may be: this only spares checking it anew for each of many messages.
const ANSWER_KEPT: Duration = Duration::from_secs(60);
/// The same, where the answer is that something failed.
const FAILURE_KEPT: Duration = Duration::from_secs(10);
/// Answers that are kept, at most.
const ANSWERS_MAX: usize = 20_000;

/// The host is none of those of the policy (RFC 8461 section 5): the names stand in the text.
const NOT_IN_POLICY: Reply = Reply::row(
    451,
    EnhancedCode::transient(7, 5),
    "The host is not in the MTA-STS policy of the domain",
);

/// What is done with policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyMode {
    /// They are in force.
    #[default]
    Enforce,
    /// They are looked up and checked, to be reported; none is in force.
    Observe,
    /// They are not looked up.
    Off,
}

/// A host at a port, for a domain.
type Key = (Option<String>, String, u16);

/// Finds out by DANE and MTA-STS.
pub struct SecurityPolicies {
    mode: PolicyMode,
    dane: Option<Arc<dyn SecureLookup>>,
    sts: Option<Arc<StsPolicies>>,
    now: Now,
    answers: Mutex<HashMap<Key, (Timestamp, HostSecurity)>>,
}

impl fmt::Debug for SecurityPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityPolicies")
            .field("mode", &self.mode)
            .field("dane", &self.dane.is_some())
            .field("sts", &self.sts.is_some())
            .finish_non_exhaustive()
    }
}

impl SecurityPolicies {
    /// By DANE, where a validating resolver is given, and MTA-STS, where it is.
    #[must_use]
    pub fn new(
        mode: PolicyMode,
        dane: Option<Arc<dyn SecureLookup>>,
        sts: Option<Arc<StsPolicies>>,
        now: Now,
    ) -> Self {
        Self {
            mode,
            dane,
            sts,
            now,
            answers: Mutex::default(),
        }
    }

    async fn ask(&self, domain: Option<&Domain>, host: &Host, port: u16) -> HostSecurity {
        if self.mode == PolicyMode::Off {
            return HostSecurity::none();
        }
        let mut security = self.find(domain, host, port).await;
        if self.mode == PolicyMode::Observe {
            security.enforced = false;
            security.reasons.push("observed, not enforced".to_owned());
        }
        security
    }

    async fn find(&self, domain: Option<&Domain>, host: &Host, port: u16) -> HostSecurity {
        let mut why_not = None;
        let mut encrypted = None;
        if let Some(dns) = &self.dane {
            match dane(&**dns, domain, host, port).await {
                Dane::Says(says) if says.requirement == Requirement::Encrypted => {
                    encrypted = Some(says);
                }
                Dane::Says(says) => return says,
                Dane::Absent(why) => why_not = Some(why),
            }
        }
        let mut found = HostSecurity::none();
        if let (Some(sts), Some(domain)) = (&self.sts, domain) {
            found = by_sts(domain, host, sts.policy(domain).await);
        }
        if let Some(encrypted) = encrypted {
            let more = found.policy == PolicyKind::Sts && found.enforced;
            if !more {
                return encrypted;
            }
            why_not = encrypted.reasons.into_iter().next();
        }
        found.reasons.extend(why_not);
        found
    }
}

fn by_sts(domain: &Domain, host: &Host, answer: StsAnswer) -> HostSecurity {
    let mut security = match answer.policy {
        Some(policy) => by_policy(domain, host, &policy),
        None => HostSecurity {
            reasons: vec!["MTA-STS: no policy".to_owned()],
            ..HostSecurity::none()
        },
    };
    if let Some(doubt) = answer.doubt {
        let text = format!("MTA-STS: the record cannot be looked up now: {doubt}");
        security.reasons.push(text);
    }
    if let Some(failure) = answer.failure {
        security.policy_failure = Some(failure.result_type().to_owned());
        // First: it is what the report gives as the reason.
        security.reasons.insert(0, format!("MTA-STS: {failure}"));
    }
    security
}

fn by_policy(domain: &Domain, host: &Host, policy: &StsPolicy) -> HostSecurity {
    let name = host.name.ascii();
    let allowed = !host.name.is_literal() && policy.allows(name);
    let enforced = policy.mode == StsMode::Enforce;
    let mode = match policy.mode {
        StsMode::Enforce => "enforce",
        StsMode::Testing => "testing, not enforced",
        StsMode::None => "none",
    };
    let mut reasons = vec![format!("MTA-STS: {mode}")];
    let requirement = if allowed {
        Requirement::Valid
    } else {
        let text = format!("{name} is not in the MTA-STS policy of {}", domain.ascii());
        reasons.push(format!("MTA-STS: {text}"));
        Requirement::Unusable(NOT_IN_POLICY.with_text(text))
    };
    HostSecurity {
        requirement,
        policy: PolicyKind::Sts,
        policy_strings: policy.lines(),
        mx_patterns: policy.mx.clone(),
        reasons,
        enforced,
        policy_failure: None,
    }
}

impl SecurityLookup for SecurityPolicies {
    fn security<'a>(
        &'a self,
        domain: Option<&'a Domain>,
        host: &'a Host,
        port: u16,
    ) -> BoxFuture<'a, HostSecurity> {
        Box::pin(async move {
            let key = (
                domain.map(|d| d.ascii().to_owned()),
                host.name.ascii().to_owned(),
                port,
            );
            let now = (self.now)();
            {
                let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((until, answer)) = answers.get(&key)
                    && *until > now
                {
                    return answer.clone();
                }
            }
            let security = self.ask(domain, host, port).await;
            let failed = security.policy_failure.is_some();
            let kept = if failed { FAILURE_KEPT } else { ANSWER_KEPT };
            let now = (self.now)();
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.len() >= ANSWERS_MAX {
                answers.retain(|_, (until, _)| *until > now);
            }
            if answers.len() < ANSWERS_MAX {
                answers.insert(key, (now + kept, security.clone()));
            }
            security
        })
    }

    fn maintain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let (Some(sts), true) = (&self.sts, self.mode != PolicyMode::Off) {
                sts.maintain().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use postroad_mail::{Cache, Tlsa};

    use crate::dane::SecureFuture;
    use crate::dns::{NoAnswer, Secured, TlsaAnswer};
    use crate::sts_policies::{StsFetch, StsFetchError, TxtLookup};

    /// A DNS in which everything is secure, with the same TLSA answer everywhere.
    struct Signed {
        answer: TlsaAnswer,
        asked: Arc<AtomicUsize>,
    }

    fn secured<T>(value: T, name: &str) -> Secured<T> {
        Secured {
            value,
            secure: true,
            name: name.to_owned(),
            origin_secure: true,
            ttl: Duration::from_secs(60),
        }
    }

    impl SecureLookup for Signed {
        fn mx<'a>(&'a self, domain: &'a Domain) -> SecureFuture<'a, Vec<(u16, String)>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let hosts = ["mx.test", "other.test"].map(|name| (10, name.to_owned()));
            let found = secured(hosts.to_vec(), domain.ascii());
            Box::pin(std::future::ready(Ok(found)))
        }

        fn addresses<'a>(&'a self, host: &'a str) -> SecureFuture<'a, Vec<IpAddr>> {
            Box::pin(std::future::ready(Ok(secured(Vec::new(), host))))
        }

        fn tlsa<'a>(&'a self, _: &'a str) -> BoxFuture<'a, TlsaAnswer> {
            Box::pin(std::future::ready(self.answer.clone()))
        }
    }

    /// The policy of every domain; none where it is empty.
    struct Policy(String);

    impl TxtLookup for Policy {
        fn txt<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<String>, NoAnswer>> {
            let records = if self.0.is_empty() {
                Err(NoAnswer::NoName)
            } else {
                Ok(vec!["v=STSv1; id=1".to_owned()])
            };
            Box::pin(std::future::ready(records))
        }
    }

    impl StsFetch for Policy {
        fn fetch<'a>(
            &'a self,
            _: &'a Domain,
            _: Duration,
        ) -> BoxFuture<'a, Result<Vec<u8>, StsFetchError>> {
            Box::pin(std::future::ready(Ok(self.0.clone().into_bytes())))
        }
    }

    #[derive(Debug)]
    struct Forgetful;

    impl Cache for Forgetful {
        fn get(&self, _: &str, _: &str) -> Option<Vec<u8>> {
            None
        }
        fn put(&self, _: &str, _: &str, _: &[u8]) {}
        fn remove(&self, _: &str, _: &str) {}
        fn keys(&self, _: &str, _: Option<&str>, _: usize) -> Vec<String> {
            Vec::new()
        }
    }

    struct World {
        policies: SecurityPolicies,
        asked: Arc<AtomicUsize>,
        now: Arc<Mutex<Timestamp>>,
    }

    fn world(mode: PolicyMode, tlsa: &str, sts: &str) -> World {
        let record = |usage| Tlsa {
            usage,
            selector: 1,
            matching: 1,
            data: vec![0; 32],
        };
        let answer = match tlsa {
            "usable" => TlsaAnswer::Secure(vec![record(3)]),
            "unusable" => TlsaAnswer::Secure(vec![record(1)]),
            "bogus" => TlsaAnswer::Failed("bogus".to_owned()),
            _ => TlsaAnswer::None { secure: true },
        };
        let text = match sts {
            "" => String::new(),
            mode => format!("version: STSv1\nmode: {mode}\nmx: mx.test\nmax_age: 86400\n"),
        };
        let (asked, now) = (Arc::default(), Arc::<Mutex<Timestamp>>::default());
        let ticking = Arc::clone(&now);
        let clock: Now = Arc::new(move || *ticking.lock().unwrap());
        let dane = Signed {
            answer,
            asked: Arc::clone(&asked),
        };
        let policies = StsPolicies::new(
            Arc::new(Policy(text.clone())),
            Arc::new(Policy(text)),
            Arc::new(Forgetful),
            Arc::clone(&clock),
        );
        World {
            policies: SecurityPolicies::new(
                mode,
                Some(Arc::new(dane)),
                Some(Arc::new(policies)),
                clock,
            ),
            asked,
            now,
        }
    }

    impl World {
        async fn ask(&self, host: &str) -> HostSecurity {
            let domain = "d.test".parse().unwrap();
            let host = Host {
                name: host.parse().unwrap(),
                preference: None,
                addresses: Vec::new(),
                ttl: None,
            };
            self.policies.security(Some(&domain), &host, 25).await
        }
    }

    fn shown(security: &HostSecurity) -> String {
        let requirement = match &security.requirement {
            Requirement::None => "none",
            Requirement::Encrypted => "encrypted",
            Requirement::Dane { .. } => "dane",
            Requirement::Valid => "valid",
            Requirement::Unusable(_) => "unusable",
        };
        let only = if security.enforced { "" } else { " reported" };
        format!("{requirement} {:?}{only}", security.policy)
    }

    #[tokio::test]
    async fn as_the_table_says() {
        for (tlsa, sts, mx, other) in [
            ("", "", "none NoPolicyFound", "none NoPolicyFound"),
            ("", "enforce", "valid Sts", "unusable Sts"),
            ("", "testing", "valid Sts reported", "unusable Sts reported"),
            ("", "none", "none NoPolicyFound", "none NoPolicyFound"),
            ("usable", "", "dane Tlsa", "dane Tlsa"),
            ("usable", "enforce", "dane Tlsa", "dane Tlsa"),
            ("unusable", "", "encrypted Tlsa", "encrypted Tlsa"),
            ("unusable", "testing", "encrypted Tlsa", "encrypted Tlsa"),
            ("unusable", "enforce", "valid Sts", "unusable Sts"),
            ("bogus", "", "unusable Tlsa", "unusable Tlsa"),
            ("bogus", "enforce", "unusable Tlsa", "unusable Tlsa"),
        ] {
            let enforcing = world(PolicyMode::Enforce, tlsa, sts);
            let (one, two) = (
                enforcing.ask("mx.test").await,
                enforcing.ask("other.test").await,
            );
            assert_eq!(shown(&one), mx, "{tlsa}, {sts}: {one:?}");
            assert_eq!(shown(&two), other, "{tlsa}, {sts}: {two:?}");
            assert!(!one.reasons.is_empty(), "why, in any case");
            let observing = world(PolicyMode::Observe, tlsa, sts);
            let seen = observing.ask("mx.test").await;
            assert_eq!(seen.requirement, one.requirement);
            assert!(!seen.enforced, "{tlsa}, {sts}: nothing is in force");
            let off = world(PolicyMode::Off, tlsa, sts);
            assert_eq!(off.ask("mx.test").await, HostSecurity::none());
            assert_eq!(off.asked.load(Ordering::SeqCst), 0);
        }
    }

    #[tokio::test]
    async fn answers_are_kept_for_a_moment() {
        for (tlsa, kept) in [("usable", ANSWER_KEPT), ("bogus", FAILURE_KEPT)] {
            let world = world(PolicyMode::Enforce, tlsa, "");
            let asked = || world.asked.load(Ordering::SeqCst);
            let first = world.ask("mx.test").await;
            assert_eq!(world.ask("mx.test").await, first);
            assert_eq!(asked(), 1);
            world.ask("other.test").await;
            assert_eq!(asked(), 2, "another host");
            *world.now.lock().unwrap() = Timestamp::default() + kept;
            world.ask("mx.test").await;
            assert_eq!(asked(), 3, "{tlsa}");
        }
    }
}
