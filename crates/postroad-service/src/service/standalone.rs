//! What a service would do, asked where none runs.

use std::sync::Arc;

use postroad_mail::Cache;
use postroad_mta::Outbound;
use postroad_queue::MemStore;

use super::ServiceError;
use super::prepared::Prepared;
use super::store::memory_cache;
use crate::config::Loaded;
use crate::explain::{ExplainRequest, Explained, Explainer, Known};
use crate::tls_report::TlsSummary;

/// Nothing is put into its queue.
const NO_QUEUE: u64 = 0;

/// As the configuration alone has it: nothing is known of limits and dead hosts.
pub(crate) async fn explain(
    loaded: &Loaded,
    request: &ExplainRequest,
) -> Result<Explained, ServiceError> {
    let explainer = explainer(loaded, &memory_cache())?;
    Ok(explainer.explain(false, request).await)
}

/// What the cache of a stopped service has kept.
pub(crate) fn tls_report(
    loaded: &Loaded,
    cache: &Arc<dyn Cache>,
) -> Result<TlsSummary, ServiceError> {
    Ok(explainer(loaded, cache)?.tls_report())
}

fn explainer(loaded: &Loaded, cache: &Arc<dyn Cache>) -> Result<Explainer, ServiceError> {
    let prepared = Prepared::for_delivery(loaded)?;
    let security = prepared.policies(&loaded.config, cache);
    let known = Known::new(loaded, &prepared);
    let outbound = Outbound::new(
        prepared.roles.outbound,
        Arc::new(MemStore::new(NO_QUEUE)),
        prepared.routing.router,
        prepared.mx,
        prepared.connector,
    );
    let outbound = outbound
        .with_security(security)
        .with_cache(Arc::clone(cache));
    Ok(Explainer::new(Arc::new(outbound), known))
}
