//! Which rule decides, and that it says so.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad_routing::{
    ChosenBy, Destination, Rate, Route, RouteCredentials, RouteError, RouteLimits, RouteOptions,
    RouteRequest, RouteRule, Router, SharedRouter, StaticRouter, TlsMode, Via,
};

/// A rule that says of itself which it is.
fn rule(number: usize, via: &str) -> RouteRule {
    RouteRule {
        chosen_by: ChosenBy::new(&format!("postroad.toml, [[route]] {number}")),
        ..RouteRule::new(via.parse().unwrap())
    }
}

/// One rule for each thing that a rule can look at, and one that looks at all.
fn rules() -> Vec<RouteRule> {
    let pattern = |text: &str| Some(text.parse().unwrap());
    vec![
        RouteRule {
            recipient: pattern("bob@example.org"),
            sender: pattern("<>"),
            user: None,
            network: Some("192.0.2.0/24".parse().unwrap()),
            ..rule(1, "reject 5.7.1 all of it")
        },
        RouteRule {
            recipient: pattern("bob@example.org"),
            ..rule(2, "lmtp+unix:///run/lmtp")
        },
        RouteRule {
            sender: pattern("*@news.example"),
            ..rule(3, "discard")
        },
        RouteRule {
            user: Some("alice".to_owned()),
            ..rule(4, "smtp://alice.example preference=1")
        },
        RouteRule {
            network: Some("2001:db8::/32".parse().unwrap()),
            ..rule(5, "maildir:/mail/{domain}/{local}")
        },
        RouteRule {
            recipient: pattern("*.example.net"),
            ..rule(6, "mx")
        },
    ]
}

struct Case {
    recipient: &'static str,
    sender: &'static str,
    user: Option<&'static str>,
    network: Option<&'static str>,
}

async fn decided(router: &SharedRouter, case: &Case) -> Result<Route, RouteError> {
    let recipient = case.recipient.parse().unwrap();
    let sender = case.sender.parse().unwrap();
    let request = RouteRequest {
        recipient: &recipient,
        sender: &sender,
        user: case.user,
        network: case.network.map(|n| n.parse::<IpAddr>().unwrap()),
        size: 1,
    };
    router.route(&request).await
}

#[tokio::test]
async fn the_first_that_matches() {
    let router = SharedRouter::new(StaticRouter::new(rules()));
    for (recipient, sender, user, network, expected) in [
        (
            "bob@example.org",
            "<>",
            None,
            Some("192.0.2.7"),
            "[[route]] 1",
        ),
        (
            "bob@example.org",
            "<>",
            None,
            Some("198.51.100.7"),
            "[[route]] 2",
        ),
        ("bob@example.org", "<>", None, None, "[[route]] 2"),
        (
            "BOB@Example.ORG",
            "<a@news.example>",
            Some("alice"),
            None,
            "[[route]] 2",
        ),
        (
            "x@example.org",
            "<a@NEWS.example>",
            Some("alice"),
            None,
            "[[route]] 3",
        ),
        (
            "x@example.org",
            "<a@sub.news.example>",
            Some("alice"),
            None,
            "[[route]] 4",
        ),
        (
            "x@example.org",
            "<>",
            Some("Alice"),
            Some("2001:db8::1"),
            "[[route]] 5",
        ),
        (
            "x@a.b.example.net",
            "<>",
            None,
            Some("2001:db9::1"),
            "[[route]] 6",
        ),
        ("x@example.net", "<>", None, None, "no route matches: by MX"),
    ] {
        let case = Case {
            recipient,
            sender,
            user,
            network,
        };
        let route = decided(&router, &case).await.unwrap();
        let chosen = route.chosen_by.as_str().unwrap();
        assert!(chosen.ends_with(expected), "{recipient}: {chosen}");
    }
}

#[tokio::test]
async fn where_and_how() {
    let options = RouteOptions {
        tls: TlsMode::Verify,
        source: vec!["192.0.2.9".parse().unwrap()],
        helo: Some("out.example.org".parse().unwrap()),
        port: None,
        auth: Some(Arc::new(RouteCredentials {
            user: "me".to_owned(),
            secret: postroad_mail::Secret::new("secret".to_owned()),
        })),
        limits: Some(Arc::new(RouteLimits {
            name: "smarthost".to_owned(),
            per_destination: Some(5),
            messages: Some(Rate {
                count: 100,
                per: Duration::from_secs(60),
            }),
            connections: None,
        })),
    };
    let hosts = ["smtp://a.example", "smtps://b.example weight=3"];
    let rule = RouteRule {
        options: options.clone(),
        ..RouteRule::new(Via::list(&hosts).unwrap())
    };
    let router = SharedRouter::new(StaticRouter::new(vec![rule]));
    let case = Case {
        recipient: "x@example.org",
        sender: "<>",
        user: None,
        network: None,
    };
    let route = decided(&router, &case).await.unwrap();
    assert_eq!(route.options, options);
    let Destination::Hops(hops) = route.destination else {
        panic!("{:?}", route.destination);
    };
    let shown: Vec<_> = hops.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["smtp://a.example:25", "smtps://b.example:465 weight=3"]
    );
}

/// Fails, or has no answer, or one.
struct Says(Option<Result<&'static str, &'static str>>);

impl Router for Says {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        match self.0 {
            None => Ok(None),
            Some(Ok(word)) => Ok(Some(Route {
                chosen_by: ChosenBy::new(word),
                ..Route::new(Destination::Discard)
            })),
            Some(Err(detail)) => Err(RouteError {
                recipient: request.recipient.to_string(),
                detail: detail.to_owned(),
            }),
        }
    }
}

#[tokio::test]
async fn routers_in_a_row() {
    let case = Case {
        recipient: "x@example.org",
        sender: "<>",
        user: None,
        network: None,
    };
    let none = || Says(None);
    let router = SharedRouter::new(none())
        .or(Says(Some(Ok("second"))))
        .or(Says(Some(Ok("third"))));
    let route = decided(&router, &case).await.unwrap();
    assert_eq!(route.chosen_by.as_str(), Some("second"));
    // A failure is not skipped: who comes next might send it where it must not go.
    let router = SharedRouter::new(none())
        .or(Says(Some(Err("the table is gone"))))
        .or(Says(Some(Ok("third"))));
    let error = decided(&router, &case).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "routing x@example.org: the table is gone"
    );
    let router = SharedRouter::new(none()).chain(SharedRouter::new(none()));
    let route = decided(&router, &case).await.unwrap();
    assert_eq!(route.destination, Destination::Mx(None));
}
