//! A server of Postfix's socketmap protocol (socketmap_table(5)), in process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Octets of a request, at most.
const REQUEST_MAX: usize = 100_000;

type Entries = Arc<Mutex<HashMap<String, String>>>;

/// A running server; it ends with this handle.
#[derive(Debug)]
pub struct Socketmap {
    address: SocketAddr,
    entries: Entries,
    task: AbortHandle,
}

impl Socketmap {
    /// Starts one at that address, with nothing in it.
    ///
    /// # Panics
    /// Where somebody listens there.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .expect("the address is this test's own");
        let address = listener.local_addr().expect("a listener has an address");
        let entries = Entries::default();
        let shared = Arc::clone(&entries);
        let serve = async move {
            // They end with the listener.
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let entries = Arc::clone(&shared);
                sessions.spawn(async move { answer(stream, &entries).await });
            }
        };
        Self {
            address,
            entries,
            task: tokio::spawn(serve).abort_handle(),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on answers `map key` so, as in `OK value` or `TEMP why`.
    pub fn put(&self, map: &str, key: &str, answer: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(format!("{map} {key}"), answer.to_owned());
    }
}

impl Drop for Socketmap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Netstrings: `length:octets,`.
async fn answer(stream: TcpStream, entries: &Entries) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = Vec::new();
        if stream.read_until(b':', &mut length).await? == 0 {
            return Ok(());
        }
        let length = String::from_utf8_lossy(&length);
        let length: usize = length.trim_end_matches(':').parse().unwrap_or(REQUEST_MAX);
        let mut request = vec![0; length.min(REQUEST_MAX) + 1];
        stream.read_exact(&mut request).await?;
        let request = String::from_utf8_lossy(&request);
        let request = request.trim_end_matches(',');
        let found = {
            let entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.get(request).cloned()
        };
        let answer = found.unwrap_or_else(|| "NOTFOUND ".to_owned());
        let length = answer.len();
        stream
            .write_all(format!("{length}:{answer},").as_bytes())
            .await?;
        stream.flush().await?;
    }
}
