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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{authorities, load};
    use postroad_mail::ReversePath;

    async fn route(router: &SharedRouter, to: &str) -> Route {
        let (recipient, sender) = (to.parse().unwrap(), ReversePath::Null);
        let request = RouteRequest {
            recipient: &recipient,
            sender: &sender,
            user: None,
            network: None,
            size: 0,
        };
        router.route(&request).await.unwrap()
    }

    #[tokio::test]
    async fn routes_and_tables_in_order_and_no_login_by_mx() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        let text = "hostname = \"mx.test\"\n[[route]]\nrecipient = \"first@a.test\"\nvia = \"discard\"\n[[route]]\ntable = \"t.txt\"\nauth = { user = \"u\", password = \"p\" }\n[[route]]\nvia = \"reject 5.1.1 last\"\n";
        std::fs::write(&path, text).unwrap();
        let table = "*@a.test mx\n*@b.test smtp://h.test\nfirst@a.test mx\n";
        std::fs::write(directory.path().join("t.txt"), table).unwrap();
        let loaded = load(&path).unwrap();
        let roles = Roles::from_config(&loaded).unwrap();
        let connector = authorities(&loaded).unwrap();
        let router = Routing::open(&loaded, &roles, &connector).unwrap().router;
        let first = route(&router, "first@a.test").await;
        assert_eq!(first.destination, Destination::Discard);
        let by_mx = route(&router, "x@a.test").await;
        assert_eq!(by_mx.destination, Destination::Mx(None));
        assert!(by_mx.options.auth.is_none(), "{by_mx:?}");
        let by_host = route(&router, "x@b.test").await;
        assert_eq!(by_host.options.auth.as_ref().unwrap().user, "u");
        let chosen = by_host.chosen_by.as_str().unwrap();
        assert!(
            chosen.contains("c.toml:5, [[route]] 2, ") && chosen.contains("t.txt:2"),
            "{chosen}"
        );
        let last = route(&router, "x@c.test").await;
        assert!(matches!(last.destination, Destination::Reject(_)));
        assert!(last.chosen_by.as_str().unwrap().ends_with("[[route]] 3"));

        std::fs::write(directory.path().join("t.txt"), "*@a.test pigeon\n").unwrap();
        let problem = Routing::open(&loaded, &roles, &connector).unwrap_err();
        let problem = problem.to_string();
        assert!(
            problem.contains("c.toml:6: route.table: ") && problem.contains("t.txt:1: "),
            "{problem}"
        );
    }
}
