//! Tables as a configuration describes them: with a cache, a breaker, and errors that say what to do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use kit::said;
use postroad_lookup::{
    AliasTable, Aliases, Expanded, SharedTable, TableKind, TableRule, TableSpec,
};
use postroad_mail::{ReversePath, Secret};
use postroad_routing::{Destination, RouteRequest, SharedRouter};
use serde_json::{Value, json};

/// A service that knows `bob@example.org`, and how often it was asked.
async fn service() -> (TableSpec, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move |Json(question): Json<Value>| async move {
        count.fetch_add(1, Ordering::SeqCst);
        let known = question["key"] == "bob@example.org";
        Json(json!({ "values": known.then_some(["smtp://10.0.0.5:25"]) }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let router = Router::new().route("/", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let spec = TableSpec::new(TableKind::Http {
        url: format!("http://{at}/"),
        table: "routes".to_owned(),
        token: None,
    });
    (spec, asked)
}

fn open(spec: &TableSpec) -> SharedTable {
    spec.open(&kit::distrusting()).unwrap()
}

#[tokio::test]
async fn remembered_unless_told_otherwise() {
    let (mut spec, asked) = service().await;
    let table = open(&spec);
    for _ in 0..5 {
        assert_eq!(said(&table, "bob@example.org").await, "smtp://10.0.0.5:25");
        assert_eq!(said(&table, "none@example.org").await, "-");
    }
    assert_eq!(asked.swap(0, Ordering::SeqCst), 2);
    spec.cache.ttl = Duration::ZERO;
    let table = open(&spec);
    for _ in 0..5 {
        said(&table, "bob@example.org").await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn left_alone_where_it_is_down() {
    let mut spec = TableSpec::new(TableKind::Socketmap {
        socket: "unix:/nonexistent/map".parse().unwrap(),
        map: "routes".to_owned(),
    });
    spec.guard.failures = 2;
    let table = open(&spec);
    for key in ["a", "b"] {
        assert!(said(&table, key).await.contains("is the server running"));
    }
    let said = said(&table, "c").await;
    assert!(
        said.starts_with("later: not asked, as it failed 2 times in a row"),
        "{said}"
    );
}

#[tokio::test]
async fn routes_of_a_service() {
    let (spec, _) = service().await;
    let rule = TableRule {
        place: "[[route]] 1".to_owned(),
        ..TableRule::default()
    };
    let router = SharedRouter::new(spec.open_router(&kit::distrusting(), rule).unwrap());
    let route = |recipient: &str| {
        let (router, recipient) = (router.clone(), recipient.parse().unwrap());
        async move {
            let request = RouteRequest {
                recipient: &recipient,
                sender: &ReversePath::Null,
                user: None,
                network: None,
                size: 1,
            };
            router.route(&request).await.unwrap()
        }
    };
    let bob = route("bob@example.org").await;
    assert!(matches!(bob.destination, Destination::Hops(_)));
    assert!(
        bob.chosen_by
            .as_str()
            .unwrap()
            .ends_with("/ routes: key `bob@example.org`")
    );
    assert_eq!(
        route("alice@example.org").await.destination,
        Destination::Mx(None)
    );
}

#[tokio::test]
async fn aliases_of_a_file() {
    let directory = kit::directory();
    let path = directory.path().join("aliases");
    let text = "# people\nall@example.org bob@example.org, carol@example.net\n\
                owner-all@example.org bob@example.org\nbob@example.org bob@mail.example.org\n";
    let path = kit::write(path, text);
    let spec = TableSpec::new(TableKind::File { path });
    let aliases = Aliases::new(vec![AliasTable {
        table: spec.open_aliases(&kit::distrusting()).unwrap(),
        domains: vec!["example.org".parse().unwrap()],
    }]);
    let Expanded::Members(members) = aliases
        .expand(&"ALL@example.org".parse().unwrap())
        .await
        .unwrap()
    else {
        panic!("it is an alias");
    };
    let owner: ReversePath = "<owner-all@example.org>".parse().unwrap();
    let members: Vec<_> = members
        .iter()
        .map(|m| (m.address.to_string(), m.from.clone()))
        .collect();
    assert_eq!(
        members,
        [
            ("bob@mail.example.org".to_owned(), Some(owner.clone())),
            ("carol@example.net".to_owned(), Some(owner)),
        ]
    );
    let nobody = aliases.expand(&"nobody@example.org".parse().unwrap()).await;
    assert_eq!(nobody, Ok(Expanded::Unknown));
}

#[tokio::test]
async fn what_can_never_work_is_said_at_once() {
    let directory = kit::directory();
    let file = |text: &str| TableKind::File {
        path: kit::write(directory.path().join("table"), text),
    };
    let missing = TableKind::File {
        path: PathBuf::from("/nonexistent/table"),
    };
    let socketmap = TableKind::Socketmap {
        socket: "127.0.0.1:1".parse().unwrap(),
        map: "a b".to_owned(),
    };
    let ldap = TableKind::Ldap {
        url: "ldap://h".to_owned(),
        starttls: false,
        base: String::new(),
        filter: "(mail=%s".to_owned(),
        attributes: vec!["mail".to_owned()],
        bind: None,
    };
    let sql = TableKind::Sql {
        url: "postgres://me:s3cret@h/x".to_owned(),
        password: Some(Secret::new("x".to_owned())),
        query: "SELECT $1".to_owned(),
    };
    for (kind, expected) in [
        (missing, "reading /nonexistent/table: No such file"),
        (socketmap, "`a b` is no name of a map"),
        (
            ldap,
            "`(mail=%s` is no search filter; expected one as `(mail=%s)`",
        ),
        (sql, "the url has a password in it"),
    ] {
        let error = TableSpec::new(kind)
            .open(&kit::distrusting())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("s3cret"));
    }
    let aliases = TableSpec::new(file("a@b |cmd\n"));
    let error = aliases
        .open_aliases(&kit::distrusting())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/table:1: key `a@b`: `|cmd` is no address"),
        "{error}"
    );
    let routes = TableSpec::new(file("a@b smtp://h:25\nc mix\n"));
    let error = routes
        .open_router(&kit::distrusting(), TableRule::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("/table:2: `mix` is no way"),
        "{error}"
    );
    // For other keys, that file is good.
    assert_eq!(said(&open(&routes), "c").await, "mix");
}
