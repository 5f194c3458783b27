use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

type Wake = Arc<dyn Fn() + Send + Sync>;

/// Those who want to know when a job becomes due: for stores to keep.
#[derive(Default)]
pub struct Wakers(Mutex<Vec<Wake>>);

impl Wakers {
    /// One more wants to know.
    pub fn add(&self, wake: Wake) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(wake);
    }

    /// Tells all. Not to be called with a lock held.
    pub fn wake(&self) {
        let all = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for wake in all {
            wake();
        }
    }
}

impl fmt::Debug for Wakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wakers")
    }
}
