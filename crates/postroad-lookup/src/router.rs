//! Routes from a table.

use ipnet::IpNet;
use postroad_mail::Address;
use postroad_routing::{
    ChosenBy, Pattern, Route, RouteError, RouteOptions, RouteRequest, RouteRule, Router,
    StaticRouter, Via,
};

use crate::key::address_key;
use crate::route_file::{RouteFile, parents, via};
use crate::table::SharedTable;

/// Domains above the recipient's that a table is asked for, at most: those nearest to the root.
pub const PARENTS_MAX: usize = 10;

/// What all routes of a table have in common.
#[derive(Clone, Debug, Default)]
pub struct TableRule {
    /// Only recipients like this are looked up.
    pub recipient: Option<Pattern>,
    /// Only for reverse-paths like this.
    pub sender: Option<Pattern>,
    /// Only for this authenticated user.
    pub user: Option<String>,
    /// Only for clients of this network.
    pub network: Option<IpNet>,
    /// How mail goes.
    pub options: RouteOptions,
    /// Where the rule stands, as in `postroad.toml:41, [[route]] 2`.
    pub place: String,
}

/// Where the routes are.
#[derive(Debug)]
pub enum RouteTable {
    /// In a file with patterns: its first line that matches counts.
    File(RouteFile),
    /// In a table of keys. It is asked for `user@domain`, `domain`, `*.parent` from the nearest to
    /// the furthest, and `*`, as far as needed; see [`address_key`] for the form.
    Keys(SharedTable),
}

/// A router that looks up where mail goes.
///
/// A table that cannot say makes the recipient wait: never does it fall through to the next route.
#[derive(Debug)]
pub struct TableRouter {
    table: RouteTable,
    /// Says yes to what the table is asked about.
    when: StaticRouter,
    options: RouteOptions,
    place: String,
}

impl TableRouter {
    /// The routes of a table.
    #[must_use]
    pub fn new(table: RouteTable, rule: TableRule) -> Self {
        let when = RouteRule {
            recipient: rule.recipient,
            sender: rule.sender,
            user: rule.user,
            network: rule.network,
            ..RouteRule::new(Via::Mx)
        };
        Self {
            table,
            when: StaticRouter::new(vec![when]),
            options: rule.options,
            place: rule.place,
        }
    }

    /// What the table says: a via, and what chose it.
    async fn found(&self, recipient: &Address) -> Result<Option<(Via, String)>, String> {
        let place = &self.place;
        match &self.table {
            RouteTable::File(file) => Ok(file.line(recipient).map(|line| {
                let path = file.path().display();
                let (number, pattern) = (line.number, line.pattern);
                (
                    line.via,
                    format!("{place}, {path}:{number}: key `{pattern}`"),
                )
            })),
            RouteTable::Keys(table) => {
                for key in keys(recipient) {
                    let values = table.lookup(&key).await;
                    let Some(values) = values.map_err(|error| error.to_string())? else {
                        continue;
                    };
                    let chosen_by = format!("{place}, {}: key `{key}`", table.name());
                    return match via(&values) {
                        Ok(via) => Ok(Some((via, chosen_by))),
                        Err(error) => {
                            let error = postroad_mail::escape_peer_text(&error.to_string());
                            Err(format!("{chosen_by}: {error}"))
                        }
                    };
                }
                Ok(None)
            }
        }
    }
}

/// What a table is asked for, in order.
fn keys(recipient: &Address) -> impl Iterator<Item = String> {
    let domain = recipient.domain();
    let first = [address_key(recipient), domain.ascii().to_owned()];
    let far = parents(domain).count().saturating_sub(PARENTS_MAX);
    let parents = parents(domain)
        .skip(far)
        .map(|parent| format!("*.{parent}"));
    first.into_iter().chain(parents).chain(["*".to_owned()])
}

impl Router for TableRouter {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        if self.when.route(request).await?.is_none() {
            return Ok(None);
        }
        let found = self.found(request.recipient).await;
        let Some((via, chosen_by)) = found.map_err(|detail| RouteError {
            recipient: request.recipient.to_string(),
            detail,
        })?
        else {
            return Ok(None);
        };
        let rule = RouteRule {
            options: self.options.clone(),
            chosen_by: ChosenBy::new(&chosen_by),
            ..RouteRule::new(via)
        };
        StaticRouter::new(vec![rule]).route(request).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use postroad_mail::ReversePath;
    use postroad_routing::{Destination, SharedRouter, TlsMode};

    use super::*;
    use crate::table::{LookupError, Table};

    /// Knows a few keys; notes what it was asked.
    #[derive(Clone)]
    struct Noting(
        &'static [(&'static str, &'static str)],
        Arc<Mutex<Vec<String>>>,
    );

    impl Table for Noting {
        async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
            self.1.lock().unwrap().push(key.to_owned());
            if key.contains("down") {
                return Err(LookupError::unavailable(self, "a test"));
            }
            let found = self.0.iter().find(|(is, _)| *is == key);
            Ok(found.map(|(_, value)| value.split('|').map(str::to_owned).collect()))
        }

        fn name(&self) -> String {
            "noting".to_owned()
        }
    }

    async fn route(router: &SharedRouter, recipient: &str) -> Result<Route, RouteError> {
        let (recipient, sender) = (recipient.parse().unwrap(), ReversePath::Null);
        router
            .route(&RouteRequest {
                recipient: &recipient,
                sender: &sender,
                user: None,
                network: None,
                size: 1,
            })
            .await
    }

    fn router(
        known: &'static [(&'static str, &'static str)],
        rule: TableRule,
    ) -> (SharedRouter, Noting) {
        let noting = Noting(known, Arc::default());
        let table = RouteTable::Keys(SharedTable::new(noting.clone()));
        let next = RouteRule::new(Via::Discard);
        let router = SharedRouter::new(TableRouter::new(table, rule));
        (router.or(StaticRouter::new(vec![next])), noting)
    }

    fn rule() -> TableRule {
        TableRule {
            place: "postroad.toml:3, [[route]] 1".to_owned(),
            options: RouteOptions {
                tls: TlsMode::Require,
                ..RouteOptions::default()
            },
            ..TableRule::default()
        }
    }

    #[tokio::test]
    async fn keys_in_order() {
        let (router, noting) = router(&[("*.example.org", "smtp://a:25|smtp://b:25")], rule());
        let route = route(&router, "Bob+x@A.b.Example.org").await.unwrap();
        assert_eq!(
            *noting.1.lock().unwrap(),
            [
                "bob+x@a.b.example.org",
                "a.b.example.org",
                "*.b.example.org",
                "*.example.org"
            ]
        );
        assert!(matches!(&route.destination, Destination::Hops(hops) if hops.len() == 2));
        assert_eq!(route.options.tls, TlsMode::Require);
        assert_eq!(
            route.chosen_by.as_str().unwrap(),
            "postroad.toml:3, [[route]] 1, noting: key `*.example.org`"
        );
    }

    #[tokio::test]
    async fn all_of_them_and_no_more() {
        let (router, noting) = router(&[], rule());
        let none = route(&router, "x@a.b").await.unwrap();
        assert_eq!(none.destination, Destination::Discard);
        assert_eq!(*noting.1.lock().unwrap(), ["x@a.b", "a.b", "*.b", "*"]);
        noting.1.lock().unwrap().clear();
        route(&router, "x@[192.0.2.1]").await.unwrap();
        assert_eq!(
            *noting.1.lock().unwrap(),
            ["x@[192.0.2.1]", "[192.0.2.1]", "*"]
        );
        noting.1.lock().unwrap().clear();
        let deep = format!("x@{}org", "a.".repeat(60));
        route(&router, &deep).await.unwrap();
        let asked = noting.1.lock().unwrap();
        assert_eq!(asked.len(), 3 + PARENTS_MAX);
        assert_eq!(asked[2], format!("*.{}org", "a.".repeat(PARENTS_MAX - 1)));
    }

    #[tokio::test]
    async fn failures_are_no_answers() {
        let (router, _) = router(
            &[("bad@x", "mix\u{1b}"), ("mixed@x", "smtp://a:25|discard")],
            rule(),
        );
        for (recipient, detail) in [
            ("down@x", "noting cannot be asked now: a test"),
            ("x@down.example", "noting cannot be asked now: a test"),
            (
                "bad@x",
                "postroad.toml:3, [[route]] 1, noting: key `bad@x`: `mix\\u{1b}` is no way",
            ),
            ("mixed@x", "`discard` cannot be one of several"),
        ] {
            let error = route(&router, recipient).await.unwrap_err();
            assert!(error.detail.contains(detail), "{}", error.detail);
            assert_eq!(error.recipient, recipient);
        }
    }

    #[tokio::test]
    async fn only_where_the_rule_matches() {
        let rule = TableRule {
            recipient: Some("*@x".parse().unwrap()),
            sender: Some("<>".parse().unwrap()),
            ..rule()
        };
        let (router, noting) = router(&[("*", "mx")], rule);
        let other = route(&router, "a@y").await.unwrap();
        assert_eq!(other.destination, Destination::Discard);
        assert!(noting.1.lock().unwrap().is_empty());
        let found = route(&router, "a@x").await.unwrap();
        assert_eq!(found.destination, Destination::Mx(None));
    }

    #[tokio::test]
    async fn of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routes.txt");
        std::fs::write(&path, "# mine\n*@x maildir:/mail/{local}\n").unwrap();
        let table = RouteTable::File(RouteFile::open(&path).unwrap());
        let router = SharedRouter::new(TableRouter::new(table, rule()));
        let route = route(&router, "A@x").await.unwrap();
        assert_eq!(route.destination, Destination::Maildir("/mail/a".into()));
        assert_eq!(
            route.chosen_by.as_str().unwrap(),
            format!(
                "postroad.toml:3, [[route]] 1, {}:2: key `*@x`",
                path.display()
            )
        );
    }
}
