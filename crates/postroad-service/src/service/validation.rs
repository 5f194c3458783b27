//! Whether DNSSEC can be validated with the name servers that there are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postroad_mail::Cache;
use postroad_net::clock;
use postroad_routing::{BoxFuture, SecureDns, SecureError};
use tokio::sync::OnceCell;

/// After a failure it is tried again so much later.
const AGAIN: Duration = Duration::from_secs(60);
/// Where it is kept that it has worked.
const SPACE: &str = "dnssec";

/// What can be checked.
pub(super) trait Check: Send + Sync + 'static {
    /// Whether the root is secure.
    fn check(&self) -> BoxFuture<'_, Result<(), SecureError>>;
}

impl Check for SecureDns {
    fn check(&self) -> BoxFuture<'_, Result<(), SecureError>> {
        Box::pin(self.self_check())
    }
}

/// What is known of it. It is found out when it is first needed, once for all who need it, and
/// after a success not again.
pub(super) struct Validation {
    dns: Arc<dyn Check>,
    cache: Arc<dyn Cache>,
    /// Who is asked.
    asked: String,
    /// It has worked once: on this host, with these name servers.
    worked: AtomicBool,
    round: Mutex<Arc<Round>>,
}

struct Round {
    since: Instant,
    found: OnceCell<Result<(), SecureError>>,
}

impl Round {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            since: clock::instant(),
            found: OnceCell::new(),
        })
    }

    fn is_over(&self) -> bool {
        let failed = self.found.get().is_some_and(Result::is_err);
        failed && clock::instant().duration_since(self.since) >= AGAIN
    }
}

impl Validation {
    pub(super) fn new(dns: Arc<dyn Check>, cache: Arc<dyn Cache>, asked: &str) -> Self {
        let worked = cache.get(SPACE, asked).is_some();
        Self {
            dns,
            cache,
            asked: asked.to_owned(),
            worked: AtomicBool::new(worked),
            round: Mutex::new(Round::new()),
        }
    }

    /// Whether it has ever worked: then what fails is no lack of signatures.
    pub(super) fn counts(&self) -> bool {
        self.worked.load(Ordering::Relaxed)
    }

    /// Whether it works, as far as was found out last.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) async fn check(&self) -> Result<(), SecureError> {
        let round = {
            let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
            if round.is_over() {
                *round = Round::new();
            }
            Arc::clone(&round)
        };
        let found = round.found.get_or_init(|| self.dns.check()).await;
        if found.is_ok() && !self.worked.swap(true, Ordering::Relaxed) {
            self.cache.put(SPACE, &self.asked, b"1");
        }
        found.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::AtomicUsize;

    /// Fails so often, then works.
    struct Failing(usize, AtomicUsize);

    impl Check for Failing {
        fn check(&self) -> BoxFuture<'_, Result<(), SecureError>> {
            let nth = self.1.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                tokio::task::yield_now().await;
                if nth < self.0 {
                    return Err(SecureError::Failed("a test".to_owned()));
                }
                Ok(())
            })
        }
    }

    #[derive(Debug, Default)]
    struct Kept(Mutex<HashMap<String, Vec<u8>>>);

    impl Cache for Kept {
        fn get(&self, space: &str, key: &str) -> Option<Vec<u8>> {
            self.0
                .lock()
                .unwrap()
                .get(&format!("{space} {key}"))
                .cloned()
        }
        fn put(&self, space: &str, key: &str, value: &[u8]) {
            let key = format!("{space} {key}");
            self.0.lock().unwrap().insert(key, value.to_vec());
        }
        fn remove(&self, _: &str, _: &str) {}
        fn keys(&self, _: &str, _: Option<&str>, _: usize) -> Vec<String> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn found_out_once_and_kept() {
        let cache: Arc<dyn Cache> = Arc::new(Kept::default());
        let failing = Arc::new(Failing(1, AtomicUsize::new(0)));
        let new = |dns: &Arc<Failing>, asked| {
            Validation::new(Arc::<Failing>::clone(dns), Arc::clone(&cache), asked)
        };
        let validation = new(&failing, "a");
        let (one, two) = tokio::join!(validation.check(), validation.check());
        assert!(one.is_err() && two.is_err() && !validation.counts());
        assert!(validation.check().await.is_err());
        assert_eq!(
            failing.1.load(Ordering::Relaxed),
            1,
            "not asked again at once"
        );

        // The next process asks anew, and keeps what it has found.
        let validation = new(&failing, "a");
        assert!(!validation.counts());
        assert!(validation.check().await.is_ok() && validation.counts());
        let broken = Arc::new(Failing(9, AtomicUsize::new(0)));
        let validation = new(&broken, "a");
        assert!(validation.check().await.is_err() && validation.counts());
        // Other name servers are another matter.
        assert!(!new(&broken, "b").counts());
    }
}
