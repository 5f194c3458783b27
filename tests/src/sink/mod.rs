//! A next hop that takes all mail, or misbehaves as it is told. It shares no code with Postroad.

mod session;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use crate::process::PATIENCE;
use session::serve;

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
    /// What stood on the wire between DATA and the final dot; nothing where it came by BDAT.
    pub wire: Vec<u8>,
    /// The greeting command of the session, as in `EHLO name`.
    pub hello: String,
    /// Whether any command of the session came before the reply to the one before.
    pub pipelined: bool,
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
    offered: Vec<String>,
}

/// A running sink.
#[derive(Clone, Debug)]
pub struct Sink {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    arrived: Arc<Notify>,
    gate: Arc<Gate>,
    _task: Arc<AbortOnDrop>,
}

/// Where sessions wait with a whole message before they answer, while it is shut.
#[derive(Debug, Default)]
struct Gate {
    shut: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
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
        let (state, arrived, gate) = <(Arc<Mutex<State>>, Arc<Notify>, Arc<Gate>)>::default();
        let shared = (Arc::clone(&state), Arc::clone(&arrived), Arc::clone(&gate));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, arrived, gate) = shared.clone();
                let tls = tls.clone();
                // Replies are small, and each is waited for.
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    let _ = serve(stream, tls, &state, &arrived, &gate).await;
                });
            }
        });
        Self {
            address,
            state,
            arrived,
            gate,
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

    /// From now on answers commands that start with `start` as usual.
    pub fn reply_usual(&self, start: &str) {
        lock(&self.state).always.remove(start);
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

    /// Puts an extension into its EHLO reply that is not there usually.
    pub fn offer(&self, extension: &str) {
        lock(&self.state).offered.push(extension.to_owned());
    }

    /// From now on leaves the end of data unanswered.
    pub fn hold_end(&self) {
        self.gate.shut.send_replace(true);
    }

    /// Waits until a message is left unanswered so.
    ///
    /// # Panics
    /// Where none is.
    pub async fn until_held(&self) {
        let mut waiting = self.gate.waiting.subscribe();
        let held = waiting.wait_for(|&count| count > 0);
        let _ = tokio::time::timeout(PATIENCE, held)
            .await
            .expect("a message comes");
    }

    /// Answers what was left unanswered.
    pub fn release_end(&self) {
        self.gate.shut.send_replace(false);
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
        match tokio::time::timeout(PATIENCE, self.arrival(count)).await {
            Ok(()) => self.received(),
            Err(_) => panic!("{} of {count} messages have come", self.received().len()),
        }
    }

    /// Takes the messages that have come out of the sink; waits, for as long as it takes, until
    /// there is one.
    pub async fn take(&self) -> Vec<Received> {
        self.arrival(1).await;
        std::mem::take(&mut lock(&self.state).received)
    }

    /// Takes what has come, and waits for nothing.
    #[must_use]
    pub fn take_now(&self) -> Vec<Received> {
        std::mem::take(&mut lock(&self.state).received)
    }

    async fn arrival(&self, count: usize) {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if lock(&self.state).received.len() >= count {
                return;
            }
            arrived.await;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
