//! The client's driver: LMTP over a Unix socket, streams that a simulation makes, logins at a
//! server of our own.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use postroad_mail::{AuthParam, BodyKind, Protocol, Recipient, Secret, replies};
use postroad_net::client::{
    CertificateCheck, ConnectError, Connector, Dial, Dialling, PeerAddress, Source, Stream, Target,
};
use postroad_net::server::{BoundListener, ConnectionLimits, Handler, ListenerTls, Role, Server};
use postroad_net::tls::TlsCertificates;
use postroad_proto::client::{
    Config, Credentials, Phase, RecipientResult, Report, StartTls, Timeouts, Transaction,
};
use postroad_proto::sasl::Mechanism;
use postroad_proto::server::{self, Answer, Info, Question};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, DuplexStream,
    ReadBuf,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

const MESSAGE: &str = "Subject: x\r\n\r\n.dot\r\n";

/// A message in memory.
struct Message(VecDeque<Bytes>);

impl Message {
    fn new() -> Self {
        let (start, end) = MESSAGE.split_at(7);
        Self([start, end].map(Bytes::from).into())
    }
}

impl Source for Message {
    async fn next(&mut self) -> io::Result<Bytes> {
        Ok(self.0.pop_front().unwrap_or_default())
    }
}

fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        from: "<a@b.test>".parse().unwrap(),
        recipients: recipients
            .iter()
            .map(|r| Recipient::new(r.parse().unwrap()))
            .collect(),
        size: MESSAGE.len() as u64,
        body: BodyKind::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        auth: None,
        require_tls: false,
    }
}

fn config(protocol: Protocol, starttls: StartTls) -> Config {
    Config {
        protocol,
        helo: "me.test".to_owned(),
        starttls,
        credentials: None,
        timeouts: Timeouts::default(),
    }
}

fn target(address: PeerAddress, session: Config) -> Target {
    Target {
        address,
        name: "hop.test".to_owned(),
        implicit_tls: false,
        certificate: CertificateCheck::Any,
        enforce: true,
        source: None,
        connect_timeout: Duration::from_secs(30),
        session: Arc::new(session),
    }
}

fn shown(report: &Report) -> Vec<String> {
    let one = |result: &RecipientResult| match result {
        RecipientResult::Accepted(reply) => format!("accepted {reply}"),
        RecipientResult::Refused { phase, reply } => format!("{phase:?} {reply}"),
        RecipientResult::Broken { phase, error } => format!("{phase:?} {error}"),
        RecipientResult::Unsupported(missing) => format!("{missing:?}"),
    };
    report.recipients.iter().map(one).collect()
}

/// A server that says, to each line of a client that begins so, what stands beside it, and closes
/// where nothing does. Gives all lines that it got.
async fn scripted(stream: impl Stream, script: &[(&str, &str)]) -> Vec<String> {
    let mut stream = BufReader::new(stream);
    let mut script = script.iter();
    let mut lines = Vec::new();
    let mut next = script.next();
    while let Some((expected, said)) = next {
        if !expected.is_empty() {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                break;
            }
            let is_it = line.starts_with(expected);
            lines.push(line);
            if !is_it {
                continue;
            }
        }
        if stream.write_all(said.as_bytes()).await.is_err() {
            break;
        }
        next = script.next();
    }
    lines
}

const GREETING: (&str, &str) = ("", "220 hop\r\n");

fn lmtp_script(end: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        GREETING,
        (
            "LHLO me.test",
            "250-hop\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
        ),
        ("MAIL", "250 2.1.0 ok\r\n"),
        ("RCPT TO:<one@", "250 2.1.5 ok\r\n"),
        ("RCPT TO:<two@", "250 2.1.5 ok\r\n"),
        ("RCPT TO:<three@", "550 5.1.1 no such user\r\n"),
        ("DATA", "354 go\r\n"),
        (".\r\n", end),
    ]
}

const THREE: [&str; 3] = ["one@b.test", "two@b.test", "three@b.test"];

async fn over_unix(path: &Path, end: &'static str) -> (Vec<String>, Vec<String>) {
    let listener = UnixListener::bind(path).unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        scripted(stream, &lmtp_script(end)).await
    });
    // STARTTLS is required, and offered: not here.
    let session = config(Protocol::Lmtp, StartTls::Require);
    let target = target(PeerAddress::Unix(path.to_owned()), session);
    let connector = Connector::new(&[]).unwrap();
    let mut connection = connector.connect(&target).await.unwrap();
    assert_eq!(connection.peer(), &PeerAddress::Unix(path.to_owned()));
    assert_eq!(
        connection.peer().to_string(),
        format!("unix:{}", path.display())
    );
    assert!(connection.tls().is_none() && connection.verdict().is_none());
    let report = connection
        .deliver(transaction(&THREE), &mut Message::new())
        .await;
    drop(connection);
    (shown(&report), serving.await.unwrap())
}

#[tokio::test]
async fn lmtp_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (results, lines) = over_unix(
        &directory.path().join("lmtp"),
        "250 2.0.0 one has it\r\n452 4.2.2 two is full\r\n",
    )
    .await;
    assert_eq!(
        results,
        [
            "accepted 250 2.0.0 one has it",
            "EndOfData 452 4.2.2 two is full",
            "Rcpt 550 5.1.1 no such user",
        ]
    );
    assert_eq!(lines.first().unwrap(), "LHLO me.test\r\n");
    assert_eq!(
        lines.get(6..).unwrap().concat(),
        "Subject: x\r\n\r\n..dot\r\n.\r\n"
    );
}

#[tokio::test]
async fn lmtp_lost_between_the_replies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let (results, _) = over_unix(&path, "250 2.0.0 one has it\r\n").await;
    assert_eq!(
        results,
        [
            "accepted 250 2.0.0 one has it",
            "EndOfData the connection was lost",
            "Rcpt 550 5.1.1 no such user",
        ]
    );
}

#[tokio::test]
async fn no_socket_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    let session = config(Protocol::Lmtp, StartTls::Never);
    let target = target(PeerAddress::Unix(path.clone()), session);
    let error = Connector::new(&[])
        .unwrap()
        .connect(&target)
        .await
        .unwrap_err();
    let text = error.to_string();
    let start = format!("connecting to unix:{}: ", path.display());
    assert!(text.starts_with(&start), "{text}");
    assert!(matches!(
        error,
        ConnectError::Connect {
            unreachable: false,
            ..
        }
    ));
}

/// Streams that are made beforehand, or never.
#[derive(Debug)]
struct Pipes {
    streams: Mutex<VecDeque<DuplexStream>>,
    asked: Mutex<Vec<(PeerAddress, Option<IpAddr>)>>,
}

impl Dial for Pipes {
    fn dial<'a>(&'a self, address: &'a PeerAddress, source: Option<IpAddr>) -> Dialling<'a> {
        self.asked.lock().unwrap().push((address.clone(), source));
        let stream = self.streams.lock().unwrap().pop_front();
        Box::pin(async move {
            match stream {
                Some(stream) => Ok(Box::new(stream) as Box<dyn Stream>),
                None => std::future::pending().await,
            }
        })
    }
}

fn pipes(streams: Vec<DuplexStream>) -> (Connector, Arc<Pipes>) {
    let pipes = Arc::new(Pipes {
        streams: Mutex::new(streams.into()),
        asked: Mutex::default(),
    });
    let dialer: Arc<dyn Dial> = Arc::<Pipes>::clone(&pipes);
    (Connector::new(&[]).unwrap().with_dialer(dialer), pipes)
}

/// A pipe of a few octets, to find who waits for whom.
#[tokio::test(start_paused = true)]
async fn streams_that_are_no_sockets() {
    let (ours, theirs) = tokio::io::duplex(16);
    let (connector, pipes) = pipes(vec![ours]);
    let serving = tokio::spawn(async move {
        let script = [
            GREETING,
            ("EHLO", "250-hop\r\n250 PIPELINING\r\n"),
            ("MAIL", "250 ok\r\n"),
            ("RCPT", "250 ok\r\n"),
            ("DATA", "354 go\r\n"),
            (".\r\n", "250 taken\r\n"),
            ("QUIT", "221 bye\r\n"),
        ];
        scripted(theirs, &script).await
    });
    let address: PeerAddress = "192.0.2.1:25"
        .parse::<std::net::SocketAddr>()
        .unwrap()
        .into();
    let source: IpAddr = "192.0.2.9".parse().unwrap();
    let target = Target {
        source: Some(source),
        ..target(address.clone(), config(Protocol::Smtp, StartTls::IfOffered))
    };
    let mut connection = connector.connect(&target).await.unwrap();
    let report = connection
        .deliver(transaction(&["c@d.test"]), &mut Message::new())
        .await;
    assert_eq!(shown(&report), ["accepted 250 taken"]);
    assert!(connection.is_alive().await);
    connection.quit().await;
    assert_eq!(serving.await.unwrap().last().unwrap(), "QUIT\r\n");
    assert_eq!(*pipes.asked.lock().unwrap(), [(address, Some(source))]);
}

#[tokio::test(start_paused = true)]
async fn time_is_that_of_the_simulation() {
    let address = || PeerAddress::Unix(PathBuf::from("/nowhere"));
    let (connector, _) = pipes(Vec::new());
    let target = target(address(), config(Protocol::Smtp, StartTls::Never));
    let start = tokio::time::Instant::now();
    let error = connector.connect(&target).await.unwrap_err();
    assert!(
        error.to_string().ends_with("no answer within 30 s"),
        "{error}"
    );
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    // Silence in the place of a greeting.
    let (ours, _theirs) = tokio::io::duplex(64);
    let (connector, _) = pipes(vec![ours]);
    let error = connector.connect(&target).await.unwrap_err();
    let ConnectError::Session { phase, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(phase, Phase::Greeting);
    assert_eq!(start.elapsed(), Duration::from_secs(330));
}

/// A server that says something once, and then something else for ever; it takes all.
struct Endless {
    once: &'static [u8],
    again: &'static [u8],
    given: Arc<AtomicUsize>,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.once.is_empty() {
            self.once = self.again;
        }
        let (now, later) = self.once.split_at(buffer.remaining().min(self.once.len()));
        buffer.put_slice(now);
        self.given.fetch_add(now.len(), Ordering::Relaxed);
        self.once = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct ToEndless(&'static [u8], &'static [u8], Arc<AtomicUsize>);

impl Dial for ToEndless {
    fn dial<'a>(&'a self, _: &'a PeerAddress, _: Option<IpAddr>) -> Dialling<'a> {
        let stream = Endless {
            once: self.0,
            again: self.1,
            given: Arc::clone(&self.2),
        };
        Box::pin(async { Ok(Box::new(stream) as Box<dyn Stream>) })
    }
}

/// Replies that do not end are given up on, in their bounds, wherever they come.
#[tokio::test(start_paused = true)]
async fn replies_without_end() {
    const BOUND: usize = 256 << 10;
    let address = || PeerAddress::Unix(PathBuf::from("/nowhere"));
    let hello = b"220 hop\r\n250 hop\r\n";
    for (once, again, end) in [
        (
            &b""[..],
            &b"220-x\r\n"[..],
            "Greeting a reply that does not end",
        ),
        (b"", b"220 x", "Greeting a line that does not end"),
        (
            b"220 hop\r\n",
            b"250-x\r\n",
            "Hello a reply that does not end",
        ),
        (b"220 hop\r\n", b"\0", "Hello a line that does not end"),
        (hello, b"250-x\r\n", "Mail a reply that does not end"),
        (hello, b"25", "Mail a line that does not end"),
        // What comes before it was asked for answers nothing.
        (
            b"220 hop\r\n250 hop\r\n250 ok\r\n250 ok\r\n354 go\r\n",
            b"250-x\r\n",
            "Idle a reply to nothing",
        ),
    ] {
        let given = Arc::new(AtomicUsize::new(0));
        let dialer = Arc::new(ToEndless(once, again, Arc::clone(&given)));
        let connector = Connector::new(&[]).unwrap().with_dialer(dialer);
        let target = target(address(), config(Protocol::Smtp, StartTls::Never));
        let shown = match connector.connect(&target).await {
            Ok(mut connection) => {
                let transaction = transaction(&["c@d.test"]);
                let report = connection.deliver(transaction, &mut Message::new()).await;
                assert!(!connection.is_reusable());
                shown(&report).concat()
            }
            Err(ConnectError::Session { phase, error, .. }) => format!("{phase:?} {error}"),
            Err(error) => panic!("{error}"),
        };
        let shown = shown.replace("the server's reply is not valid: ", "");
        assert_eq!(shown, end, "{:?}", again.escape_ascii().to_string());
        let given = given.load(Ordering::Relaxed);
        assert!(given < BOUND, "{given} octets were read");
    }
}

/// A server that knows one user, and takes mail from that one only.
struct Submission {
    session: Arc<server::Config>,
    said: Arc<Mutex<Vec<String>>>,
}

struct Conversation {
    said: Arc<Mutex<Vec<String>>>,
}

impl Role for Submission {
    type Handler = Conversation;

    fn open(&self, _: IpAddr) -> (Arc<server::Config>, Conversation) {
        let said = Arc::clone(&self.said);
        (Arc::clone(&self.session), Conversation { said })
    }

    fn is_trusted(&self, _: IpAddr) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "submission"
    }
}

impl Handler for Conversation {
    async fn ask(&mut self, info: &Info, question: Question) -> Answer {
        match question {
            Question::Password {
                mechanism,
                user,
                secret,
                ..
            } => {
                let said = format!("{mechanism} {user} {}", secret.expose());
                self.said.lock().unwrap().push(said);
                if user == "me@b.test" && secret.expose() == "right" {
                    Answer::Identity(user)
                } else {
                    Answer::Reject(replies::AUTH_FAILED)
                }
            }
            Question::Mail(mail) => {
                let identity = info.identity.clone().unwrap_or_default();
                let said = format!("MAIL by {identity}: {:?}", mail.auth);
                self.said.lock().unwrap().push(said);
                Answer::Accept
            }
            Question::Commit => Answer::Queued("id".to_owned()),
            _ => Answer::Accept,
        }
    }

    async fn body(&mut self, _: Bytes) {}

    fn abandon(&mut self) {}
}

fn certificates(directory: &Path) -> TlsCertificates {
    let made = rcgen::generate_simple_self_signed(vec!["hop.test".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    TlsCertificates::load(&certificate, &key).unwrap()
}

/// What comes of a login with `password` by one mechanism, and what the server has heard.
async fn log_in(mechanism: Mechanism, password: &str, implicit_tls: bool) -> (String, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let mut session = server::Config::new("hop.test".parse().unwrap());
    session.extensions.auth = vec![Mechanism::Plain, Mechanism::Login];
    session.require_auth = true;
    let said = Arc::new(Mutex::new(Vec::new()));
    let role = Submission {
        session: Arc::new(session),
        said: Arc::clone(&said),
    };
    let tls = if implicit_tls {
        ListenerTls::Implicit
    } else {
        ListenerTls::StartTls
    };
    let listener = BoundListener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = listener.local_address().unwrap();
    let shutdown = CancellationToken::new();
    let server = Server::new(
        Arc::new(role),
        Some(Arc::new(certificates(directory.path()))),
        ConnectionLimits::default(),
        shutdown.clone(),
    );
    let running = tokio::spawn(server.run(vec![listener], Duration::from_secs(10)));
    let credentials = Credentials {
        user: "me@b.test".to_owned(),
        secret: Secret::new(password.to_owned()),
        mechanisms: vec![mechanism],
    };
    let target = Target {
        implicit_tls,
        certificate: CertificateCheck::Valid,
        ..target(
            address.into(),
            Config {
                credentials: Some(credentials),
                ..config(Protocol::Smtp, StartTls::IfOffered)
            },
        )
    };
    let connector = Connector::new(&[directory.path().join("cert.pem")]).unwrap();
    let end = match connector.connect(&target).await {
        Ok(mut connection) => {
            let transaction = Transaction {
                auth: Some(AuthParam::Identity("me@b.test".to_owned())),
                ..transaction(&["c@d.test"])
            };
            let report = connection.deliver(transaction, &mut Message::new()).await;
            connection.quit().await;
            shown(&report).concat()
        }
        Err(ConnectError::Session { phase, error, .. }) => format!("{phase:?}: {error}"),
        Err(error) => error.to_string(),
    };
    shutdown.cancel();
    running.await.unwrap();
    let said = said.lock().unwrap().clone();
    (end, said)
}

#[tokio::test]
async fn logins_at_our_own_server() {
    for mechanism in [Mechanism::Plain, Mechanism::Login] {
        for implicit_tls in [false, true] {
            let (end, said) = log_in(mechanism, "right", implicit_tls).await;
            assert_eq!(end, "accepted 250 2.0.0 Queued as id");
            let login = format!("{mechanism} me@b.test right");
            let mail = "MAIL by me@b.test: Some(Identity(\"me@b.test\"))";
            assert_eq!(said, [login.as_str(), mail]);
            let (end, said) = log_in(mechanism, "wrong", implicit_tls).await;
            assert!(end.starts_with("Auth: the server said 535 5.7.8"), "{end}");
            assert_eq!(said, [format!("{mechanism} me@b.test wrong")]);
        }
    }
}
