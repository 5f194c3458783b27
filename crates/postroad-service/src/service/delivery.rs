//! Delivery, and who looks after it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postroad_intake::RoutePreview;
use postroad_mail::Cache;
use postroad_mta::{Outbound, OutboundConfig};
use postroad_queue::Store;
use postroad_queue::history::History;
use postroad_routing::{DnsResolver, SharedRouter};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Service;
use super::prepared::Prepared;
use super::security::Policies;
use crate::admin::Parts;
use crate::config::{Loaded, Roles};
use crate::explain::{Explainer, Known};
use crate::history;

/// What is kept on disk.
pub(super) struct Kept {
    pub(super) store: Arc<dyn Store>,
    pub(super) cache: Arc<dyn Cache>,
    pub(super) history: Arc<dyn History>,
}

/// Delivery with its policies.
pub(super) struct Delivery {
    outbound: Arc<Outbound>,
    explainer: Arc<Explainer>,
    /// Those in force.
    policies: ArcSwap<Policies>,
}

impl Delivery {
    pub(super) fn new(
        service: &Service,
        loaded: &Loaded,
        prepared: &Prepared,
        kept: &Kept,
    ) -> Self {
        let policies = prepared.policies(&loaded.config, &kept.cache);
        let outbound = Outbound::new(
            service.outbound(&prepared.roles),
            Arc::clone(&kept.store),
            service.routes(prepared.routing.router.clone()),
            Arc::<DnsResolver>::clone(&prepared.mx),
            prepared.connector.clone(),
        )
        .with_security(Arc::<Policies>::clone(&policies))
        .with_history(Arc::clone(&kept.history))
        .with_cache(Arc::clone(&kept.cache));
        outbound.reload_tls_reports(prepared.tls_reports());
        let outbound = Arc::new(outbound);
        let known = Known::new(loaded, prepared);
        Self {
            explainer: Arc::new(Explainer::new(Arc::clone(&outbound), known)),
            outbound,
            policies: ArcSwap::new(policies),
        }
    }

    /// What intake asks about routes.
    pub(super) fn routes(&self) -> Arc<dyn RoutePreview> {
        Arc::<Outbound>::clone(&self.outbound)
    }

    /// What operators ask.
    pub(super) fn parts(&self, loaded: &Loaded, kept: &Kept) -> Parts {
        Parts {
            store: Arc::clone(&kept.store),
            history: Arc::clone(&kept.history),
            kept: history::kept(&loaded.config),
            outbound: Some(Arc::clone(&self.outbound)),
            explainer: Some(Arc::clone(&self.explainer)),
        }
    }

    /// Nothing here can fail.
    pub(super) fn reload(
        &self,
        service: &Service,
        loaded: &Loaded,
        prepared: &Prepared,
        kept: &Kept,
    ) {
        let policies = prepared.policies(&loaded.config, &kept.cache);
        self.outbound.reload(
            service.outbound(&prepared.roles),
            service.routes(prepared.routing.router.clone()),
            Arc::<DnsResolver>::clone(&prepared.mx),
            prepared.connector.clone(),
        );
        self.outbound
            .reload_security(Arc::<Policies>::clone(&policies));
        self.outbound.reload_tls_reports(prepared.tls_reports());
        let known = Known::new(loaded, prepared);
        self.explainer.reload(known);
        tokio::spawn(Policies::report(Arc::clone(&policies)));
        self.policies.store(policies);
    }

    /// Delivers, and does for TLS what is to be done from time to time, until the stop.
    pub(super) fn run(&self, stopping: &CancellationToken, drain: Duration) -> [JoinHandle<()>; 2] {
        tokio::spawn(Policies::report(self.policies.load_full()));
        let delivering = Arc::clone(&self.outbound).run(stopping.clone(), drain);
        let (outbound, stopping) = (Arc::clone(&self.outbound), stopping.clone());
        let maintaining = async move { outbound.run_tls(stopping).await };
        [tokio::spawn(delivering), tokio::spawn(maintaining)]
    }
}

impl Service {
    fn routes(&self, configured: SharedRouter) -> SharedRouter {
        match &self.custom {
            Some(before) => before(configured),
            None => configured,
        }
    }

    fn outbound(&self, roles: &Roles) -> OutboundConfig {
        let mut config = roles.outbound.clone();
        config.maildir_observer.clone_from(&self.maildir_observer);
        config
    }
}
