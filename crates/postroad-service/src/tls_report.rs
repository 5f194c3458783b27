//! How TLS went with destinations that have a policy, for `postroad tls report`.

use postroad_mail::Timestamp;
use postroad_mta::ObservedDomain;
use serde::{Deserialize, Serialize};

use crate::config::{Loaded, TlsPolicy};
use crate::queue::{self, QueueError};
use crate::service::{open_queue, standalone};

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSummary {
    /// What `delivery.tls_policy` says.
    pub tls_policy: TlsPolicy,
    /// Those met in the last 30 days, in order.
    pub domains: Vec<TlsDomain>,
}

/// How it went with the hosts of one domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsDomain {
    /// The domain.
    pub domain: String,
    /// `tlsa`, `sts`, or `no-policy-found` where the policy could not be had.
    pub policy: String,
    /// Whether it was in force when last seen.
    pub enforced: bool,
    /// Sessions that the policy has, or would have, let pass, in the last 30 days.
    pub sessions_ok: u64,
    /// Sessions that failed, or would have, and hosts that were not, or would not be, used.
    pub would_fail: u64,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reason: Option<String>,
    /// When the last session was.
    pub last: Timestamp,
}

impl TlsSummary {
    pub(crate) fn of(tls_policy: TlsPolicy, observed: Vec<ObservedDomain>) -> Self {
        let mut domains: Vec<_> = observed.into_iter().map(TlsDomain::of).collect();
        domains.sort_by(|a, b| a.domain.cmp(&b.domain));
        Self {
            tls_policy,
            domains,
        }
    }
}

impl TlsDomain {
    fn of(observed: ObservedDomain) -> Self {
        Self {
            domain: observed.domain,
            policy: observed.policy.to_owned(),
            enforced: observed.enforced,
            sessions_ok: observed.sessions_ok,
            would_fail: observed.would_fail,
            last_reason: observed.last_reason,
            last: observed.last,
        }
    }
}

/// Asks the running service, and where none runs, what it has kept with its queue.
///
/// # Errors
/// Where a service runs and does not answer, or the queue cannot be opened.
pub async fn ask(loaded: &Loaded) -> Result<TlsSummary, QueueError> {
    if let Some(socket) = queue::socket_of_running(&loaded.config).await? {
        return queue::get(&socket, "/tls/report").await;
    }
    queue::must_be_there(&loaded.config)?;
    let opened = open_queue(&loaded.config).await?;
    let report = standalone::tls_report(loaded, &opened.cache);
    opened.store.close().await?;
    Ok(report?)
}
