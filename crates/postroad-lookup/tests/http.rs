//! The HTTP client and the table on it, against servers of all tempers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use kit::said;
use postroad_lookup::{
    HttpClient, HttpError, HttpOptions, HttpTable, Resolve, SharedTable, TableKind, TableSpec,
};
use postroad_mail::Secret;
use postroad_routing::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    at
}

fn client(options: HttpOptions) -> HttpClient {
    HttpClient::new(&kit::distrusting(), options)
}

/// A server that sends the same octets to each connection, once a request has come; and how many
/// there were. It closes behind them where it is told to.
async fn raw(answer: &'static [u8], close: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    if stream.write_all(answer).await.is_err() || close {
                        break;
                    }
                }
            });
        }
    });
    (at, opened)
}

#[tokio::test]
async fn fetched_whole_or_not_at_all() {
    let endless = || {
        let pieces = futures_util::stream::repeat_with(|| Ok::<_, Infallible>("x".repeat(1000)));
        Body::from_stream(pieces)
    };
    let echo = |headers: HeaderMap| async move {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        format!("{} {}", header("accept"), header("user-agent"))
    };
    let at = serve(
        Router::new()
            .route("/text", get(echo))
            .route("/moved", get(|| async { Redirect::temporary("/text") }))
            .route("/none", get(|| async { StatusCode::NOT_FOUND }))
            .route("/fits", get(|| async { "x".repeat(1 << 16) }))
            .route("/large", get(|| async { "x".repeat((1 << 16) + 1) }))
            .route("/endless", get(move || async move { endless() })),
    )
    .await;
    let client = client(HttpOptions::default());
    let get = |path: &str| {
        let (client, url) = (client.clone(), format!("http://{at}{path}"));
        async move { client.get(&url, "text/plain").await }
    };
    let answer = get("/text").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content_type.unwrap(), "text/plain; charset=utf-8");
    assert_eq!(answer.body, "text/plain Postroad");
    assert_eq!(get("/moved").await.unwrap().status, 307);
    assert_eq!(get("/none").await.unwrap().status, 404);
    assert_eq!(get("/fits").await.unwrap().body.len(), 1 << 16);
    for path in ["/large", "/endless"] {
        assert_eq!(get(path).await, Err(HttpError::TooLarge(1 << 16)), "{path}");
    }
}

/// A server under TLS that answers with the Host that was asked for.
async fn tls(config: Arc<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut request = [0; 4096];
                let length = stream.read(&mut request).await?;
                let host = String::from_utf8_lossy(&request[..length]).into_owned();
                let host = host.lines().find(|line| line.starts_with("host: "));
                let body = host.unwrap_or_default();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: ";
                let answer = format!("{head}{}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    at
}

/// Finds all hosts but one here.
struct Here(SocketAddr);

impl Resolve for Here {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        let found = if host == "nowhere.example" {
            Err(std::io::Error::other("no such name"))
        } else {
            Ok(vec![self.0])
        };
        Box::pin(async move { found })
    }
}

#[tokio::test]
async fn certificates_count() {
    let good = kit::certificate(&["mta-sts.example.org", "127.0.0.1"]);
    let at = tls(Arc::clone(&good.server)).await;
    let here = |tls| {
        let options = HttpOptions {
            https_only: true,
            ..HttpOptions::default()
        };
        HttpClient::with_resolver(tls, options, Arc::new(Here(at)))
    };
    let client = here(&good.client);
    let answer = client
        .get("https://mta-sts.example.org/x", "*/*")
        .await
        .unwrap();
    assert_eq!(answer.body, "host: mta-sts.example.org");
    let by_address = HttpClient::new(&good.client, HttpOptions::default());
    let answer = by_address
        .get(&format!("https://{at}/"), "*/*")
        .await
        .unwrap();
    assert_eq!(answer.status, 200);

    let other = client.get("https://other.example.org/", "*/*").await;
    assert!(
        matches!(&other, Err(HttpError::Certificate(why)) if why.contains("name")),
        "{other:?}"
    );
    let distrusted = here(&kit::distrusting())
        .get("https://mta-sts.example.org/", "*/*")
        .await;
    assert!(
        matches!(distrusted, Err(HttpError::Certificate(_))),
        "{distrusted:?}"
    );
    let plain = client.get(&format!("http://{at}/"), "*/*").await;
    assert!(matches!(plain, Err(HttpError::Connect(_))), "{plain:?}");
    let nowhere = client.get("https://nowhere.example/", "*/*").await;
    assert!(
        matches!(&nowhere, Err(HttpError::Connect(why)) if why.contains("no such name")),
        "{nowhere:?}"
    );

    // TLS to somebody who speaks none.
    let (at, _) = raw(b"220 hello\r\n", true).await;
    let no_tls = by_address.get(&format!("https://{at}/"), "*/*").await;
    assert!(matches!(no_tls, Err(HttpError::Tls(_))), "{no_tls:?}");
}

#[tokio::test]
async fn what_is_no_answer() {
    let client = client(HttpOptions::default());
    for answer in [
        &b"220 mail.example.org ESMTP\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ] {
        let (at, _) = raw(answer, true).await;
        let got = client.get(&format!("http://{at}/"), "*/*").await;
        let shown = String::from_utf8_lossy(answer);
        assert!(matches!(got, Err(HttpError::Broken(_))), "{shown}: {got:?}");
    }
    let free = kit::free_port();
    let nobody = client
        .get(&format!("http://127.0.0.1:{free}/"), "*/*")
        .await;
    assert!(matches!(nobody, Err(HttpError::Connect(_))), "{nobody:?}");
    let url = client.get("ftp://host/", "*/*").await;
    assert!(matches!(url, Err(HttpError::Url(_))), "{url:?}");
    let head: &'static [u8] = Box::leak(
        format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20))
            .into_bytes()
            .into_boxed_slice(),
    );
    let (at, _) = raw(head, false).await;
    let got = client.get(&format!("http://{at}/"), "*/*").await;
    assert!(matches!(got, Err(HttpError::Broken(_))), "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn hanging_is_bounded() {
    let limit = Duration::from_secs(5);
    let client = client(HttpOptions::default());
    // Nothing, a head without its end, a body without its end.
    for start in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx",
    ] {
        let (at, _) = raw(start, false).await;
        let got = client.get(&format!("http://{at}/"), "*/*").await;
        assert_eq!(got, Err(HttpError::Timeout(limit)));
    }
}

#[tokio::test]
async fn connections_are_kept() {
    let (at, opened) = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let client = client(HttpOptions::default());
    for _ in 0..5 {
        let answer = client.get(&format!("http://{at}/"), "*/*").await;
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_at_the_same_time_are_bounded() {
    let (arrived, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (count, gate) = (Arc::clone(&arrived), Arc::clone(&may));
    let handler = move || async move {
        count.add_permits(1);
        gate.acquire().await.unwrap().forget();
    };
    let at = serve(Router::new().route("/", get(handler))).await;
    let client = client(HttpOptions {
        connections: 3,
        ..HttpOptions::default()
    });
    let requests = (0..20).map(|_| {
        let (client, url) = (client.clone(), format!("http://{at}/"));
        tokio::spawn(async move { client.get(&url, "*/*").await.unwrap().status })
    });
    let requests: Vec<_> = requests.collect();
    arrived.acquire_many(3).await.unwrap().forget();
    // One goes; one more comes, and no two.
    for _ in 0..17 {
        assert_eq!(arrived.available_permits(), 0);
        may.add_permits(1);
        arrived.acquire().await.unwrap().forget();
    }
    may.add_permits(3);
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
}

async fn table_service(headers: HeaderMap, Json(question): Json<Value>) -> Response {
    let token = headers
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned());
    if token.as_deref() != Some("Bearer s3cret") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    assert_eq!(question["table"], "routes");
    match question["key"].as_str().unwrap() {
        "one@x" => Json(json!({ "values": ["smtp://a:25"], "more": 1 })).into_response(),
        "two@x" => Json(json!({ "values": ["a", "b"] })).into_response(),
        "\u{fc}\"\\@x" => Json(json!({ "values": ["quoted"] })).into_response(),
        "null@x" => Json(json!({ "values": null })).into_response(),
        "empty@x" => Json(json!({ "values": [] })).into_response(),
        "404@x" => StatusCode::NOT_FOUND.into_response(),
        "500@x" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "429@x" => StatusCode::TOO_MANY_REQUESTS.into_response(),
        "400@x" => StatusCode::BAD_REQUEST.into_response(),
        "302@x" => Redirect::to("/elsewhere").into_response(),
        "text@x" => "smtp://a:25".into_response(),
        "list@x" => Json(json!(["a"])).into_response(),
        "other@x" => Json(json!({ "value": "a" })).into_response(),
        "string@x" => Json(json!({ "values": "a" })).into_response(),
        "number@x" => Json(json!({ "values": ["a", 1] })).into_response(),
        "many@x" => Json(json!({ "values": vec!["a"; 1001] })).into_response(),
        "deep@x" => "[".repeat(100_000).into_response(),
        "large@x" => "x".repeat(200_000).into_response(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn table() {
    let at = serve(Router::new().route("/lookup", post(table_service))).await;
    let open = |token: &str| {
        let mut spec = TableSpec::new(TableKind::Http {
            url: format!("http://{at}/lookup?x=y"),
            table: "routes".to_owned(),
            token: Some(Secret::new(token.to_owned())),
        });
        spec.guard.failures = u32::MAX;
        spec.open(&kit::distrusting()).unwrap()
    };
    let table = open("s3cret");
    assert_eq!(table.name(), format!("http http://{at}/lookup routes"));
    for (key, expected) in [
        ("one@x", "smtp://a:25"),
        ("two@x", "a|b"),
        ("\u{fc}\"\\@x", "quoted"),
        ("null@x", "-"),
        ("empty@x", "-"),
        ("404@x", "-"),
        ("500@x", "later: it answers with status 500"),
        ("429@x", "later: it answers with status 429"),
        (
            "400@x",
            "wrong: it answers with status 400; expected 200 or 404",
        ),
        ("302@x", "wrong: it answers with status 303"),
        (
            "text@x",
            "wrong: the body is no JSON object; expected {\"values\"",
        ),
        ("list@x", "wrong: the body is no JSON object"),
        ("other@x", "wrong: the body has no `values`"),
        ("string@x", "wrong: `values` is no list"),
        ("number@x", "wrong: a value is no string"),
        ("many@x", "wrong: more than 1000 values"),
        ("deep@x", "wrong: the body is no JSON object"),
        ("large@x", "wrong: the body is larger than"),
    ] {
        let said = said(&table, key).await;
        assert!(said.starts_with(expected), "{key}: {said}");
    }
    let refused = said(&open("wrong"), "one@x").await;
    assert_eq!(
        refused,
        "wrong: it answers with status 401; is the token right?"
    );
    let unsendable = said(&open("a\nb"), "one@x").await;
    assert!(
        unsendable.starts_with("wrong: the token has characters"),
        "{unsendable}"
    );
}

#[tokio::test]
async fn urls_are_checked_and_not_shown_whole() {
    let spec = TableSpec::new(TableKind::Http {
        url: "not a url".to_owned(),
        table: "x".to_owned(),
        token: None,
    });
    let error = spec.open(&kit::distrusting()).unwrap_err().to_string();
    assert!(
        error.starts_with("`not a url` is no URL that can be asked"),
        "{error}"
    );
    let url = "https://h.example/x?key=s3cret";
    let table = HttpTable::new(client(HttpOptions::default()), url, "t", None);
    assert_eq!(SharedTable::new(table).name(), "http https://h.example/x t");
}
