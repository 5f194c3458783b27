//! The server's side: listeners, limits, and the driver of [`postroad_proto::server::Session`].

mod drive;
mod limits;
mod listener;
mod transport;

use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use postroad_mail::replies;
use postroad_proto::server::{Answer, BareNewline, Config, Info, Peer, Question, Session};
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

pub use limits::{ConnectionLimits, Refusal};
pub use listener::{BindError, BoundListener, ListenerTls};

use crate::clock;
use crate::tls::TlsCertificates;
use drive::Driver;
use limits::Gate;
use listener::Terms;
use transport::Transport;

/// A pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A role's side of one session: answers its questions and takes its content.
pub trait Handler: Send + 'static {
    /// Decides. What is ready at once must not yield: then it costs no write and no task switch.
    fn ask(&mut self, info: &Info, question: Question) -> impl Future<Output = Answer> + Send;

    /// Takes a piece of content. A failure is remembered, and is the answer to `Commit`.
    fn body(&mut self, chunk: Bytes) -> impl Future<Output = ()> + Send;

    /// Forgets the transaction under way.
    fn abandon(&mut self);
}

/// A role: what a listener serves.
pub trait Role: Send + Sync + 'static {
    /// Its side of a session.
    type Handler: Handler;

    /// The session settings now in force, and a handler, for a new connection from `peer`.
    fn open(&self, peer: IpAddr) -> (Arc<Config>, Self::Handler);

    /// Whether the peer is in a trusted network.
    fn is_trusted(&self, peer: IpAddr) -> bool;

    /// `submission` or `relay`, for the log.
    fn name(&self) -> &'static str;
}

/// A role on its listeners.
#[derive(Debug)]
pub struct Server<R> {
    role: Arc<R>,
    certificates: Option<Arc<TlsCertificates>>,
    gate: Arc<Gate>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl<R> Clone for Server<R> {
    fn clone(&self) -> Self {
        Self {
            role: Arc::clone(&self.role),
            certificates: self.certificates.clone(),
            gate: Arc::clone(&self.gate),
            tracker: self.tracker.clone(),
            shutdown: self.shutdown.clone(),
        }
    }
}

impl<R: Role> Server<R> {
    /// A server that ends its sessions when `shutdown` is cancelled.
    #[must_use]
    pub fn new(
        role: Arc<R>,
        certificates: Option<Arc<TlsCertificates>>,
        limits: ConnectionLimits,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            role,
            certificates,
            gate: Arc::new(Gate::new(limits)),
            tracker: TaskTracker::new(),
            shutdown,
        }
    }

    /// New limits for connections made from now on.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.gate.set(limits);
    }

    /// Serves the listeners until the shutdown, then lets sessions finish for `drain` at most.
    pub async fn run(self, listeners: Vec<BoundListener>, drain: Duration) {
        for bound in listeners {
            let server = self.clone();
            self.tracker
                .spawn(async move { server.accept(bound).await });
        }
        self.shutdown.cancelled().await;
        self.tracker.close();
        if tokio::time::timeout(drain, self.tracker.wait())
            .await
            .is_err()
        {
            warn!(
                service = self.role.name(),
                sessions = self.gate.open(),
                "sessions cut off at the end of the time to finish"
            );
        }
    }

    async fn accept(self, bound: BoundListener) {
        let (listener, terms) = match bound.into_tokio() {
            Ok(listener) => listener,
            Err(error) => {
                error!(%error, "a listening socket cannot be used");
                return;
            }
        };
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.spawn(stream, peer.ip().to_canonical(), terms),
                    Err(error) => {
                        warn!(%error, listener = %address(&listener), "accepting a connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn spawn(&self, stream: TcpStream, peer: IpAddr, terms: Terms) {
        // Replies are written whole; waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        let trusted = self.role.is_trusted(peer);
        let entry = match self.gate.enter(peer, trusted, clock::instant()) {
            Ok(entry) => entry,
            Err(refusal) => {
                info!(service = self.role.name(), peer = %peer, reason = ?refusal, "connection refused");
                // Whoever waits for TLS cannot read why.
                if terms.tls != ListenerTls::Implicit {
                    self.tracker.spawn(refuse(stream, refusal));
                }
                return;
            }
        };
        let server = self.clone();
        self.tracker.spawn(async move {
            let served = AssertUnwindSafe(server.serve(stream, peer, trusted, terms)).catch_unwind().await;
            let errors = served.unwrap_or_else(|_| {
                error!(service = server.role.name(), peer = %peer, "a session ended by a fault of ours");
                0
            });
            entry.leave(errors, clock::instant());
        });
    }

    /// One connection from its first octet to its last; gives the errors counted in it.
    async fn serve(&self, stream: TcpStream, address: IpAddr, trusted: bool, terms: Terms) -> u32 {
        // Both boxed, or every idle session had room for its driver more than once.
        let beginning = Box::pin(self.begin(stream, address, trusted, terms));
        let mut driver = match beginning.await {
            Ok(driver) => driver,
            Err(errors) => return errors,
        };
        let ended = driver.run().await;
        debug!(service = self.role.name(), peer = %address, errors = ended.errors, messages = ended.messages, replies_max = ended.output_max, reason = %ended.reason, "session ended");
        ended.errors
    }

    /// The session and what drives it, under TLS where the listener has it so; or the errors
    /// counted where it comes to none.
    async fn begin(
        &self,
        stream: TcpStream,
        address: IpAddr,
        trusted: bool,
        terms: Terms,
    ) -> Result<Box<Driver<TcpStream, R::Handler>>, u32> {
        let (config, handler) = self.role.open(address);
        let acceptor = self.certificates.as_ref().map(|c| c.acceptor());
        let mut transport = Transport::Plain(stream);
        let mut peer = Peer {
            address,
            trusted,
            tls: None,
        };
        if terms.tls == ListenerTls::Implicit {
            // Never in plaintext where TLS was promised.
            let Some(acceptor) = &acceptor else {
                error!(service = self.role.name(), peer = %address, "a listener with implicit TLS has no certificate: the connection is closed");
                return Err(0);
            };
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, transport.accept_tls(acceptor)).await {
                Ok(Ok((secured, info))) => {
                    transport = secured;
                    peer.tls = Some(info);
                }
                Ok(Err(error)) => {
                    debug!(service = self.role.name(), peer = %address, %error, "TLS handshake failed");
                    return Err(1);
                }
                Err(_) => return Err(1),
            }
        }
        let starttls = terms.tls == ListenerTls::StartTls && acceptor.is_some();
        let config = session_config(config, starttls, terms.bare_newline);
        let write_timeout = config.limits.command_timeout;
        let session = Session::new(clock::instant(), config, peer);
        Ok(Box::new(Driver::new(
            transport,
            session,
            handler,
            acceptor,
            self.shutdown.clone(),
            write_timeout,
            has_spoken,
        )))
    }
}

/// Looks at the socket itself: tokio knows of input only once its driver has run.
fn has_spoken(stream: &TcpStream) -> bool {
    let mut first = [std::mem::MaybeUninit::uninit()];
    SockRef::from(stream)
        .peek(&mut first)
        .is_ok_and(|octets| octets > 0)
}

/// STARTTLS is offered where the listener has it, and a certificate for it.
fn session_config(
    config: Arc<Config>,
    starttls: bool,
    bare_newline: Option<BareNewline>,
) -> Arc<Config> {
    let bare_newline = bare_newline.unwrap_or(config.bare_newline);
    if config.extensions.starttls == starttls && config.bare_newline == bare_newline {
        return config;
    }
    let mut config = Arc::unwrap_or_clone(config);
    config.extensions.starttls = starttls;
    config.bare_newline = bare_newline;
    Arc::new(config)
}

fn address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|_| "?".to_owned(), |a| a.to_string())
}

async fn refuse(mut stream: TcpStream, refusal: Refusal) {
    let reply = match refusal {
        Refusal::Connections | Refusal::PerAddress => replies::TOO_MANY_CONNECTIONS,
        Refusal::Errors => replies::TOO_MANY_ERRORS,
    };
    let mut text = Vec::with_capacity(128);
    reply.write_to(&mut text);
    let said = async {
        stream.write_all(&text).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, said).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    struct Open;

    impl Handler for Open {
        async fn ask(&mut self, _: &Info, _: Question) -> Answer {
            Answer::Accept
        }

        async fn body(&mut self, _: Bytes) {}

        fn abandon(&mut self) {}
    }

    impl Role for Open {
        type Handler = Self;

        fn open(&self, _: IpAddr) -> (Arc<Config>, Self) {
            let mut config = Config::new("mx.test".parse().unwrap());
            config.extensions.starttls = true;
            (Arc::new(config), Self)
        }

        fn is_trusted(&self, _: IpAddr) -> bool {
            false
        }

        fn name(&self) -> &'static str {
            "relay"
        }
    }

    /// Octets of a task that holds no buffer and no driver.
    const TASK_MAX: usize = 1024;

    /// Every idle connection has one, besides its driver.
    #[tokio::test]
    async fn the_task_of_a_session_is_small() {
        let bound = BoundListener::bind(([127, 0, 0, 1], 0).into(), ListenerTls::None).unwrap();
        let (listener, terms) = bound.into_tokio().unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let limits = ConnectionLimits::default();
        let server = Server::new(Arc::new(Open), None, limits, CancellationToken::new());
        let task = size_of_val(&server.serve(stream, address.ip(), false, terms));
        assert!(task <= TASK_MAX, "{task} octets");
    }

    /// What a client hears that says EHLO and QUIT, in plaintext.
    async fn heard(tls: ListenerTls, connections: usize) -> String {
        let bound = BoundListener::bind(([127, 0, 0, 1], 0).into(), tls).unwrap();
        let address = bound.local_address().unwrap();
        let shutdown = CancellationToken::new();
        let limits = ConnectionLimits {
            connections,
            ..ConnectionLimits::default()
        };
        let server = Server::new(Arc::new(Open), None, limits, shutdown.clone());
        let running = tokio::spawn(server.run(vec![bound], Duration::from_secs(10)));
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut heard = vec![0; 4];
        if client.read_exact(&mut heard).await.is_ok() {
            let _ = client.write_all(b"EHLO c.test\r\nQUIT\r\n").await;
            let _ = client.read_to_end(&mut heard).await;
        } else {
            heard.clear();
        }
        shutdown.cancel();
        running.await.unwrap();
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test]
    async fn without_a_certificate_no_tls_is_promised_and_none_pretended() {
        let said = heard(ListenerTls::StartTls, 9).await;
        assert!(
            said.contains("\r\n221 ") && !said.contains("STARTTLS"),
            "{said}"
        );
        assert_eq!(heard(ListenerTls::Implicit, 9).await, "");
    }

    #[test]
    fn a_listener_has_its_own_way_with_bare_newlines() {
        let mut config = Config::new("mx.test".parse().unwrap());
        config.bare_newline = BareNewline::NormalizeTrusted;
        let config = Arc::new(config);
        let of = |own| session_config(Arc::clone(&config), false, own).bare_newline;
        assert_eq!(of(None), BareNewline::NormalizeTrusted);
        assert_eq!(of(Some(BareNewline::Reject)), BareNewline::Reject);
    }

    #[tokio::test]
    async fn one_too_many_is_told_so() {
        let said = heard(ListenerTls::None, 0).await;
        assert!(said.starts_with("421 4.7.0 "), "{said}");
        assert_eq!(heard(ListenerTls::Implicit, 0).await, "");
    }

    /// Remembers whom it was asked about.
    #[derive(Default)]
    struct Asked(std::sync::Mutex<Vec<(&'static str, IpAddr)>>);

    impl Role for Asked {
        type Handler = Open;

        fn open(&self, peer: IpAddr) -> (Arc<Config>, Open) {
            self.0.lock().unwrap().push(("open", peer));
            Open.open(peer)
        }

        fn is_trusted(&self, peer: IpAddr) -> bool {
            self.0.lock().unwrap().push(("trusted", peer));
            false
        }

        fn name(&self) -> &'static str {
            "relay"
        }
    }

    /// `[::]` takes connections of both families, and those of IPv4 are of IPv4: a role that
    /// trusts 127.0.0.0/8 must know 127.0.0.1.
    #[tokio::test]
    async fn one_listener_serves_both_families() {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
            assert!(!v6.contains("lo"), "::1 is there, and cannot be bound");
            return;
        }
        let bound = BoundListener::bind("[::]:0".parse().unwrap(), ListenerTls::None).unwrap();
        let port = bound.local_address().unwrap().port();
        let shutdown = CancellationToken::new();
        let role = Arc::new(Asked::default());
        let limits = ConnectionLimits::default();
        let server = Server::new(Arc::clone(&role), None, limits, shutdown.clone());
        let running = tokio::spawn(server.run(vec![bound], Duration::from_secs(10)));
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let mut client = TcpStream::connect((address, port)).await.unwrap();
            let mut greeting = [0; 4];
            client.read_exact(&mut greeting).await.unwrap();
            client.write_all(b"QUIT\r\n").await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert!(heard.contains("\r\n221 2.0.0 "), "{address}: {heard}");
            let asked = std::mem::take(&mut *role.0.lock().unwrap());
            assert_eq!(asked, [("trusted", address), ("open", address)]);
        }
        shutdown.cancel();
        running.await.unwrap();
    }

    /// A client that goes on sending when we have closed still reads our last reply: what it
    /// sends is read away, or the reset that answers it would overtake the reply.
    #[tokio::test]
    async fn the_last_reply_is_not_lost_to_whoever_goes_on_sending() {
        let bound = BoundListener::bind(([127, 0, 0, 1], 0).into(), ListenerTls::None).unwrap();
        let address = bound.local_address().unwrap();
        let shutdown = CancellationToken::new();
        let limits = ConnectionLimits::default();
        let server = Server::new(Arc::new(Open), None, limits, shutdown.clone());
        let running = tokio::spawn(server.run(vec![bound], Duration::from_secs(10)));
        for _ in 0..8 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let mut greeting = [0; 4];
            client.read_exact(&mut greeting).await.unwrap();
            // More than is read at once, and more behind that when the reply is under way.
            let mut sent = b"QUIT\r\n".to_vec();
            sent.resize(48 << 10, b'x');
            client.write_all(&sent).await.unwrap();
            let mut first = [0; 1];
            while client.read_exact(&mut first).await.unwrap() > 0 && first != *b"\n" {}
            client.write_all(&[b'x'; 8 << 10]).await.unwrap();
            let mut heard = String::new();
            client
                .read_to_string(&mut heard)
                .await
                .expect("no reset before the end");
            assert!(heard.starts_with("221 2.0.0 "), "{heard}");
        }
        shutdown.cancel();
        running.await.unwrap();
    }
}
