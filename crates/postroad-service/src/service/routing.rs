//! The routes and aliases of a configuration, their tables open.

use postroad_lookup::{AliasTable, Aliases, TableRouter, TableRule};
use postroad_net::client::Connector;
use postroad_routing::{
    Destination, Route, RouteError, RouteRequest, Router, SharedRouter, StaticRouter,
};

use crate::causes::with_causes;
use crate::config::{Loaded, Problem, Roles, RouteStep};

/// Where mail goes, and what addresses stand for.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    pub(crate) router: SharedRouter,
    pub(crate) aliases: Aliases,
}

impl Routing {
    /// Opens the tables. Files are read; servers are not called before the first question.
    ///
    /// # Errors
    /// The first table that can never work, with its place.
    pub(crate) fn open(
        loaded: &Loaded,
        roles: &Roles,
        connector: &Connector,
    ) -> Result<Self, Problem> {
        Ok(Self {
            router: router(loaded, roles, connector)?,
            aliases: aliases(loaded, roles, connector)?,
        })
    }
}

/// The routes, chained in their order: those with `via` that follow each other are one router.
fn router(loaded: &Loaded, roles: &Roles, connector: &Connector) -> Result<SharedRouter, Problem> {
    let tls = connector.verifying_config();
    let mut router = SharedRouter::default();
    let mut rules = Vec::new();
    for (nth, step) in roles.routes.iter().enumerate() {
        let (only, spec) = match step {
            RouteStep::Rule(rule) => {
                rules.push(rule.clone());
                continue;
            }
            RouteStep::Table { only, spec } => (only, spec),
        };
        if !rules.is_empty() {
            router = router.or(StaticRouter::new(std::mem::take(&mut rules)));
        }
        let rule = TableRule {
            recipient: only.recipient.clone(),
            sender: only.sender.clone(),
            user: only.user.clone(),
            network: only.network,
            options: only.options.clone(),
            place: only.chosen_by.as_str().unwrap_or_default().to_owned(),
        };
        let table = spec.open_router(&tls, rule);
        let table = table.map_err(|e| loaded.problem("route.table", nth, with_causes(&e)))?;
        router = router.or(LoginAtHosts(table));
    }
    Ok(router.or(StaticRouter::new(rules)))
}

fn aliases(loaded: &Loaded, roles: &Roles, connector: &Connector) -> Result<Aliases, Problem> {
    let tls = connector.verifying_config();
    let mut tables = Vec::new();
    for (nth, step) in roles.aliases.iter().enumerate() {
        let table = step.spec.open_aliases(&tls);
        let table = table.map_err(|e| loaded.problem("alias.table", nth, with_causes(&e)))?;
        tables.push(AliasTable {
            table,
            domains: step.domains.clone(),
        });
    }
    Ok(Aliases::new(tables))
}

/// A table may lead by MX, too: whoever an MX record names must not be told a password.
#[derive(Debug)]
struct LoginAtHosts(TableRouter);

impl Router for LoginAtHosts {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        let mut route = self.0.route(request).await?;
        if let Some(route) = &mut route
            && !matches!(route.destination, Destination::Hops(_))
        {
            route.options.auth = None;
        }
        Ok(route)
    }
}
