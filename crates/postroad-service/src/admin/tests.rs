use super::*;
use postroad_queue::{MemStore, contract};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn ask(socket: &Path, request: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let head = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let request = format!("{request} {head}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_queue_with_a_fault_is_not_healthy() {
    let full = Health {
        fault: Some("the disk is full".to_owned()),
        ..Health::default()
    };
    for (health, status, said) in [
        (Health::default(), 200, "\"status\":\"ok\""),
        (full.clone(), 503, "\"status\":\"degraded\""),
        (full, 503, "\"fault\":\"the disk is full\""),
    ] {
        let answer = health_of(health);
        assert_eq!(answer.status(), status);
        let body = axum::body::to_bytes(answer.into_body(), 1000)
            .await
            .unwrap();
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains(said), "{body}");
    }
}

/// A page ends where it is large enough, and the next goes on behind it.
#[tokio::test]
async fn pages_are_bounded_in_octets_too() {
    let store = MemStore::new(1 << 20);
    let to: Vec<_> = (0..2000).map(|n| format!("bob{n}@b.example")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    for _ in 0..20 {
        contract::accept(&store, contract::START, &to, b"x").await;
    }
    let mut request = PageRequest {
        max: PAGE_MAX,
        ..PageRequest::default()
    };
    let mut pages = Vec::new();
    loop {
        let listing = listing(&store, &request).await.unwrap();
        let page: Vec<Listed> = serde_json::from_slice(&listing).unwrap();
        let Some(last) = page.last() else { break };
        assert!(listing.len() < PAGE_OCTETS + listing.len() / page.len() * 2);
        request.after = Some(last.id);
        pages.push(page.len());
    }
    assert!(pages.len() > 1, "{pages:?}");
    assert_eq!(pages.iter().sum::<usize>(), 20);
}

#[tokio::test]
async fn health_and_reload_for_the_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let mut config = crate::config::Config::default();
    config.admin.socket = Some(socket.clone());
    let loaded = Loaded::from_config(config);
    let parts = || Parts {
        store: Arc::new(MemStore::new(1 << 20)),
        history: Arc::new(postroad_queue::history::NoHistory),
        kept: Duration::ZERO,
        outbound: None,
        explainer: None,
    };
    // One left over by a process that was killed.
    drop(UnixListener::bind(&socket).unwrap());

    let admin = Admin::start(&loaded, parts()).await.unwrap();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let health = ask(&socket, "GET /health").await;
    assert!(
        health.starts_with("HTTP/1.1 200 ") && health.contains("\"status\":\"ok\""),
        "{health}"
    );
    let reload = ask(&socket, "POST /reload").await;
    assert!(reload.starts_with("HTTP/1.1 202 "), "{reload}");
    admin.reload_asked().await;

    let second = Admin::start(&loaded, parts()).await.unwrap_err();
    assert!(
        second.to_string().contains("another process answers there"),
        "{second}"
    );
    admin.stop().await;
    assert!(!socket.exists());
}
