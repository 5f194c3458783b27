//! MTA-STS policies of domains (RFC 8461 sections 3.3 and 5): fetched, kept, refreshed.
//!
//! | the TXT record | the policy kept | what follows |
//! |---|---|---|
//! | same id | in force | it is used |
//! | none, or it cannot be had | in force | it is used |
//! | another id | in force, or none | a new one is fetched; where that fails, the old one is used |
//! | none, or it cannot be had | none | there is no policy |
//!
//! What fails is not tried again for [`FETCH_AGAIN`].

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{FutureExt as _, Shared};
use futures_util::stream::{self, StreamExt as _};
use postroad_mail::{Cache, Domain, Timestamp};

use crate::dns::{DnsResolver, NoAnswer};
use crate::route::BoxFuture;
use crate::sts::{StsMode, StsPolicy, StsPolicyError, StsRecord};

/// How long a delivery waits for a policy to be fetched. Who is slower than this gets its policy
/// fetched in the background, and has none until then.
pub const STS_PATIENCE: Duration = Duration::from_secs(15);
/// How long a fetch in the background may take (RFC 8461 section 3.3 suggests a minute).
pub const STS_FETCH_MAX: Duration = Duration::from_secs(60);
/// How long after a fetch that failed the next one is made (RFC 8461 section 3.3: five minutes).
pub const FETCH_AGAIN: Duration = Duration::from_secs(300);
/// Domains of failed fetches that are remembered, at most.
const FAILURES_MAX: usize = 10_000;
/// Policies that are refreshed at the same time.
const REFRESH_AT_ONCE: usize = 4;
/// Policies that one round of refreshing fetches, at most.
const REFRESH_MAX: usize = 64;
/// How long a policy that has never been had is asked for in the background.
const FETCH_TRIED_MAX: Duration = Duration::from_secs(24 * 3600);
/// Keys that are asked for at a time.
const PAGE: usize = 500;
/// A policy that was not used for so long is not refreshed, and ends.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How precisely it is known when it was last used.
const USED_STEP: Duration = Duration::from_secs(24 * 3600);
/// A policy is not refreshed more often, however short its lifetime is.
const REFRESH_MIN: Duration = Duration::from_secs(3600);
/// Where policies are in the cache.
const SPACE: &str = "mta-sts";
/// The version of what is kept there.
const VERSION: &str = "1";

/// What the time is.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Looks TXT records up.
pub trait TxtLookup: Send + Sync + 'static {
    /// The records of a name, the strings of each put together.
    ///
    /// # Errors
    /// Where there are none, or it cannot be known.
    fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<String>, NoAnswer>>;
}

impl TxtLookup for DnsResolver {
    fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<String>, NoAnswer>> {
        Box::pin(Self::txt(self, name))
    }
}

/// Fetches policies over HTTPS.
pub trait StsFetch: Send + Sync + 'static {
    /// Gets `https://mta-sts.<domain>/.well-known/mta-sts.txt`, within a time: the certificate is
    /// checked, no redirect is followed, no cache is asked, at most
    /// [`STS_POLICY_MAX`](crate::STS_POLICY_MAX) octets are read (RFC 8461 section 3.3).
    ///
    /// # Errors
    /// Why there is no policy.
    fn fetch<'a>(
        &'a self,
        domain: &'a Domain,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, StsFetchError>>;
}

/// Why a policy was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StsFetchError {
    /// No connection, no answer in time, or no HTTP.
    #[error("the policy host cannot be reached: {0}")]
    Unreachable(String),
    /// Its certificate is not valid.
    #[error("the policy host's certificate is not valid: {0}")]
    Certificate(String),
    /// Not status 200: also a redirect, which must not be followed.
    #[error("the policy host answers with status {0}")]
    Status(u16),
    /// Not text/plain.
    #[error("the policy is of type `{0}`, not text/plain")]
    ContentType(String),
    /// What came is no policy.
    #[error(transparent)]
    Policy(#[from] StsPolicyError),
}

impl StsFetchError {
    /// The result type in TLS reports (RFC 8460 section 4.3.2.2).
    #[must_use]
    pub const fn result_type(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Status(_) => "sts-policy-fetch-error",
            Self::Certificate(_) => "sts-webpki-invalid",
            Self::ContentType(_) | Self::Policy(_) => "sts-policy-invalid",
        }
    }
}

/// What is known of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StsAnswer {
    /// The policy in force; one of mode `none` counts as none.
    pub(crate) policy: Option<StsPolicy>,
    /// Why a newer one could not be had.
    pub(crate) failure: Option<StsFetchError>,
    /// Why it is not known whether there is a newer one.
    pub(crate) doubt: Option<String>,
}

/// A policy as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    fetched: Timestamp,
    used: Timestamp,
    id: String,
    policy: StsPolicy,
}

impl Kept {
    fn encode(&self) -> Vec<u8> {
        let (fetched, used) = (self.fetched.as_millis(), self.used.as_millis());
        let text = self.policy.to_text();
        format!("{VERSION} {fetched} {used} {}\n{text}", self.id).into_bytes()
    }

    fn decode(octets: &[u8]) -> Option<Self> {
        let (line, policy) = std::str::from_utf8(octets).ok()?.split_once('\n')?;
        let mut fields = line.split(' ');
        let valid = fields.next()? == VERSION;
        let mut time = || Some(Timestamp::from_millis(fields.next()?.parse().ok()?));
        let (fetched, used) = (time()?, time()?);
        let id = fields.next()?.to_owned();
        let policy = StsPolicy::parse(policy.as_bytes()).ok()?;
        valid.then_some(Self {
            fetched,
            used,
            id,
            policy,
        })
    }

    fn is_past(&self, now: Timestamp) -> bool {
        // A clock that was wrong once must not keep a policy for ever.
        now.since(self.fetched) >= self.policy.max_age
            || self.fetched.since(now) > Duration::from_secs(24 * 3600)
    }

    fn is_half_past(&self, now: Timestamp) -> bool {
        now.since(self.fetched) >= (self.policy.max_age / 2).max(REFRESH_MIN)
    }
}

/// For fuzzing: whatever a cache gives back, reading it ends, and what is taken for a policy is
/// one.
///
/// # Panics
/// Where that does not hold.
pub fn fuzz_sts_kept(octets: &[u8]) {
    if let Some(kept) = Kept::decode(octets) {
        assert_eq!(
            Kept::decode(&kept.encode()).as_ref(),
            Some(&kept),
            "it is read as it was written"
        );
    }
}

/// A fetch that failed.
#[derive(Clone, Debug)]
struct Failure {
    id: String,
    /// When it failed for the first time in a row.
    first: Timestamp,
    at: Timestamp,
    error: StsFetchError,
}

type Fetching = Shared<BoxFuture<'static, Result<StsPolicy, StsFetchError>>>;

/// The policies of all domains.
pub struct StsPolicies {
    txt: Arc<dyn TxtLookup>,
    fetch: Arc<dyn StsFetch>,
    cache: Arc<dyn Cache>,
    now: Now,
    failures: Mutex<HashMap<String, Failure>>,
    /// What is being fetched, by domain and id: once for all who wait for it. Who has seen a newer
    /// id needs what was asked for after that.
    fetching: Mutex<HashMap<(String, String), Fetching>>,
    /// The key up to which the last round of refreshing came, where it did not come to the end: so
    /// that those whose policies cannot be had never keep it from the others.
    reached: Mutex<Option<String>>,
}

impl fmt::Debug for StsPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StsPolicies")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl StsPolicies {
    /// Policies that are kept in `cache`, in the space `mta-sts`.
    #[must_use]
    pub fn new(
        txt: Arc<dyn TxtLookup>,
        fetch: Arc<dyn StsFetch>,
        cache: Arc<dyn Cache>,
        now: Now,
    ) -> Self {
        Self {
            txt,
            fetch,
            cache,
            now,
            failures: Mutex::default(),
            fetching: Mutex::default(),
            reached: Mutex::default(),
        }
    }

    /// The policy of a domain.
    pub(crate) async fn policy(&self, domain: &Domain) -> StsAnswer {
        if domain.is_literal() {
            return StsAnswer::default();
        }
        let record = self.record(domain).await;
        let kept = self.kept(domain);
        let record = match record {
            Ok(Some(record)) => record,
            Ok(None) => return self.known(domain, kept, None),
            Err(doubt) => {
                return StsAnswer {
                    doubt: Some(doubt),
                    ..self.known(domain, kept, None)
                };
            }
        };
        if kept.as_ref().is_some_and(|kept| kept.id == record.id) {
            return self.known(domain, kept, None);
        }
        if let Some(failure) = self.failure(domain, &record.id) {
            return self.known(domain, kept, Some(failure));
        }
        match self.fetched(domain, record.id, STS_PATIENCE).await {
            Ok(kept) => self.known(domain, Some(kept), None),
            Err(error) => self.known(domain, kept, Some(error)),
        }
    }

    fn known(
        &self,
        domain: &Domain,
        kept: Option<Kept>,
        failure: Option<StsFetchError>,
    ) -> StsAnswer {
        let now = (self.now)();
        if let Some(kept) = &kept
            && now.since(kept.used) >= USED_STEP
        {
            let used = Kept {
                used: now,
                ..kept.clone()
            };
            self.cache.put(SPACE, domain.ascii(), &used.encode());
        }
        let policy = kept.map(|kept| kept.policy);
        StsAnswer {
            policy: policy.filter(|policy| policy.mode != StsMode::None),
            failure,
            doubt: None,
        }
    }

    /// The record, where there is one; or why that is not known.
    async fn record(&self, domain: &Domain) -> Result<Option<StsRecord>, String> {
        let name = format!("_mta-sts.{}", domain.ascii());
        match self.txt.txt(&name).await {
            Ok(records) => Ok(StsRecord::find(&records)),
            Err(NoAnswer::NoName | NoAnswer::NoData) => Ok(None),
            Err(NoAnswer::Failed(detail)) => Err(detail),
        }
    }

    fn kept(&self, domain: &Domain) -> Option<Kept> {
        let octets = self.cache.get(SPACE, domain.ascii())?;
        let kept = Kept::decode(&octets)?;
        (!kept.is_past((self.now)())).then_some(kept)
    }

    /// Why it was not fetched a moment ago.
    fn failure(&self, domain: &Domain, id: &str) -> Option<StsFetchError> {
        let now = (self.now)();
        let failures = lock(&self.failures);
        let failure = failures.get(domain.ascii())?;
        let holds = failure.id == id && now.since(failure.at) < FETCH_AGAIN;
        holds.then(|| failure.error.clone())
    }

    /// Fetches, and keeps what comes.
    async fn fetched(
        &self,
        domain: &Domain,
        id: String,
        within: Duration,
    ) -> Result<Kept, StsFetchError> {
        let name = domain.ascii();
        let key = (name.to_owned(), id.clone());
        let fetching = {
            let mut all = lock(&self.fetching);
            // Where all who waited have gone away it stands still, and its time has run on.
            if all.get(&key).is_some_and(is_left) {
                all.remove(&key);
            }
            let begin = || begin(Arc::clone(&self.fetch), domain.clone(), within);
            all.entry(key.clone()).or_insert_with(begin).clone()
        };
        let result = fetching.clone().await;
        {
            let mut all = lock(&self.fetching);
            if all.get(&key).is_some_and(|other| other.ptr_eq(&fetching)) {
                all.remove(&key);
            }
        }
        let now = (self.now)();
        match result {
            Ok(policy) => {
                let kept = Kept {
                    fetched: now,
                    used: now,
                    id,
                    policy,
                };
                self.cache.put(SPACE, name, &kept.encode());
                lock(&self.failures).remove(name);
                Ok(kept)
            }
            Err(error) => {
                self.failed(name, id, now, &error);
                Err(error)
            }
        }
    }

    fn failed(&self, name: &str, id: String, now: Timestamp, error: &StsFetchError) {
        let mut failures = lock(&self.failures);
        if !failures.contains_key(name) && failures.len() >= FAILURES_MAX {
            failures.retain(|_, failure| now.since(failure.at) < FETCH_AGAIN);
        }
        if failures.len() < FAILURES_MAX || failures.contains_key(name) {
            let first = failures.get(name).map_or(now, |before| before.first);
            let failure = Failure {
                id,
                first,
                at: now,
                error: error.clone(),
            };
            failures.insert(name.to_owned(), failure);
        }
    }

    /// One round of what is done in the background: policies at half their lifetime are fetched
    /// again (RFC 8461 section 3.3), and those whose host was too slow for a delivery; what is past
    /// goes.
    pub async fn maintain(&self) {
        // What was being fetched for somebody who has gone away.
        lock(&self.fetching).retain(|_, fetching| !is_left(fetching));
        let due = self.due();
        stream::iter(due)
            .for_each_concurrent(REFRESH_AT_ONCE, |domain| async move {
                self.refresh(&domain).await;
            })
            .await;
    }

    fn due(&self) -> Vec<Domain> {
        let now = (self.now)();
        let mut due = self.slow(now);
        let begin = lock(&self.reached).take();
        let (mut after, mut is_second_turn) = (begin.clone(), begin.is_none());
        loop {
            let keys = self.cache.keys(SPACE, after.as_deref(), PAGE);
            if keys.is_empty() {
                if is_second_turn {
                    return due;
                }
                (after, is_second_turn) = (None, true);
                continue;
            }
            for key in keys {
                if begin
                    .as_ref()
                    .is_some_and(|begin| is_second_turn && key > *begin)
                {
                    return due;
                }
                if due.len() >= REFRESH_MAX {
                    *lock(&self.reached) = after;
                    return due;
                }
                due.extend(self.is_due(&key, now));
                after = Some(key);
            }
        }
    }

    /// Those whose policy has never been had, as their host was too slow; who waits longest first.
    fn slow(&self, now: Timestamp) -> Vec<Domain> {
        let mut failures = lock(&self.failures);
        failures.retain(|_, failure| {
            now.since(failure.first) < FETCH_TRIED_MAX || now.since(failure.at) < FETCH_AGAIN
        });
        let mut slow: Vec<_> = failures
            .iter()
            .filter(|(_, failure)| {
                now.since(failure.at) >= FETCH_AGAIN
                    && matches!(failure.error, StsFetchError::Unreachable(_))
            })
            .collect();
        slow.sort_by_key(|(_, failure)| failure.at);
        let domains = slow.into_iter().filter_map(|(name, _)| name.parse().ok());
        domains.take(REFRESH_MAX / 2).collect()
    }

    /// The domain of a key, where its policy is to be refreshed; what is past goes.
    fn is_due(&self, key: &str, now: Timestamp) -> Option<Domain> {
        let kept = self.cache.get(SPACE, key);
        let kept = kept.as_deref().and_then(Kept::decode);
        let (Some(kept), Ok(domain)) = (kept, key.parse::<Domain>()) else {
            self.cache.remove(SPACE, key);
            return None;
        };
        if kept.is_past(now) {
            self.cache.remove(SPACE, key);
            return None;
        }
        let is_due = kept.is_half_past(now)
            && now.since(kept.used) < UNUSED_MAX
            && self.failure(&domain, &kept.id).is_none();
        is_due.then_some(domain)
    }

    async fn refresh(&self, domain: &Domain) {
        let kept = self.kept(domain);
        let record = self.record(domain).await;
        // Where there is no record any more, the policy stays in force, and is still refreshed:
        // whoever suppresses the record must not end it (RFC 8461 section 10.2).
        let record = record.ok().flatten();
        let id = record.map(|r| r.id).or(kept.as_ref().map(|k| k.id.clone()));
        let Some(id) = id else {
            lock(&self.failures).remove(domain.ascii());
            return;
        };
        let fetched = self.fetched(domain, id, STS_FETCH_MAX).await;
        if let (Ok(new), Some(old)) = (fetched, kept) {
            // That it is refreshed does not mean that it is used.
            let new = Kept {
                used: old.used,
                ..new
            };
            self.cache.put(SPACE, domain.ascii(), &new.encode());
        }
    }
}

/// Whether nobody waits for it any more.
fn is_left(fetching: &Fetching) -> bool {
    fetching.strong_count().is_none_or(|count| count <= 1)
}

fn begin(fetch: Arc<dyn StsFetch>, domain: Domain, within: Duration) -> Fetching {
    let fetching: BoxFuture<'static, _> = Box::pin(async move {
        let octets = fetch.fetch(&domain, within).await?;
        Ok(StsPolicy::parse(&octets)?)
    });
    fetching.shared()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
