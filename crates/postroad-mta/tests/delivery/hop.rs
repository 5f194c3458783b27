//! A next hop that does what it is told to, and remembers what was said to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What a hop does about a command.
pub enum Act {
    /// What a server usually does.
    Usual,
    /// Says this; 421 also closes.
    Say(&'static str),
    /// Closes.
    Close,
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
    /// The MAIL line.
    pub mail: String,
    /// The RCPT lines.
    pub rcpt: Vec<String>,
    pub data: String,
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
}

/// A hop; it ends with the test.
pub struct Hop {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone)]
struct Temper {
    script: Script,
    extensions: &'static [&'static str],
    tls: Tls,
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
        let seen = Arc::new(Mutex::new(Seen::default()));
        let temper = Temper {
            script: Arc::new(script),
            extensions,
            tls,
        };
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, temper) = (Arc::clone(&shared), temper.clone());
                let connection = seen.lock().unwrap().connections;
                seen.lock().unwrap().connections += 1;
                tokio::spawn(async move { serve(stream, connection, &seen, &temper).await });
            }
        });
        Self { address, seen }
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.seen.lock().unwrap().taken.clone()
    }

    /// How often a command came.
    pub fn count(&self, verb: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.lines.iter().filter(|l| l.starts_with(verb)).count()
    }
}

async fn serve(stream: TcpStream, connection: usize, seen: &Mutex<Seen>, temper: &Temper) {
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
        Act::Usual => usual,
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
        mail: String::new(),
        rcpt: Vec::new(),
        data: String::new(),
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
            "EHLO" => say(stream, temper, line, at, &offer(temper, tls)).await,
            "STARTTLS" => return say(stream, temper, line, at, "220 go").await,
            "MAIL" => {
                taken.mail = line.to_owned();
                taken.rcpt.clear();
                say(stream, temper, line, at, "250 2.1.0 ok").await
            }
            "RCPT" => match (temper.script)(line, at) {
                Act::Usual => {
                    taken.rcpt.push(line.to_owned());
                    stream.write_all(b"250 2.1.5 ok\r\n").await.is_ok()
                }
                Act::Say(reply) => {
                    let reply = format!("{reply}\r\n");
                    stream.write_all(reply.as_bytes()).await.is_ok()
                }
                Act::Close => false,
            },
            "DATA" if taken.rcpt.is_empty() => {
                say(stream, temper, line, at, "554 5.5.1 nobody").await
            }
            "DATA" => {
                if !say(stream, temper, line, at, "354 go").await {
                    return false;
                }
                let Some(data) = data(stream).await else {
                    return false;
                };
                taken.data = data;
                messages += 1;
                // What happens to the reply is the script's business; the message is here.
                if !matches!((temper.script)("END", at), Act::Say(reply) if !reply.starts_with('2'))
                {
                    seen.lock().unwrap().taken.push(taken.clone());
                }
                say(stream, temper, "END", at, "250 2.0.0 taken").await
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

async fn data(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut data = String::new();
    while data != ".\r\n" && !data.ends_with("\r\n.\r\n") {
        let mut octets = Vec::new();
        if !matches!(stream.read_until(b'\n', &mut octets).await, Ok(1..)) {
            return None;
        }
        data.push_str(&String::from_utf8_lossy(&octets));
    }
    Some(data)
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
