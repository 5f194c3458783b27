//! A web server over TLS that has one MTA-STS policy (RFC 8461 section 3.2), in process.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// The port of HTTPS: a policy is nowhere else.
const PORT: u16 = 443;

/// A running server; it ends with this handle.
#[derive(Debug)]
pub struct PolicyServer {
    asked: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl PolicyServer {
    /// Starts one at that address, as root. It gives `policy` to who asks for `host`.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub async fn start(address: IpAddr, host: &str, tls: TlsAcceptor, policy: String) -> Self {
        let listener = TcpListener::bind((address, PORT))
            .await
            .expect("root may listen at a loopback address of the test's own");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let host = format!("host: {host}");
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, host, policy) = (tls.clone(), host.clone(), policy.clone());
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(tls.accept(stream).await?);
                    let mut lines = Vec::new();
                    loop {
                        let mut line = String::new();
                        stream.read_line(&mut line).await?;
                        let line = line.trim_end().to_ascii_lowercase();
                        if line.is_empty() {
                            break;
                        }
                        lines.push(line);
                    }
                    let asks = "get /.well-known/mta-sts.txt http/1.1";
                    let found = lines.first().is_some_and(|l| l == asks) && lines.contains(&host);
                    let status = if found { "200 OK" } else { "404 Not Found" };
                    count.fetch_add(usize::from(found), Ordering::Relaxed);
                    let length = policy.len();
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{policy}"
                    );
                    stream.write_all(answer.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        };
        Self {
            asked,
            task: tokio::spawn(serve).abort_handle(),
        }
    }

    /// How often the policy was fetched.
    #[must_use]
    pub fn fetched(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for PolicyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
