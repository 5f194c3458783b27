//! A next hop that takes all mail, or misbehaves as it is told. It shares no code with Postroad.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::process::PATIENCE;

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The reverse-path, without brackets.
    pub from: String,
    /// The forward-paths, without brackets.
    pub to: Vec<String>,
    /// MAIL and RCPT lines, as they came.
    pub commands: Vec<String>,
    /// The message, dot-unstuffed.
    pub data: Vec<u8>,
    /// Whether it came under TLS.
    pub tls: bool,
}

#[derive(Debug, Default)]
struct State {
    received: Vec<Received>,
    /// Replies to commands that start so, instead of the usual.
    always: HashMap<String, String>,
    once: HashMap<String, Vec<String>>,
    close_once: Vec<String>,
    hidden: Vec<String>,
}

/// A running sink.
#[derive(Clone, Debug)]
pub struct Sink {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    arrived: Arc<Notify>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Sink {
    /// Starts one on that address.
    pub async fn start(address: SocketAddr) -> Self {
        Self::listen(address, None).await
    }

    /// Starts one that offers STARTTLS.
    ///
    /// # Panics
    /// Where the certificate cannot be used.
    pub async fn start_tls(address: SocketAddr, certificate: &Path, key: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate)
            .expect("the certificate's file")
            .map(|c| c.expect("a certificate"))
            .collect();
        let key = PrivateKeyDer::from_pem_file(key).expect("the key's file");
        let config = ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a key that goes with the certificate");
        Self::listen(address, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .expect("the address is this test's own");
        let address = listener.local_addr().expect("a listener has an address");
        let (state, arrived) = (
            Arc::new(Mutex::new(State::default())),
            Arc::new(Notify::new()),
        );
        let shared = (Arc::clone(&state), Arc::clone(&arrived));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, arrived) = shared.clone();
                let tls = tls.clone();
                tokio::spawn(async move {
                    let _ = serve(stream, tls, &state, &arrived).await;
                });
            }
        });
        Self {
            address,
            state,
            arrived,
            _task: Arc::new(AbortOnDrop(task)),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on answers commands that start with `start` so. `GREETING` and `END` (of data) count as commands.
    pub fn reply_always(&self, start: &str, reply: &str) {
        lock(&self.state)
            .always
            .insert(start.to_owned(), reply.to_owned());
    }

    /// Answers the next such command so.
    pub fn reply_once(&self, start: &str, reply: &str) {
        lock(&self.state)
            .once
            .entry(start.to_owned())
            .or_default()
            .push(reply.to_owned());
    }

    /// Closes the connection instead of answering the next such command.
    pub fn close_once(&self, start: &str) {
        lock(&self.state).close_once.push(start.to_owned());
    }

    /// Leaves an extension out of its EHLO reply.
    pub fn hide(&self, extension: &str) {
        lock(&self.state).hidden.push(extension.to_owned());
    }

    /// What has come so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.state).received.clone()
    }

    /// Waits until `count` messages have come; gives all.
    ///
    /// # Panics
    /// Where they do not.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        let all = async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if lock(&self.state).received.len() >= count {
                    return self.received();
                }
                arrived.await;
            }
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(received) => received,
            Err(_) => panic!("{} of {count} messages have come", self.received().len()),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to answer, where a test wants another than the usual answer; `Err` to close.
fn scripted(state: &Mutex<State>, command: &str) -> Result<Option<String>, ()> {
    let mut state = lock(state);
    if let Some(at) = state
        .close_once
        .iter()
        .position(|start| command.starts_with(start.as_str()))
    {
        state.close_once.remove(at);
        return Err(());
    }
    let once = state
        .once
        .iter_mut()
        .find(|(start, replies)| command.starts_with(start.as_str()) && !replies.is_empty());
    if let Some((_, replies)) = once {
        return Ok(Some(replies.remove(0)));
    }
    Ok(state
        .always
        .iter()
        .find(|(start, _)| command.starts_with(start.as_str()))
        .map(|(_, reply)| reply.clone()))
}

async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    state: &Mutex<State>,
    arrived: &Notify,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    if !say(&mut stream, state, "GREETING", "220 sink.test ESMTP").await? {
        return Ok(());
    }
    if session(&mut stream, tls.is_some(), false, state, arrived).await? {
        let Some(acceptor) = tls else { return Ok(()) };
        let stream = acceptor.accept(stream.into_inner()).await?;
        session(&mut BufReader::new(stream), false, true, state, arrived).await?;
    }
    Ok(())
}

/// Answers a command; `false` where the connection is to be closed.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    state: &Mutex<State>,
    command: &str,
    usual: &str,
) -> std::io::Result<bool> {
    let Ok(reply) = scripted(state, command) else {
        return Ok(false);
    };
    let reply = reply.unwrap_or_else(|| usual.to_owned());
    stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    stream.flush().await?;
    Ok(!reply.starts_with("421"))
}

/// Serves until the end, or STARTTLS (`true`).
#[expect(clippy::too_many_lines, reason = "one row for each command")]
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    offers_tls: bool,
    tls: bool,
    state: &Mutex<State>,
    arrived: &Notify,
) -> std::io::Result<bool> {
    let fresh = || Received {
        from: String::new(),
        to: Vec::new(),
        commands: Vec::new(),
        data: Vec::new(),
        tls,
    };
    let mut message = fresh();
    let mut chunks = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(false);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let path = || {
            line.split('<')
                .nth(1)
                .and_then(|rest| rest.split('>').next())
                .unwrap_or_default()
                .to_owned()
        };
        let answered = match verb.as_str() {
            "EHLO" => say(stream, state, &line, &offer(state, offers_tls)).await?,
            "HELO" => say(stream, state, &line, "250 sink.test").await?,
            "STARTTLS" => {
                say(stream, state, &line, "220 2.0.0 go").await?;
                return Ok(true);
            }
            "MAIL" => {
                message = fresh();
                message.from = path();
                message.commands.push(line.clone());
                say(stream, state, &line, "250 2.1.0 ok").await?
            }
            "RCPT" => {
                let scripted = scripted(state, &line);
                match scripted {
                    Err(()) => false,
                    Ok(Some(reply)) => {
                        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
                        stream.flush().await?;
                        true
                    }
                    Ok(None) => {
                        message.to.push(path());
                        message.commands.push(line.clone());
                        stream.write_all(b"250 2.1.5 ok\r\n").await?;
                        stream.flush().await?;
                        true
                    }
                }
            }
            "DATA" if message.to.is_empty() => {
                say(stream, state, &line, "554 5.5.1 no recipients").await?
            }
            "DATA" => {
                if !say(stream, state, &line, "354 go").await? {
                    return Ok(false);
                }
                message.data = data(stream).await?;
                end(stream, state, arrived, &mut message).await?
            }
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let size: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                let start = chunks.len();
                chunks.resize(start + size, 0);
                stream
                    .read_exact(chunks.get_mut(start..).unwrap_or_default())
                    .await?;
                if words
                    .next()
                    .is_some_and(|word| word.eq_ignore_ascii_case("LAST"))
                {
                    message.data = std::mem::take(&mut chunks);
                    end(stream, state, arrived, &mut message).await?
                } else {
                    say(stream, state, &line, "250 2.0.0 chunk").await?
                }
            }
            "RSET" => {
                message = fresh();
                chunks.clear();
                say(stream, state, &line, "250 2.0.0 ok").await?
            }
            "QUIT" => {
                say(stream, state, &line, "221 2.0.0 bye").await?;
                false
            }
            _ => say(stream, state, &line, "250 2.0.0 ok").await?,
        };
        if !answered {
            return Ok(false);
        }
    }
}

fn offer(state: &Mutex<State>, tls: bool) -> String {
    let state = lock(state);
    let mut lines = vec!["sink.test"];
    lines.extend([
        "PIPELINING",
        "SIZE 100000000",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "ENHANCEDSTATUSCODES",
        "DSN",
    ]);
    if tls {
        lines.push("STARTTLS");
    }
    lines.retain(|line| {
        !state
            .hidden
            .iter()
            .any(|hidden| line.starts_with(hidden.as_str()))
    });
    let last = lines.len() - 1;
    let lines: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(n, line)| format!("250{}{line}", if n == last { ' ' } else { '-' }))
        .collect();
    lines.join("\r\n")
}

/// Up to the line with a dot alone, which only CRLF ends.
async fn data<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> std::io::Result<Vec<u8>> {
    let mut message: Vec<u8> = Vec::new();
    let mut at_start = true;
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if at_start && line == b".\r\n" {
            return Ok(message);
        }
        let unstuffed = if at_start && line.first() == Some(&b'.') {
            line.get(1..).unwrap_or_default()
        } else {
            &line
        };
        message.extend_from_slice(unstuffed);
        at_start = line.ends_with(b"\r\n");
    }
}

/// The end of data: the message counts as received if the answer is a yes.
async fn end<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    state: &Mutex<State>,
    arrived: &Notify,
    message: &mut Received,
) -> std::io::Result<bool> {
    let Ok(reply) = scripted(state, "END") else {
        return Ok(false);
    };
    let reply = reply.unwrap_or_else(|| "250 2.0.0 taken".to_owned());
    if reply.starts_with('2') {
        lock(state).received.push(message.clone());
        arrived.notify_waiters();
    }
    stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    stream.flush().await?;
    Ok(true)
}
