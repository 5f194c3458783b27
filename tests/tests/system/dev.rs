//! `postroad dev`: nothing to configure, and what it prints works when pasted.

use std::net::SocketAddr;
use std::path::Path;

use postroad_tests::http::ask_tcp;
use postroad_tests::peers::{Security, Submission};
use postroad_tests::process::Service;
use postroad_tests::programs::run;
use postroad_tests::site::Site;

/// The messages of the inbox under a directory.
fn inbox(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join("inbox/new")).unwrap();
    entries
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect()
}

/// Pastes the line that it prints, and writes to it from outside; mail to any domain is in its
/// inbox, and one line each on the terminal.
async fn try_out(service: &Service, directory: &Path, relay: SocketAddr) {
    let line = service.log().wait_for(&["swaks "]).await.unwrap();
    let line = line.trim().to_owned();
    assert!(line.starts_with("swaks --server 127.0.0.1:"), "{line}");
    let _ = run("sh", &["-c", &line], b"").await.unwrap().succeeded();
    let shown = service
        .log()
        .wait_for(&["mail from dev@localhost to you@example.org"])
        .await
        .unwrap();
    assert!(shown.contains("Subject: test "), "{shown}");
    let mail = Submission {
        server: relay,
        security: Security::StartTls,
        login: None,
        from: "me@else.test",
        to: &["anyone@any.where.test"],
        message: "Subject: from outside\n\nhello\n",
    };
    let _ = mail.by_python(&[]).await.unwrap().succeeded();
    service
        .log()
        .wait_for(&[
            "mail from me@else.test to anyone@any.where.test",
            "Subject: from outside",
        ])
        .await
        .unwrap();
    let inbox = inbox(directory);
    assert_eq!(inbox.len(), 2, "{inbox:?}");
    for text in ["This is a test mailing", "Subject: from outside"] {
        assert!(inbox.iter().any(|m| m.contains(text)), "{inbox:?}");
    }
}

/// The address that stands behind a word in what it prints.
async fn printed(service: &Service, name: &str) -> SocketAddr {
    let line = service.log().wait_for(&[name, "127.0.0.1:"]).await.unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_line_that_it_prints_works() {
    let site = Site::new();
    let directory = site.path("dev");
    let arguments = [
        "dev",
        "--dir",
        &directory.to_string_lossy(),
        "--ports",
        "0,0,0,0",
    ];
    let service = Service::start("postroad", &arguments).await.unwrap();
    let relay = printed(&service, "  relay ").await;
    try_out(&service, &directory, relay).await;
    assert!(service.terminate().await.unwrap().success());

    // The next start has the same user and password, and the inbox as it was.
    let password = std::fs::read_to_string(directory.join("password")).unwrap();
    let service = Service::start("postroad", &arguments).await.unwrap();
    service
        .log()
        .wait_for(&["--auth-password", password.trim()])
        .await
        .unwrap();
    assert_eq!(inbox(&directory).len(), 2);
    assert!(service.terminate().await.unwrap().success());
}

/// The ports of the README, on loopback and nowhere else.
#[tokio::test]
async fn its_own_ports() {
    const PORTS: [u16; 4] = [2525, 2587, 2465, 8025];
    for port in PORTS {
        let free = std::net::TcpListener::bind(("127.0.0.1", port));
        assert!(
            free.is_ok(),
            "port {port} of 127.0.0.1 is taken by another program, and this test needs it: {free:?}"
        );
    }
    let site = Site::new();
    let directory = site.path("dev");
    let arguments = ["dev", "--dir", &directory.to_string_lossy()];
    let service = Service::start("postroad", &arguments).await.unwrap();
    for (name, port) in [
        ("  relay ", 2525),
        ("STARTTLS ", 2587),
        ("implicit TLS ", 2465),
    ] {
        let expected = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(printed(&service, name).await, expected);
    }
    let health = ask_tcp(([127, 0, 0, 1], 8025).into(), "GET /health")
        .await
        .unwrap();
    assert!(
        health.starts_with("HTTP/1.1 200") && health.contains("\"status\":\"ok\""),
        "{health}"
    );
    // On another address of this very machine nobody answers.
    for port in PORTS {
        let elsewhere = std::net::TcpStream::connect((site.address(), port));
        assert!(elsewhere.is_err(), "{port} of {}", site.address());
    }
    try_out(&service, &directory, ([127, 0, 0, 1], 2525).into()).await;
    assert!(service.terminate().await.unwrap().success());
}
