//! A next hop that does what it is told to, and remembers what was said to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite,
    AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// What a hop does about a command.
pub enum Act {
    /// What a server usually does.
    Usual,
    /// Says this; 421 also closes.
    Say(&'static str),
    /// Closes.
    Close,
    /// What a server usually does, once [`Hop::release`] lets it; at `END` only.
    Hold,
}

/// What is known when a command comes.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Messages taken over this connection.
    pub messages: usize,
    /// Recipients taken in this transaction.
    pub recipients: usize,
}

/// A transaction that was taken, or lost by design after its end.
#[derive(Clone, Debug)]
pub struct Taken {
    pub connection: usize,
    pub tls: bool,
    pub lmtp: bool,
    /// The MAIL line.
    pub mail: String,
    /// The RCPT lines.
    pub rcpt: Vec<String>,
    pub data: String,
    /// The message itself: without its final dot, no dot taken away.
    pub octets: Vec<u8>,
}

impl Taken {
    /// The recipients, without what goes with them.
    pub fn to(&self) -> Vec<&str> {
        self.rcpt
            .iter()
            .filter_map(|line| line.split(['<', '>']).nth(1))
            .collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// STARTTLS is not offered.
    None,
    /// It is, and works.
    Works,
    /// It is, and what follows the 220 is no handshake.
    Broken,
}

type Script = Arc<dyn Fn(&str, At) -> Act + Send + Sync>;

#[derive(Default)]
struct Seen {
    connections: usize,
    lines: Vec<String>,
    taken: Vec<Taken>,
    /// Transactions that wait at their end.
    held: usize,
}

/// A hop; it ends with the test.
pub struct Hop {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    gate: Arc<Semaphore>,
}

#[derive(Clone)]
struct Temper {
    script: Script,
    extensions: &'static [&'static str],
    tls: Tls,
    gate: Arc<Semaphore>,
}

/// All extensions that the tests ask for.
pub const ALL: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN"];

/// An address of this machine that no other test has.
pub fn own_ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(2);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let [.., a, b] = process.to_be_bytes();
    IpAddr::from([127, a.max(1), b, u8::try_from(n).unwrap()])
}

impl Hop {
    /// One that takes all.
    pub async fn start(port: u16) -> Self {
        Self::with(port, ALL, Tls::None, |_, _| Act::Usual).await
    }

    /// One with a script: called for `GREETING`, each command, and `END` of data.
    pub async fn scripted(
        port: u16,
        script: impl Fn(&str, At) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::with(port, ALL, Tls::None, script).await
    }

    pub async fn with(
        port: u16,
        extensions: &'static [&'static str],
        tls: Tls,
        script: impl Fn(&str, At) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((own_ip(), port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hop, temper) = Self::made(address, extensions, tls, script);
        let shared = Arc::clone(&hop.seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve_on(stream, &shared, &temper);
            }
        });
        hop
    }

    /// One behind a Unix socket.
    pub async fn unix(
        path: &std::path::Path,
        script: impl Fn(&str, At) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let nowhere = ([0, 0, 0, 0], 0).into();
        let (hop, temper) = Self::made(nowhere, ALL, Tls::None, script);
        let shared = Arc::clone(&hop.seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve_on(stream, &shared, &temper);
            }
        });
        hop
    }

    fn made(
        address: SocketAddr,
        extensions: &'static [&'static str],
        tls: Tls,
        script: impl Fn(&str, At) -> Act + Send + Sync + 'static,
    ) -> (Self, Temper) {
        let temper = Temper {
            script: Arc::new(script),
            extensions,
            tls,
            gate: Arc::new(Semaphore::new(0)),
        };
        let gate = Arc::clone(&temper.gate);
        let seen = Arc::default();
        (
            Self {
                address,
                seen,
                gate,
            },
            temper,
        )
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.seen.lock().unwrap().taken.clone()
    }

    /// How many transactions wait at their end.
    pub fn held(&self) -> usize {
        self.seen.lock().unwrap().held
    }

    /// Lets so many of them end.
    pub fn release(&self, transactions: usize) {
        self.gate.add_permits(transactions);
    }

    /// How often a command came.
    pub fn count(&self, verb: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.lines.iter().filter(|l| l.starts_with(verb)).count()
    }
}

fn serve_on<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    seen: &Arc<Mutex<Seen>>,
    temper: &Temper,
) {
    let (seen, temper) = (Arc::clone(seen), temper.clone());
    let connection = seen.lock().unwrap().connections;
    seen.lock().unwrap().connections += 1;
    tokio::spawn(async move { serve(stream, connection, &seen, &temper).await });
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    connection: usize,
    seen: &Mutex<Seen>,
    temper: &Temper,
) {
    let mut stream = BufReader::new(stream);
    let at = At {
        messages: 0,
        recipients: 0,
    };
    if !say(&mut stream, temper, "GREETING", at, "220 hop").await {
        return;
    }
    if !session(&mut stream, connection, false, seen, temper).await {
        return;
    }
    if temper.tls == Tls::Broken {
        let _ = stream.write_all(b"no handshake, this\r\n").await;
        return;
    }
    let Ok(tls) = acceptor().accept(stream.into_inner()).await else {
        return;
    };
    session(&mut BufReader::new(tls), connection, true, seen, temper).await;
}

async fn say(
    stream: &mut (impl AsyncWrite + Unpin),
    temper: &Temper,
    command: &str,
    at: At,
    usual: &str,
) -> bool {
    let reply = match (temper.script)(command, at) {
        Act::Usual | Act::Hold => usual,
        Act::Say(reply) => reply,
        Act::Close => return false,
    };
    let said = stream.write_all(format!("{reply}\r\n").as_bytes()).await;
    said.is_ok() && !reply.starts_with("421")
}

/// Until the end, or STARTTLS (`true`).
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    connection: usize,
    tls: bool,
    seen: &Mutex<Seen>,
    temper: &Temper,
) -> bool {
    let mut taken = Taken {
        connection,
        tls,
        lmtp: false,
        mail: String::new(),
        rcpt: Vec::new(),
        data: String::new(),
        octets: Vec::new(),
    };
    let mut messages = 0;
    loop {
        let mut line = String::new();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return false;
        }
        let line = line.trim_end();
        seen.lock().unwrap().lines.push(line.to_owned());
        let at = At {
            messages,
            recipients: taken.rcpt.len(),
        };
        let verb = line.split(' ').next().unwrap_or_default();
        let goes_on = match verb {
            "EHLO" | "LHLO" => {
                taken.lmtp = verb == "LHLO";
                say(stream, temper, line, at, &offer(temper, tls)).await
            }
            "STARTTLS" => return say(stream, temper, line, at, "220 go").await,
            "MAIL" => {
                taken.mail = line.to_owned();
                taken.rcpt.clear();
                taken.octets.clear();
                say(stream, temper, line, at, "250 2.1.0 ok").await
            }
            "RCPT" => rcpt(stream, temper, line, at, &mut taken).await,
            "DATA" if taken.rcpt.is_empty() => {
                say(stream, temper, line, at, "554 5.5.1 nobody").await
            }
            "DATA" => {
                let goes_on = say(stream, temper, line, at, "354 go").await;
                if !(goes_on && data(stream, &mut taken.octets).await) {
                    return false;
                }
                messages += 1;
                end(stream, seen, temper, at, &mut taken).await
            }
            "BDAT" => {
                let Some(last) = chunk(stream, line, &mut taken.octets).await else {
                    return false;
                };
                if last {
                    messages += 1;
                    end(stream, seen, temper, at, &mut taken).await
                } else {
                    say(stream, temper, line, at, "250 2.0.0 ok").await
                }
            }
            "QUIT" => {
                let _ = stream.write_all(b"221 bye\r\n").await;
                false
            }
            _ => say(stream, temper, line, at, "250 2.0.0 ok").await,
        };
        if !goes_on {
            return false;
        }
    }
}

async fn rcpt(
    stream: &mut (impl AsyncWrite + Unpin),
    temper: &Temper,
    line: &str,
    at: At,
    taken: &mut Taken,
) -> bool {
    let reply = match (temper.script)(line, at) {
        Act::Usual | Act::Hold => {
            taken.rcpt.push(line.to_owned());
            "250 2.1.5 ok"
        }
        Act::Say(reply) => reply,
        Act::Close => return false,
    };
    let reply = format!("{reply}\r\n");
    stream.write_all(reply.as_bytes()).await.is_ok()
}

/// What happens to the reply is the script's business; the message is here.
async fn end(
    stream: &mut (impl AsyncWrite + Unpin),
    seen: &Mutex<Seen>,
    temper: &Temper,
    at: At,
    taken: &mut Taken,
) -> bool {
    if taken.lmtp {
        return end_of_each(stream, seen, temper, at, taken).await;
    }
    taken.data = String::from_utf8_lossy(&taken.octets).into_owned();
    match (temper.script)("END", at) {
        Act::Say(reply) if !reply.starts_with('2') => {}
        act => {
            if matches!(act, Act::Hold) {
                seen.lock().unwrap().held += 1;
                temper.gate.acquire().await.unwrap().forget();
                seen.lock().unwrap().held -= 1;
            }
            seen.lock().unwrap().taken.push(taken.clone());
        }
    }
    say(stream, temper, "END", at, "250 2.0.0 taken").await
}

/// LMTP: a reply for each recipient; the script is asked with its RCPT line behind `END`. The
/// transaction keeps those that were taken.
async fn end_of_each(
    stream: &mut (impl AsyncWrite + Unpin),
    seen: &Mutex<Seen>,
    temper: &Temper,
    at: At,
    taken: &mut Taken,
) -> bool {
    taken.data = String::from_utf8_lossy(&taken.octets).into_owned();
    let all = std::mem::take(&mut taken.rcpt);
    for line in all {
        let command = format!("END {line}");
        let refused = matches!((temper.script)(&command, at), Act::Say(_));
        if !say(stream, temper, &command, at, "250 2.0.0 taken").await {
            return false;
        }
        if !refused {
            taken.rcpt.push(line);
        }
    }
    seen.lock().unwrap().taken.push(taken.clone());
    true
}

/// Whether it was the last chunk; `None` where it did not come to its end.
async fn chunk(
    stream: &mut (impl AsyncBufRead + Unpin),
    line: &str,
    octets: &mut Vec<u8>,
) -> Option<bool> {
    let mut arguments = line.split(' ').skip(1);
    let length: usize = arguments.next()?.parse().ok()?;
    let start = octets.len();
    octets.resize(start + length, 0);
    stream.read_exact(&mut octets[start..]).await.ok()?;
    Some(arguments.next() == Some("LAST"))
}

/// Whether the content came to its end.
async fn data(stream: &mut (impl AsyncBufRead + Unpin), octets: &mut Vec<u8>) -> bool {
    loop {
        let start = octets.len();
        if !matches!(stream.read_until(b'\n', octets).await, Ok(1..)) {
            return false;
        }
        if octets[start..] == *b".\r\n" {
            octets.truncate(start);
            return true;
        }
    }
}

fn offer(temper: &Temper, tls: bool) -> String {
    let mut lines = vec!["250-hop".to_owned()];
    lines.extend(temper.extensions.iter().map(|e| format!("250-{e}")));
    if temper.tls != Tls::None && !tls {
        lines.push("250-STARTTLS".to_owned());
    }
    lines.push("250 HELP".to_owned());
    lines.join("\r\n")
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["hop.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
