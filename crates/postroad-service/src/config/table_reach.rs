//! Whether tables can be opened, and answer: for `postroad check`.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use postroad_lookup::{LookupError, OpenError, SharedTable, TableKind, TableRule, TableSpec};
use postroad_mail::Address;
use rustls::ClientConfig;

use super::check::Findings;
use super::{Loaded, Roles, RouteStep, files};
use crate::causes::with_causes;

/// Tables that are asked at the same time.
const AT_ONCE: usize = 16;

pub(super) async fn look(loaded: &Loaded, roles: &Roles, findings: &mut Findings) {
    // What is wrong with the authorities is found elsewhere.
    let Ok(connector) = files::authorities(loaded) else {
        return;
    };
    let tls = connector.verifying_config();
    // An address that every mail server has.
    let key = postroad_lookup::address_key(&Address::postmaster_at(roles.hostname.clone()));
    let mut open = Vec::new();
    for (place, nth, opened) in all(roles, &tls) {
        match opened {
            Ok(Some(table)) => open.push((place, nth, table)),
            Ok(None) => {}
            Err(error) => findings.error(&loaded.problem(place, nth, with_causes(&error))),
        }
    }
    let mut answers = stream::iter(open)
        .map(|(place, nth, table)| {
            let key = &key;
            async move { (place, nth, table.lookup(key).await) }
        })
        .buffered(AT_ONCE);
    while let Some((place, nth, answer)) = answers.next().await {
        if let Err(error) = answer {
            let message = match &error {
                LookupError::Unavailable { .. } => format!("{error}: mail that needs it waits"),
                _ => format!("{error}; asked for `{key}`"),
            };
            findings.warning(&loaded.problem(place, nth, message));
        }
    }
}

type Opened = Result<Option<SharedTable>, OpenError>;

/// Each table with its key and its entry; those that are to be asked.
fn all<'a>(
    roles: &'a Roles,
    tls: &'a Arc<ClientConfig>,
) -> impl Iterator<Item = (&'static str, usize, Opened)> + 'a {
    let routes = roles.routes.iter().enumerate();
    let routes = routes.filter_map(|(nth, step)| match step {
        RouteStep::Rule(_) => None,
        RouteStep::Table { spec, .. } => Some(("route.table", nth, of_routes(spec, tls))),
    });
    let aliases = roles.aliases.iter().enumerate();
    routes.chain(aliases.map(|(nth, step)| {
        let table = step.spec.open_aliases(tls);
        ("alias.table", nth, table.map(Some))
    }))
}

fn of_routes(spec: &TableSpec, tls: &Arc<ClientConfig>) -> Opened {
    match spec.kind {
        TableKind::File { .. } => spec.open_router(tls, TableRule::default()).map(|_| None),
        _ => spec.open(tls).map(Some),
    }
}
