use std::fmt;

/// A place for what is dear to find out again, and may be lost: MTA-STS policies, counters of TLS
/// reports, what is known of destinations. Whoever puts something in must do without it later.
///
/// Keys live in spaces (`mta-sts`, `tls-report`), so that none takes another's. An implementation
/// bounds each space, and forgets the oldest entries first.
pub trait Cache: Send + Sync + fmt::Debug + 'static {
    /// What was put there, if it is still known.
    fn get(&self, space: &str, key: &str) -> Option<Vec<u8>>;

    /// Keeps a value, of at most [`CACHE_VALUE_MAX`] octets; larger ones are not kept.
    fn put(&self, space: &str, key: &str, value: &[u8]);

    /// Forgets one.
    fn remove(&self, space: &str, key: &str);

    /// Keys of a space in order, behind `after`, at most `max`.
    fn keys(&self, space: &str, after: Option<&str>, max: usize) -> Vec<String>;
}

/// Octets of a value, at most.
pub const CACHE_VALUE_MAX: usize = 64 << 10;
