//! Password hashes: checked off the async threads, as many at a time as there are processors.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use postroad_proto::sasl::Secret;
use tokio::sync::Semaphore;

/// Checks that wait for a processor, at most; beyond, the client is asked to try later.
const WAITING_MAX: usize = 256;

/// A password cannot be hashed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("hashing a password: {0}")]
pub struct HashError(String);

/// The Argon2id hash of a password, with a salt of its own, as a PHC string.
///
/// # Errors
/// Where the system gives no randomness, or the password is longer than Argon2 takes.
pub fn hash_password(password: &str) -> Result<String, HashError> {
    let hash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|e| HashError(e.to_string()))?;
    Ok(hash.to_string())
}

/// Whether a string is a hash that can be checked.
pub(crate) fn is_hash(text: &str) -> bool {
    PasswordHash::new(text).is_ok_and(|hash| hash.algorithm.as_str().starts_with("argon2"))
}

/// Checks hashes, a bounded number at a time.
#[derive(Debug)]
pub(crate) struct Checker {
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

/// Too many checks wait.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many passwords are being checked")]
pub(crate) struct Overloaded;

impl Checker {
    pub(crate) fn new() -> Self {
        let processors =
            std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self {
            running: Arc::new(Semaphore::new(processors)),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    pub(crate) async fn check(&self, hash: String, secret: Secret) -> Result<bool, Overloaded> {
        let _place = self.waiting.try_acquire().map_err(|_| Overloaded)?;
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Overloaded)?;
        let checking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            PasswordHash::new(&hash).is_ok_and(|hash| {
                Argon2::default()
                    .verify_password(secret.expose().as_bytes(), &hash)
                    .is_ok()
            })
        });
        checking.await.map_err(|_| Overloaded)
    }
}
