//! The books on TLS: figures for reports (RFC 8460) and observations, in memory, and saved to a
//! cache from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postroad_mail::{Cache, Origin, Timestamp};
use postroad_routing::Requirement;
use tracing::warn;

use super::security::skipped;
use super::tls_counts::{Counts, Day, TlsSession};
use super::tls_observed::{OBSERVED_MAX, Observed, ObservedDomain};

/// The service that reports come from: what carries them is not counted (RFC 8460 section 5.3
/// wants no reports about reports).
pub(crate) const TLS_REPORT_SERVICE: &str = "tls-report";
/// Domains with figures, over all days that are kept, at most; what is beyond is not counted.
pub(crate) const COUNTED_MAX: usize = 20_000;
/// Days that figures are kept for, while their report cannot be sent.
pub(crate) const KEPT_DAYS: u64 = 3;
/// Where the figures are in the cache.
const REPORTS: &str = "tls-report";
/// Where the observations are.
const OBSERVATIONS: &str = "tls-observed";
/// Keys that are asked for at a time.
const PAGE: usize = 500;

/// A domain on a day.
type Key = (Day, String);

#[derive(Debug, Default)]
struct Books {
    counts: BTreeMap<Key, Counts>,
    observed: BTreeMap<String, Observed>,
    changed_counts: BTreeSet<Key>,
    changed_observed: BTreeSet<String>,
    /// It has been said that there are too many domains.
    full: bool,
}

/// The books.
#[derive(Debug, Default)]
pub(crate) struct TlsBooks {
    books: Mutex<Books>,
    cache: Option<Arc<dyn Cache>>,
}

impl TlsBooks {
    /// Books that outlive the process, as far as the cache does; begins with what it has.
    pub(crate) fn new(cache: Arc<dyn Cache>, now: Timestamp) -> Self {
        let mut books = Books::default();
        for key in keys(&*cache, REPORTS, COUNTED_MAX) {
            let counts = cache.get(REPORTS, &key);
            let counts = counts.as_deref().and_then(Counts::decode);
            match (parse(&key), counts) {
                (Some(at), Some(counts)) => {
                    books.counts.insert(at, counts);
                }
                _ => cache.remove(REPORTS, &key),
            }
        }
        for domain in keys(&*cache, OBSERVATIONS, OBSERVED_MAX) {
            let observed = cache.get(OBSERVATIONS, &domain);
            let observed: Option<Observed> = observed.and_then(|o| serde_json::from_slice(&o).ok());
            match observed {
                Some(observed) if !observed.is_past(now) => {
                    books.observed.insert(domain, observed);
                }
                _ => cache.remove(OBSERVATIONS, &domain),
            }
        }
        Self {
            books: Mutex::new(books),
            cache: Some(cache),
        }
    }

    /// Whether what is sent for a message is counted.
    pub(crate) fn counts(origin: &Origin) -> bool {
        origin.service != TLS_REPORT_SERVICE
    }

    /// Counts a session. `judged`: its result is what the policy says of it, as
    /// [`TlsPlan::judges_policy`](super::security::TlsPlan::judges_policy) tells; else only what
    /// the policy forbids, or is wrong with it, counts.
    pub(crate) fn session(&self, now: Timestamp, session: &TlsSession<'_>, judged: bool) {
        let forbidden = matches!(session.security.requirement, Requirement::Unusable(_));
        let result = match &session.result {
            _ if forbidden => skipped(session.security),
            result if judged => result.clone(),
            _ => None,
        };
        if result.is_none() && session.security.policy_failure.is_none() {
            return;
        }
        let session = TlsSession {
            result,
            ..session.clone()
        };
        let mut books = self.lock();
        books.count(now, &session);
        if Observed::concerns(&session) {
            books.observe(now, &session);
        }
    }

    /// What was observed, by domain.
    pub(crate) fn observed(&self, now: Timestamp) -> Vec<ObservedDomain> {
        let books = self.lock();
        let current = books.observed.iter().filter(|(_, o)| !o.is_past(now));
        current.map(|(domain, o)| o.summary(domain, now)).collect()
    }

    /// Writes what has changed to the cache.
    pub(crate) fn save(&self) {
        let Some(cache) = &self.cache else {
            return;
        };
        let (counts, observed) = {
            let mut books = self.lock();
            let keys = std::mem::take(&mut books.changed_counts);
            let counts: Vec<_> = keys
                .into_iter()
                .filter_map(|key| Some((name(&key), books.counts.get(&key)?.encode())))
                .collect();
            let domains = std::mem::take(&mut books.changed_observed);
            let observed: Vec<_> = domains
                .into_iter()
                .filter_map(|domain| {
                    let octets = serde_json::to_vec(books.observed.get(&domain)?).ok()?;
                    Some((domain, octets))
                })
                .collect();
            (counts, observed)
        };
        for (key, octets) in counts {
            cache.put(REPORTS, &key, &octets);
        }
        for (domain, octets) in observed {
            cache.put(OBSERVATIONS, &domain, &octets);
        }
    }

    /// The domains and days whose day has ended.
    pub(crate) fn ended(&self, now: Timestamp) -> Vec<(Day, String)> {
        let today = Day::of(now);
        let books = self.lock();
        let ended = books.counts.keys().filter(|(day, _)| *day < today);
        ended.cloned().collect()
    }

    /// The figures of a domain, for its report, which is about to be sent: that it is, is written
    /// down first, so that no crash makes one go out more than twice. `None`: it has been, or may
    /// have been, sent twice, or there is nothing to tell.
    pub(crate) fn begin_report(&self, day: Day, domain: &str) -> Option<Counts> {
        let key = (day, domain.to_owned());
        let counts = {
            let mut books = self.lock();
            let counts = books.counts.get_mut(&key)?;
            if counts.begun >= 2 {
                return None;
            }
            counts.begun += 1;
            counts.clone()
        };
        if let Some(cache) = &self.cache {
            cache.put(REPORTS, &name(&key), &counts.encode());
        }
        Some(counts)
    }

    /// Forgets the figures of a domain: the report is sent, or will never be.
    pub(crate) fn end_report(&self, day: Day, domain: &str) {
        let key = (day, domain.to_owned());
        {
            let mut books = self.lock();
            books.counts.remove(&key);
            books.changed_counts.remove(&key);
        }
        if let Some(cache) = &self.cache {
            cache.remove(REPORTS, &name(&key));
        }
    }

    /// Drops what is too old.
    pub(crate) fn forget(&self, now: Timestamp) {
        let today = Day::of(now);
        let old: Vec<_> = self
            .ended(now)
            .into_iter()
            .filter(|(day, _)| day.0 + KEPT_DAYS < today.0)
            .collect();
        for (day, domain) in old {
            self.end_report(day, &domain);
        }
        let past: Vec<String> = {
            let mut books = self.lock();
            let past = books.observed.extract_if(.., |_, o| o.is_past(now));
            past.map(|(domain, _)| domain).collect()
        };
        if let Some(cache) = &self.cache {
            for domain in past {
                cache.remove(OBSERVATIONS, &domain);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn count(&mut self, now: Timestamp, session: &TlsSession<'_>) {
        let key = (Day::of(now), session.domain.to_owned());
        if !self.counts.contains_key(&key) && self.counts.len() >= COUNTED_MAX {
            if !self.full {
                self.full = true;
                warn!(
                    max = COUNTED_MAX,
                    "too many domains for TLS reports: no more are counted today"
                );
            }
            return;
        }
        self.full &= self.counts.len() >= COUNTED_MAX;
        self.counts.entry(key.clone()).or_default().add(session);
        self.changed_counts.insert(key);
    }

    fn observe(&mut self, now: Timestamp, session: &TlsSession<'_>) {
        let domain = session.domain;
        if !self.observed.contains_key(domain) && self.observed.len() >= OBSERVED_MAX {
            self.make_room();
        }
        self.observed
            .entry(domain.to_owned())
            .or_insert_with(|| Observed::new(now))
            .add(now, session);
        self.changed_observed.insert(domain.to_owned());
    }

    /// Drops a tenth, those seen least recently: one at a time would cost a search for each.
    fn make_room(&mut self) {
        let mut last: Vec<_> = self.observed.values().map(|o| o.last).collect();
        last.sort_unstable();
        let Some(&limit) = last.get(last.len() / 10) else {
            return;
        };
        let mut some = last.len() / 10 + 1;
        self.observed.retain(|_, o| {
            let goes = o.last <= limit && some > 0;
            some -= usize::from(goes);
            !goes
        });
        let observed = &self.observed;
        self.changed_observed.retain(|d| observed.contains_key(d));
    }
}

/// Sorts by day: the cache forgets what is oldest by itself, where it must.
fn name((day, domain): &Key) -> String {
    format!("{:08} {domain}", day.0)
}

fn parse(key: &str) -> Option<Key> {
    let (day, domain) = key.split_once(' ')?;
    Some((Day(day.parse().ok()?), domain.to_owned()))
}

fn keys(cache: &dyn Cache, space: &str, max: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    while all.len() < max {
        let page = cache.keys(space, all.last().map(String::as_str), PAGE);
        let ended = page.len() < PAGE;
        all.extend(page);
        if ended {
            break;
        }
    }
    all.truncate(max);
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    use postroad_mail::{CACHE_VALUE_MAX, EnhancedCode, Reply};
    use postroad_routing::{HostSecurity, PolicyKind};

    use crate::outbound::security::{FailureKind, SessionResult};
    use crate::outbound::tls_counts::DAY;

    /// A cache in memory.
    #[derive(Debug, Default)]
    pub(crate) struct Kept(Mutex<BTreeMap<(String, String), Vec<u8>>>);

    impl Kept {
        pub(crate) fn len(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    impl Cache for Kept {
        fn get(&self, space: &str, key: &str) -> Option<Vec<u8>> {
            let key = (space.to_owned(), key.to_owned());
            self.0.lock().unwrap().get(&key).cloned()
        }
        fn put(&self, space: &str, key: &str, value: &[u8]) {
            assert!(value.len() <= CACHE_VALUE_MAX);
            let key = (space.to_owned(), key.to_owned());
            self.0.lock().unwrap().insert(key, value.to_vec());
        }
        fn remove(&self, space: &str, key: &str) {
            let key = (space.to_owned(), key.to_owned());
            self.0.lock().unwrap().remove(&key);
        }
        fn keys(&self, space: &str, after: Option<&str>, max: usize) -> Vec<String> {
            let all = self.0.lock().unwrap();
            let mine = all.keys().filter(|(s, _)| s == space).map(|(_, k)| k);
            let keys = mine.filter(|k| after.is_none_or(|a| k.as_str() > a));
            keys.take(max).cloned().collect()
        }
    }

    pub(crate) fn session<'a>(
        domain: &'a str,
        security: &'a HostSecurity,
        result: Option<SessionResult>,
    ) -> TlsSession<'a> {
        TlsSession {
            domain,
            host: "mx.test",
            security,
            sending_ip: None,
            receiving_ip: Some("192.0.2.1".parse().unwrap()),
            result,
        }
    }

    pub(crate) fn expired() -> Option<SessionResult> {
        Some(SessionResult::Failure {
            kind: FailureKind::Expired,
            detail: "in \u{1b}[1m2020".to_owned(),
        })
    }

    pub(crate) fn sts() -> HostSecurity {
        HostSecurity {
            requirement: Requirement::Valid,
            policy: PolicyKind::Sts,
            policy_strings: vec!["version: STSv1".to_owned()],
            enforced: false,
            ..HostSecurity::none()
        }
    }

    const OK: Option<SessionResult> = Some(SessionResult::Success);

    pub(crate) fn noon() -> Timestamp {
        Timestamp::from_millis(20_000 * DAY + DAY / 2)
    }

    #[test]
    fn saved_and_read_again() {
        let cache = Arc::new(Kept::default());
        let books = TlsBooks::new(Arc::<Kept>::clone(&cache), noon());
        let none = HostSecurity::none();
        books.session(noon(), &session("a.test", &none, OK), true);
        books.session(noon(), &session("b.test", &sts(), expired()), true);
        books.save();
        cache.put(REPORTS, "nonsense", b"{}");
        cache.put(REPORTS, "00000001 x", b"nonsense");
        cache.put(OBSERVATIONS, "y", b"nonsense");
        let again = TlsBooks::new(Arc::<Kept>::clone(&cache), noon());
        assert_eq!(again.observed(noon()), books.observed(noon()));
        let tomorrow = noon() + Duration::from_millis(DAY);
        assert_eq!(again.ended(tomorrow), books.ended(tomorrow));
        assert_eq!(again.ended(tomorrow).len(), 2);
        assert!(again.ended(noon()).is_empty());
        assert_eq!(cache.len(), 3, "what makes no sense is dropped");
    }

    #[test]
    fn a_report_is_begun_twice_at_most() {
        let cache = Arc::new(Kept::default());
        let books = TlsBooks::new(Arc::<Kept>::clone(&cache), noon());
        books.session(noon(), &session("a.test", &sts(), OK), true);
        books.save();
        let day = Day::of(noon());
        // A crash after each: the next process knows what was begun.
        for begun in [true, true, false, false] {
            let books = TlsBooks::new(Arc::<Kept>::clone(&cache), noon());
            assert_eq!(books.begin_report(day, "a.test").is_some(), begun);
        }
        let books = TlsBooks::new(Arc::<Kept>::clone(&cache), noon());
        books.end_report(day, "a.test");
        assert!(books.begin_report(day, "a.test").is_none());
        assert!(cache.keys(REPORTS, None, 9).is_empty());
    }

    #[test]
    fn observed_by_domain() {
        let books = TlsBooks::default();
        let (none, sts) = (HostSecurity::none(), sts());
        let unusable = |policy, failure: Option<&str>| HostSecurity {
            requirement: Requirement::Unusable(Reply::row(
                451,
                EnhancedCode::transient(7, 5),
                "not in the policy",
            )),
            policy,
            policy_failure: failure.map(str::to_owned),
            reasons: vec!["why".to_owned()],
            enforced: false,
            ..HostSecurity::none()
        };
        let elsewhere = unusable(PolicyKind::Sts, None);
        let bogus = unusable(PolicyKind::Tlsa, Some("dnssec-invalid"));
        let unfetched = HostSecurity {
            policy_failure: Some("sts-policy-fetch-error".to_owned()),
            ..HostSecurity::none()
        };
        for (domain, security, result, judged) in [
            ("a.test", &sts, OK, true),
            ("a.test", &sts, OK, true),
            ("a.test", &sts, expired(), true),
            // The route asked for something else: that says nothing of the policy.
            ("a.test", &sts, expired(), false),
            ("a.test", &sts, None, true),
            // The host is called all the same, and that TLS works does not mend it.
            ("b.test", &elsewhere, OK, false),
            ("c.test", &bogus, OK, false),
            ("d.test", &unfetched, OK, true),
            ("none.test", &none, expired(), true),
        ] {
            books.session(noon(), &session(domain, security, result), judged);
        }
        let shown: Vec<_> = books
            .observed(noon())
            .into_iter()
            .map(|o| {
                let reason = o.last_reason.unwrap_or_default();
                let (ok, failed) = (o.sessions_ok, o.would_fail);
                format!("{} {} {ok}/{failed} {reason}", o.domain, o.policy)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "a.test sts 2/1 mx.test: certificate-expired: in \\u{1b}[1m2020",
                "b.test sts 0/1 mx.test: validation-failure: not in the policy",
                "c.test tlsa 0/1 dnssec-invalid: why",
                "d.test no-policy-found 1/0 sts-policy-fetch-error: ",
            ]
        );
        let later = noon() + Duration::from_millis(29 * DAY);
        books.session(later, &session("a.test", &sts, OK), true);
        let later = later + Duration::from_millis(DAY);
        books.forget(later);
        let left = books.observed(later);
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].sessions_ok, left[0].would_fail), (1, 0));
    }

    #[test]
    fn bounded_in_domains() {
        let books = TlsBooks::default();
        let security = sts();
        let more = COUNTED_MAX + 10;
        for n in 0..more {
            let at = noon() + Duration::from_millis(n as u64);
            books.session(at, &session(&format!("d{n}.test"), &security, OK), true);
        }
        // One that is counted does not make room: it is not said again for the next.
        let at = noon() + Duration::from_millis(more as u64);
        books.session(at, &session("d0.test", &security, OK), true);
        let inner = books.lock();
        assert!(inner.full);
        assert_eq!(inner.counts.len(), COUNTED_MAX);
        assert!(inner.observed.len() <= OBSERVED_MAX);
        let last = format!("d{}.test", more - 1);
        assert!(
            inner.observed.contains_key(&last),
            "who was seen last stays"
        );
        assert!(inner.observed.contains_key("d0.test"));
        assert!(!inner.observed.contains_key("d1.test"));
    }

    #[test]
    fn what_carries_reports_is_not_counted() {
        let mut origin = Origin::default();
        assert!(TlsBooks::counts(&origin));
        TLS_REPORT_SERVICE.clone_into(&mut origin.service);
        assert!(!TlsBooks::counts(&origin));
    }
}
