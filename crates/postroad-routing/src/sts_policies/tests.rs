use super::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sts::STS_MAX_AGE_MAX;

#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Cache for Memory {
    fn get(&self, _: &str, key: &str) -> Option<Vec<u8>> {
        lock(&self.0).get(key).cloned()
    }
    fn put(&self, _: &str, key: &str, value: &[u8]) {
        lock(&self.0).insert(key.to_owned(), value.to_vec());
    }
    fn remove(&self, _: &str, key: &str) {
        lock(&self.0).remove(key);
    }
    fn keys(&self, _: &str, after: Option<&str>, max: usize) -> Vec<String> {
        let all = lock(&self.0);
        let keys = all.keys().filter(|k| after.is_none_or(|a| k.as_str() > a));
        keys.take(max).cloned().collect()
    }
}

/// A world in which each domain has the same record and policy.
struct World {
    record: Mutex<Result<Vec<String>, NoAnswer>>,
    policy: Mutex<Result<Vec<u8>, StsFetchError>>,
    fetched: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    now: Mutex<Timestamp>,
}

impl TxtLookup for Arc<World> {
    fn txt<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<String>, NoAnswer>> {
        Box::pin(std::future::ready(lock(&self.record).clone()))
    }
}

impl StsFetch for Arc<World> {
    fn fetch<'a>(
        &'a self,
        _: &'a Domain,
        _: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, StsFetchError>> {
        Box::pin(async move {
            self.fetched.fetch_add(1, Ordering::SeqCst);
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.at_once_max.fetch_max(now, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            lock(&self.policy).clone()
        })
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl World {
    fn new() -> Arc<Self> {
        let world = Self {
            record: Mutex::new(Err(NoAnswer::NoName)),
            policy: Mutex::new(Err(StsFetchError::Status(404))),
            fetched: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
            now: Mutex::new(Timestamp::from_millis(1_795_524_541_000)),
        };
        let world = Arc::new(world);
        world.publishes("1", "enforce");
        world
    }

    fn policies(self: &Arc<Self>, cache: &Arc<Memory>) -> StsPolicies {
        let world = Arc::clone(self);
        StsPolicies::new(
            Arc::new(Arc::clone(self)),
            Arc::new(Arc::clone(self)),
            Arc::<Memory>::clone(cache),
            Arc::new(move || *lock(&world.now)),
        )
    }

    fn record(&self, id: &str) {
        *lock(&self.record) = Ok(vec![format!("v=STSv1; id={id}")]);
    }

    fn publishes(&self, id: &str, mode: &str) {
        self.record(id);
        let text = format!("version: STSv1\nmode: {mode}\nmx: mx.test\nmax_age: 864000\n");
        *lock(&self.policy) = Ok(text.into_bytes());
    }

    fn fails(&self, error: StsFetchError) {
        *lock(&self.policy) = Err(error);
    }

    fn pass(&self, time: Duration) {
        let mut now = lock(&self.now);
        *now = *now + time;
    }

    fn fetched(&self) -> usize {
        self.fetched.load(Ordering::SeqCst)
    }
}

fn domain() -> Domain {
    "d.test".parse().unwrap()
}

fn mode(answer: &StsAnswer) -> Option<StsMode> {
    answer.policy.as_ref().map(|policy| policy.mode)
}

#[tokio::test]
async fn kept_over_a_restart_and_fetched_once_for_all_who_wait() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    let domain = domain();
    let asked = (0..20).map(|_| policies.policy(&domain));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(mode(&answer), Some(StsMode::Enforce));
    }
    assert_eq!(world.fetched(), 1);
    let again = world.policies(&cache);
    assert_eq!(mode(&again.policy(&domain).await), Some(StsMode::Enforce));
    assert_eq!(world.fetched(), 1);
    assert!(lock(&policies.fetching).is_empty());
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_any_more_is_begun_anew() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    let domain = domain();
    // Polled once, then given up.
    assert!(policies.policy(&domain).now_or_never().is_none());
    assert_eq!(world.fetched(), 1);
    let answer = policies.policy(&domain).await;
    assert_eq!(mode(&answer), Some(StsMode::Enforce));
    assert_eq!(world.fetched(), 2);
    assert!(lock(&policies.fetching).is_empty());
}

#[tokio::test]
async fn a_newer_id_does_not_get_what_was_asked_for_before() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    let domain = domain();
    let mut first = Box::pin(policies.policy(&domain));
    assert!(first.as_mut().now_or_never().is_none());
    world.record("2");
    let second = policies.policy(&domain).await;
    assert_eq!(mode(&second), Some(StsMode::Enforce));
    assert_eq!(world.fetched(), 2);
    first.await;
    assert!(lock(&policies.fetching).is_empty());
}

#[tokio::test]
async fn the_old_policy_holds_while_the_new_one_cannot_be_had() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    policies.policy(&domain()).await;
    world.record("2");
    for error in [
        StsFetchError::Unreachable("x".to_owned()),
        StsFetchError::Certificate("x".to_owned()),
        StsFetchError::Status(500),
        StsFetchError::ContentType("x/y".to_owned()),
    ] {
        world.fails(error.clone());
        let before = world.fetched();
        for _ in 0..3 {
            let answer = policies.policy(&domain()).await;
            assert_eq!(mode(&answer), Some(StsMode::Enforce));
            assert_eq!(answer.failure.as_ref(), Some(&error));
        }
        assert_eq!(world.fetched(), before + 1);
        world.pass(FETCH_AGAIN);
    }
    *lock(&world.policy) = Ok(b"nonsense".to_vec());
    let answer = policies.policy(&domain()).await;
    let failure = answer.failure.unwrap();
    assert_eq!(failure.result_type(), "sts-policy-invalid");
    // Another id is another policy: it is tried at once.
    world.publishes("3", "testing");
    let answer = policies.policy(&domain()).await;
    assert_eq!(mode(&answer), Some(StsMode::Testing));
    assert_eq!(answer.failure, None);
    // Until its time is up, whatever DNS says.
    world.fails(StsFetchError::Status(500));
    *lock(&world.record) = Err(NoAnswer::Failed("SERVFAIL".to_owned()));
    world.pass(DAY * 9);
    assert!(policies.policy(&domain()).await.policy.is_some());
    world.pass(DAY);
    let answer = policies.policy(&domain()).await;
    assert_eq!(answer.doubt.as_deref(), Some("SERVFAIL"));
    assert!(answer.policy.is_none() && answer.failure.is_none());
}

#[tokio::test]
async fn none_removes() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    assert!(policies.policy(&domain()).await.policy.is_some());
    world.publishes("2", "none");
    assert_eq!(policies.policy(&domain()).await, StsAnswer::default());
    let literal = "[192.0.2.1]".parse().unwrap();
    assert_eq!(policies.policy(&literal).await, StsAnswer::default());
    assert_eq!(world.fetched(), 2);
}

#[tokio::test]
async fn refreshed_at_half_its_time() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    policies.policy(&domain()).await;
    world.pass(DAY * 4);
    policies.maintain().await;
    assert_eq!(world.fetched(), 1, "not yet");
    world.pass(DAY);
    // Whoever hides the record does not keep it from being refreshed.
    *lock(&world.record) = Err(NoAnswer::NoData);
    policies.maintain().await;
    policies.maintain().await;
    assert_eq!(world.fetched(), 2, "once");
    world.pass(DAY * 9);
    assert!(policies.policy(&domain()).await.policy.is_some());
    // What fails is left alone for a moment, and tried again.
    world.fails(StsFetchError::Status(500));
    policies.maintain().await;
    policies.maintain().await;
    assert_eq!(world.fetched(), 3);
    world.pass(FETCH_AGAIN);
    policies.maintain().await;
    assert_eq!(world.fetched(), 4);
    world.pass(DAY);
    policies.maintain().await;
    assert!(lock(&cache.0).is_empty(), "what is past goes");
}

#[tokio::test]
async fn what_nobody_uses_is_not_refreshed() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    policies.policy(&domain()).await;
    let mut refreshed = 0;
    for _ in 0..20 {
        world.pass(DAY * 5);
        policies.maintain().await;
        refreshed = world.fetched() - 1;
    }
    assert_eq!(refreshed, 5, "for thirty days");
    assert!(lock(&cache.0).is_empty());
}

#[tokio::test]
async fn refreshing_is_bounded() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    for n in 0..(REFRESH_MAX + 20) {
        let domain = format!("d{n}.test").parse().unwrap();
        policies.policy(&domain).await;
    }
    cache.put(SPACE, "nonsense.test", b"x");
    let before = world.fetched();
    world.at_once_max.store(0, Ordering::SeqCst);
    world.pass(DAY * 5);
    policies.maintain().await;
    assert_eq!(world.fetched() - before, REFRESH_MAX);
    assert_eq!(world.at_once_max.load(Ordering::SeqCst), REFRESH_AT_ONCE);
    policies.maintain().await;
    assert_eq!(world.fetched() - before, REFRESH_MAX + 20);
    assert_eq!(lock(&cache.0).len(), REFRESH_MAX + 20);
}

/// Those whose policy cannot be had do not keep it from the others.
#[tokio::test]
async fn all_have_their_turn() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    let all = 2 * REFRESH_MAX + 10;
    for n in 0..all {
        policies
            .policy(&format!("d{n}.test").parse().unwrap())
            .await;
    }
    world.fails(StsFetchError::Certificate("expired".to_owned()));
    world.pass(DAY * 5);
    for round in 1..=3 {
        policies.maintain().await;
        let tried = lock(&policies.failures).len();
        assert_eq!(tried, all.min(round * REFRESH_MAX));
        // By then those that failed are due again.
        world.pass(FETCH_AGAIN);
    }
    // The last round has begun with the first again.
    assert_eq!(world.fetched(), all + 3 * REFRESH_MAX);
}

/// A host that never answers is not asked for ever.
#[tokio::test]
async fn a_host_that_is_gone_is_forgotten() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    world.fails(StsFetchError::Unreachable("no answer".to_owned()));
    policies.policy(&domain()).await;
    let hour = Duration::from_secs(3600);
    for _ in 0..48 {
        world.pass(hour);
        policies.maintain().await;
    }
    assert_eq!(world.fetched(), 24, "for a day");
    assert!(lock(&policies.failures).is_empty());
    policies.policy(&domain()).await;
    assert_eq!(world.fetched(), 25, "whoever sends mail there asks again");
}

/// A policy host too slow for a delivery gets its time in the background.
#[tokio::test]
async fn the_slow_are_fetched_in_the_background() {
    let (world, cache) = (World::new(), Arc::new(Memory::default()));
    let policies = world.policies(&cache);
    let fetchable = lock(&world.policy).clone();
    world.fails(StsFetchError::Unreachable(
        "no answer within 15s".to_owned(),
    ));
    let answer = policies.policy(&domain()).await;
    assert!(answer.policy.is_none() && answer.failure.is_some());
    *lock(&world.policy) = fetchable;
    world.pass(FETCH_AGAIN);
    policies.maintain().await;
    let before = world.fetched();
    assert!(policies.policy(&domain()).await.policy.is_some());
    assert_eq!(world.fetched(), before);
}

#[test]
fn a_clock_that_was_wrong_does_not_keep_a_policy() {
    let now = Timestamp::from_millis(1_795_524_541_000);
    let kept = Kept {
        fetched: now + DAY * 400,
        used: now,
        id: "1".to_owned(),
        policy: StsPolicy {
            mode: StsMode::Enforce,
            mx: vec!["a.test".to_owned()],
            max_age: STS_MAX_AGE_MAX,
        },
    };
    assert!(kept.is_past(now));
    assert!(!kept.is_past(now + DAY * 400));
}

proptest::proptest! {
    #[test]
    fn kept_octets(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        fuzz_sts_kept(&octets);
    }

    #[test]
    fn nearly_kept(line in "1 [0-9]{1,20} [0-9]{1,20} [a-z0-9]{0,33}", rest in "(version: STSv1\n)?(mode: none\n)?(max_age: [0-9]{0,11}\n)?") {
        fuzz_sts_kept(format!("{line}\n{rest}").as_bytes());
    }
}
