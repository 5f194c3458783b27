//! HTTP as it is on the wire: a request, and all that comes back.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::process::PATIENCE;

/// Asks over a Unix socket; `request` is as in `GET /health`. Gives status line, header and body.
///
/// # Errors
/// Where nobody answers.
pub async fn ask_unix(socket: &Path, request: &str) -> anyhow::Result<String> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connecting to {}", socket.display()))?;
    ask(stream, request, "").await
}

/// Asks over a Unix socket with a JSON body; gives that of the answer.
///
/// # Errors
/// Where nobody answers, or says no.
pub async fn post_json(socket: &Path, path: &str, body: &Value) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connecting to {}", socket.display()))?;
    let answer = ask(stream, &format!("POST {path}"), &body.to_string()).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("POST {path}: {answer}");
    }
    serde_json::from_str(body).with_context(|| format!("POST {path}: {answer}"))
}

/// Asks over TCP.
///
/// # Errors
/// Where nobody answers.
pub async fn ask_tcp(address: SocketAddr, request: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    ask(stream, request, "").await
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    body: &str,
) -> anyhow::Result<String> {
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/json\r\n"
    };
    let request = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let asking = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    let _ = tokio::time::timeout(PATIENCE, asking)
        .await
        .context("no answer in time")??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
