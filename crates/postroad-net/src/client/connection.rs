use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::poll;
use postroad_mail::TlsInfo;
use postroad_proto::Extensions;
use postroad_proto::client::{
    Config, Output, Phase, RecipientResult, Report, Session, SessionError, StartTls, Transaction,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::dial::{Stream, is_unreachable};
use super::tls::TlsConfigs;
use super::{ConnectError, Connector, PeerAddress, Source, Target, TlsVerdict};
use crate::clock;

/// Octets read from a server at a time.
const READ: usize = 4096;
/// Octets that gather before they are written, at least.
const WRITE: usize = 16 << 10;

/// An open session, between transactions.
pub struct Connection {
    /// None once it has been closed.
    stream: Option<Box<dyn Stream>>,
    session: Session,
    input: BytesMut,
    peer: PeerAddress,
    tls: Option<TlsInfo>,
    verdict: Option<TlsVerdict>,
    write_timeout: Duration,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// The content of a message that is not sent.
struct Nothing;

impl Source for Nothing {
    async fn next(&mut self) -> std::io::Result<bytes::Bytes> {
        Ok(bytes::Bytes::new())
    }
}

impl Connector {
    /// Calls a next hop and opens a session with it.
    ///
    /// # Errors
    /// Where it came to none.
    pub async fn connect(&self, target: &Target) -> Result<Connection, ConnectError> {
        let failed = |detail: String, unreachable| ConnectError::Connect {
            address: target.address.clone(),
            detail,
            unreachable,
        };
        let dialling = self.dialer.dial(&target.address, target.source);
        let stream = match tokio::time::timeout(target.connect_timeout, dialling).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(error.to_string(), is_unreachable(&error))),
            Err(_) => {
                let waited = target.connect_timeout.as_secs();
                return Err(failed(format!("no answer within {waited} s"), false));
            }
        };
        let (stream, tls, verdict): (Box<dyn Stream>, _, _) = if target.implicit_tls {
            let (stream, info, verdict) = self.tls.handshake(target, stream).await?;
            (Box::new(stream), Some(info), Some(verdict))
        } else {
            (stream, None, None)
        };
        let session = Session::new(clock::instant(), config(target), tls.clone());
        let mut connection = Connection {
            stream: Some(stream),
            session,
            input: BytesMut::new(),
            peer: target.address.clone(),
            tls,
            verdict,
            write_timeout: target.session.timeouts.data_block,
        };
        connection.open(&self.tls, target).await?;
        Ok(connection)
    }
}

/// Over a Unix socket STARTTLS protects from nobody, and is left alone, but for a password, which
/// goes under TLS only.
fn config(target: &Target) -> Arc<Config> {
    let usual = &target.session;
    let starttls = match (&target.address, &usual.credentials) {
        (PeerAddress::Tcp(_), _) => usual.starttls,
        (PeerAddress::Unix(_), None) => StartTls::Never,
        (PeerAddress::Unix(_), Some(_)) => StartTls::IfOffered,
    };
    if starttls == usual.starttls {
        return Arc::clone(usual);
    }
    Arc::new(Config {
        starttls,
        ..(**usual).clone()
    })
}

impl Connection {
    async fn open(&mut self, configs: &TlsConfigs, target: &Target) -> Result<(), ConnectError> {
        loop {
            match self.session.poll(clock::instant(), &mut self.input) {
                Output::Ready => return Ok(()),
                Output::Wait { until } => self.exchange(until).await,
                Output::StartTls => {
                    self.flush().await;
                    self.input.clear();
                    let Some(stream) = self.stream.take() else {
                        self.session.end_of_input(clock::instant());
                        continue;
                    };
                    let (stream, info, verdict) = configs.handshake(target, stream).await?;
                    self.stream = Some(Box::new(stream));
                    self.tls = Some(info.clone());
                    self.verdict = Some(verdict);
                    self.session.tls_started(clock::instant(), info);
                }
                Output::Failed { phase, error } => {
                    return Err(ConnectError::Session {
                        address: self.peer.clone(),
                        phase,
                        error,
                    });
                }
                Output::Body | Output::Finished(_) | Output::Closed => {
                    let error = SessionError::Protocol("out of turn");
                    return Err(ConnectError::Session {
                        address: self.peer.clone(),
                        phase: Phase::Idle,
                        error,
                    });
                }
            }
        }
    }

    /// Sends one message. Always reports on every recipient. Where the content cannot be read to
    /// its end, the connection is dropped before the end of data, and all recipients are `Broken`.
    pub async fn deliver(&mut self, transaction: Transaction, content: &mut impl Source) -> Report {
        let recipients = transaction.recipients.len();
        self.session.begin(clock::instant(), transaction);
        self.transact(recipients, content).await
    }

    /// Asks what the server says to a transaction without sending its message: MAIL, RCPT, RSET.
    /// Recipients that it would take are `Accepted`, with the reply to RCPT.
    pub async fn probe(&mut self, transaction: Transaction) -> Report {
        let recipients = transaction.recipients.len();
        self.session.probe(clock::instant(), transaction);
        self.transact(recipients, &mut Nothing).await
    }

    async fn transact(&mut self, recipients: usize, content: &mut impl Source) -> Report {
        loop {
            match self.session.poll(clock::instant(), &mut self.input) {
                Output::Finished(report) => {
                    self.give_back();
                    return report;
                }
                Output::Wait { until } => self.exchange(until).await,
                Output::Body if self.stream.is_none() => {
                    self.session.end_of_input(clock::instant());
                }
                Output::Body => match content.next().await {
                    Ok(piece) if piece.is_empty() => self.session.body_end(clock::instant()),
                    Ok(piece) => {
                        self.session.body(clock::instant(), &piece);
                        if self.session.requests().len() >= WRITE {
                            self.flush().await;
                            self.look().await;
                        }
                    }
                    Err(_) => {
                        self.stream = None;
                        self.session.end_of_input(clock::instant());
                    }
                },
                Output::Failed { phase, error } => {
                    self.stream = None;
                    let broken = || RecipientResult::Broken {
                        phase,
                        error: error.clone(),
                    };
                    return Report {
                        recipients: (0..recipients).map(|_| broken()).collect(),
                    };
                }
                Output::Ready | Output::StartTls | Output::Closed => {
                    self.stream = None;
                    self.session.end_of_input(clock::instant());
                }
            }
        }
    }

    /// Whether another message may follow.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.stream.is_some() && self.session.is_ready()
    }

    /// Looks, without waiting, whether the server has ended an idle session.
    pub async fn is_alive(&mut self) -> bool {
        self.look().await;
        matches!(
            self.session.poll(clock::instant(), &mut self.input),
            Output::Ready
        ) && self.is_reusable()
    }

    /// The connection's TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// What came of the check of the server's certificate; none without TLS.
    #[must_use]
    pub fn verdict(&self) -> Option<&TlsVerdict> {
        self.verdict.as_ref()
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &PeerAddress {
        &self.peer
    }

    /// What the server offers.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        self.session.extensions()
    }

    /// Says QUIT, and closes, within a few seconds.
    pub async fn quit(mut self) {
        self.session.quit(clock::instant());
        while let Output::Wait { until } = self.session.poll(clock::instant(), &mut self.input) {
            self.exchange(until).await;
        }
        if let Some(mut stream) = self.stream.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
        }
    }

    /// Writes what has gathered, reads what comes.
    async fn exchange(&mut self, until: std::time::Instant) {
        let unread = self.input.len();
        self.flush().await;
        let Some(stream) = &mut self.stream else {
            // Where the server has said why it closed, the session hears that first.
            if self.input.len() == unread {
                self.session.end_of_input(clock::instant());
            }
            return;
        };
        self.input.reserve(READ);
        match tokio::time::timeout_at(until.into(), stream.read_buf(&mut self.input)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(_) => self.lost(),
            Err(_) => self.session.timed_out(clock::instant()),
        }
    }

    /// Reads what is there without waiting for it: a refusal that comes while we send.
    async fn look(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        self.input.reserve(READ);
        let read = {
            let mut reading = pin!(stream.read_buf(&mut self.input));
            poll!(reading.as_mut())
        };
        if matches!(read, Poll::Ready(Ok(0) | Err(_))) {
            self.lost();
        }
    }

    async fn flush(&mut self) {
        let requests = self.session.requests().split();
        if requests.is_empty() {
            return;
        }
        let Some(stream) = &mut self.stream else {
            return;
        };
        let writing = async {
            stream.write_all(&requests).await?;
            stream.flush().await
        };
        match tokio::time::timeout(self.write_timeout, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                // The server may have said why before it closed.
                self.look().await;
                let _ = self.stream.take();
            }
            Err(_) => self.lost(),
        }
    }

    /// Gives the buffers back that a message has needed: a connection that is kept for the next
    /// one holds no room for it. What is in them stays.
    fn give_back(&mut self) {
        for buffer in [self.session.requests(), &mut self.input] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
    }

    fn lost(&mut self) {
        self.stream = None;
        if self.input.is_empty() {
            self.session.end_of_input(clock::instant());
        }
    }
}
