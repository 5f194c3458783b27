//! One session of a hop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::script::{Action, Ending, Handshake};
use super::{Identity, Kept, Language, State, lock};

/// The final reply: each of its octets may be the last.
const TAKEN: &str = "250 2.0.0 Ok\r\n";
/// To a command that has come too early.
const NO_ORDER: &[u8] = b"503 5.5.1 Not yet\r\n";
/// Extensions that are there unless the script says otherwise.
const USUAL: &[&str] = &[
    "PIPELINING",
    "SIZE 50000000",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "ENHANCEDSTATUSCODES",
];
/// How long an octet of a slow reply takes.
const DRIP: Duration = Duration::from_millis(400);
/// A reset takes with it what the client has not read yet: it is given time to.
const BEFORE_RESET: Duration = Duration::from_millis(100);
/// A flood ends after so many octets, at last.
const FLOOD_MAX: usize = 1 << 30;
/// How long a hop is silent; then it has been forgotten.
const SILENCE: Duration = Duration::from_secs(600);
/// What is read of a client that goes on behind the end, and for how long.
const REST_MAX: u64 = 64 << 10;
const REST_TIME: Duration = Duration::from_secs(1);

/// What a session goes over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// How a session went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    /// The session is over.
    Over,
    /// The client is about to begin its handshake.
    StartTls,
}

/// A transaction.
#[derive(Debug, Default)]
struct Mail {
    /// The MAIL line, once it is accepted.
    from: Option<String>,
    to: Vec<String>,
    octets: Vec<u8>,
}

struct Session<'a, W> {
    wire: BufReader<W>,
    language: Language,
    state: &'a Mutex<State>,
    tls: bool,
    mail: Mail,
    /// Lines of the client that an AUTH dialogue still wants.
    responses: usize,
    /// Whether the last answer was other than 2yz; silence is consent.
    refused: bool,
}

pub(super) async fn serve(
    stream: TcpStream,
    language: Language,
    state: &Arc<Mutex<State>>,
    identity: &Identity,
) -> std::io::Result<()> {
    let mut plain = Session::new(stream, language, state, false);
    let greeting = b"220 hop.test ready\r\n";
    if plain.answer("GREETING", "", greeting).await? == Next::Over
        || plain.run().await? != Next::StartTls
    {
        return Ok(());
    }
    let (action, ending) = lock(state).act("TLS", "");
    let mut stream = plain.wire.into_inner();
    let shown = match action {
        Action::Handshake(Handshake::Garbage) => {
            stream.write_all(b"this is no handshake at all\r\n").await?;
            return rest(&mut stream).await;
        }
        // protocol_version, fatal: what a server says that knows TLS 1.0 only.
        Action::Handshake(Handshake::Alert) => {
            stream.write_all(&[21, 3, 1, 0, 2, 2, 70]).await?;
            return rest(&mut stream).await;
        }
        Action::Handshake(shown) => Some(shown),
        _ => None,
    };
    match ending {
        Ending::Close => return Ok(()),
        Ending::Reset => return stream.set_zero_linger(),
        Ending::Stall => {
            tokio::time::sleep(SILENCE).await;
            return Ok(());
        }
        Ending::GoOn => {}
    }
    let stream = identity.acceptor(shown).accept(stream).await?;
    Session::new(stream, language, state, true).run().await?;
    Ok(())
}

/// Reads what the client still sends, for a short time, so that it reads what was sent to it.
async fn rest(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut nowhere = tokio::io::sink();
    let mut stream = stream.take(REST_MAX);
    let copied = tokio::io::copy(&mut stream, &mut nowhere);
    let _ = tokio::time::timeout(REST_TIME, copied).await;
    Ok(())
}

impl<'a, W: Wire> Session<'a, W> {
    fn new(wire: W, language: Language, state: &'a Mutex<State>, tls: bool) -> Self {
        Self {
            wire: BufReader::new(wire),
            language,
            state,
            tls,
            mail: Mail::default(),
            responses: 0,
            refused: false,
        }
    }

    async fn run(&mut self) -> std::io::Result<Next> {
        loop {
            let mut line = Vec::new();
            if self.wire.read_until(b'\n', &mut line).await? == 0 {
                return Ok(Next::Over);
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let next = self.command(&line).await?;
            if next != Next::GoOn {
                return Ok(next);
            }
        }
    }

    async fn command(&mut self, line: &str) -> std::io::Result<Next> {
        if self.responses > 0 {
            return self.response(line).await;
        }
        let verb = line.split(' ').next().unwrap_or_default();
        let verb = verb.to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" | "LHLO" => self.hello(&verb, line).await,
            "AUTH" => self.auth(line).await,
            "MAIL" => {
                let next = self.answer("MAIL", line, b"250 2.1.0 Ok\r\n").await;
                self.mail = Mail {
                    from: (!self.refused).then(|| line.to_owned()),
                    ..Mail::default()
                };
                next
            }
            "RCPT" if self.mail.from.is_none() => self.answer("RCPT", line, NO_ORDER).await,
            "RCPT" => {
                let next = self.answer("RCPT", line, b"250 2.1.5 Ok\r\n").await;
                if !self.refused {
                    self.mail.to.push(path(line));
                }
                next
            }
            "DATA" => self.data(line).await,
            "BDAT" => self.chunk(line).await,
            "STARTTLS" => {
                let next = self.answer("STARTTLS", line, b"220 2.0.0 Go\r\n").await?;
                let goes = next == Next::GoOn && !self.refused;
                Ok(if goes { Next::StartTls } else { next })
            }
            "QUIT" => {
                let next = self.answer("QUIT", line, b"221 2.0.0 Bye\r\n").await?;
                if next == Next::GoOn {
                    rest(&mut self.wire).await?;
                }
                Ok(Next::Over)
            }
            "HELO" | "RSET" => {
                self.mail = Mail::default();
                self.answer(&verb, line, b"250 2.0.0 Ok\r\n").await
            }
            _ => self.write(b"500 5.5.1 What?\r\n").await,
        }
    }

    /// Does what the script says about an event; else gives the usual answer.
    async fn answer(&mut self, event: &str, line: &str, usual: &[u8]) -> std::io::Result<Next> {
        let (action, ending) = lock(self.state).act(event, line);
        self.perform(&action, ending, usual).await
    }

    async fn perform(
        &mut self,
        action: &Action,
        ending: Ending,
        usual: &[u8],
    ) -> std::io::Result<Next> {
        self.refused = !action.consents();
        match action {
            Action::Send(octets) => self.write(octets).await?,
            Action::Flood(octets) => self.flood(octets).await?,
            Action::Cut(length) => {
                let part = usual.get(..*length).unwrap_or(usual);
                self.write(part).await?
            }
            Action::Drip => {
                for octet in usual {
                    self.write(&[*octet]).await?;
                    tokio::time::sleep(DRIP).await;
                }
                Next::GoOn
            }
            Action::Usual
            | Action::Never
            | Action::Offer(_)
            | Action::Change { .. }
            | Action::Handshake(_) => self.write(usual).await?,
        };
        match ending {
            Ending::GoOn => return Ok(Next::GoOn),
            Ending::Close => rest(&mut self.wire).await?,
            Ending::Reset => {
                tokio::time::sleep(BEFORE_RESET).await;
                self.wire.get_ref().tcp().set_zero_linger()?;
            }
            Ending::Stall => tokio::time::sleep(SILENCE).await,
        }
        Ok(Next::Over)
    }

    async fn write(&mut self, octets: &[u8]) -> std::io::Result<Next> {
        self.wire.write_all(octets).await?;
        self.wire.flush().await?;
        Ok(Next::GoOn)
    }

    async fn flood(&mut self, octets: &[u8]) -> std::io::Result<Next> {
        let block = octets.repeat(1 + 4096 / octets.len().max(1));
        let mut sent = 0;
        while sent < FLOOD_MAX {
            self.wire.write_all(&block).await?;
            sent += block.len();
        }
        Ok(Next::Over)
    }

    async fn hello(&mut self, verb: &str, line: &str) -> std::io::Result<Next> {
        let (action, ending) = lock(self.state).act(verb, line);
        let usual = || USUAL.iter().map(|&e| e.to_owned());
        let mut extensions: Vec<String> = match &action {
            Action::Offer(all) => all.clone(),
            Action::Change { with, without } => {
                let named = |all: &[String], e: &str| all.iter().any(|o| keyword(o) == keyword(e));
                let stays = |e: &String| !named(with, e) && !named(without, e);
                usual().filter(stays).chain(with.iter().cloned()).collect()
            }
            _ => usual().collect(),
        };
        // A server under TLS does not offer it again (RFC 3207 section 4.2).
        extensions.retain(|e| !(self.tls && e == "STARTTLS"));
        let mut lines = vec!["hop.test".to_owned()];
        lines.append(&mut extensions);
        let last = lines.len() - 1;
        let mark = |n| if n == last { ' ' } else { '-' };
        let each = lines.iter().enumerate();
        let reply: String = each
            .map(|(n, l)| format!("250{}{l}\r\n", mark(n)))
            .collect();
        self.perform(&action, ending, reply.as_bytes()).await
    }

    async fn auth(&mut self, line: &str) -> std::io::Result<Next> {
        let words = line.split(' ').count();
        let mechanism = line.split(' ').nth(1).unwrap_or_default();
        self.responses = match (mechanism.to_ascii_uppercase().as_str(), words) {
            ("LOGIN", 2) => 2,
            ("LOGIN", _) | ("PLAIN", 2) => 1,
            _ => 0,
        };
        let next = if self.responses == 0 {
            self.answer("AUTH", line, b"235 2.7.0 In\r\n").await?
        } else {
            self.answer("AUTH", line, b"334 VXNlcm5hbWU6\r\n").await?
        };
        if self.refused {
            self.responses = 0;
        }
        Ok(next)
    }

    async fn response(&mut self, line: &str) -> std::io::Result<Next> {
        self.responses -= 1;
        let (action, ending) = lock(self.state).act("RESPONSE", line);
        match &action {
            Action::Send(octets) if octets.starts_with(b"334") => self.responses = 1,
            Action::Send(_) => self.responses = 0,
            _ => {}
        }
        let usual: &[u8] = if self.responses == 0 {
            b"235 2.7.0 In\r\n"
        } else {
            b"334 UGFzc3dvcmQ6\r\n"
        };
        self.perform(&action, ending, usual).await
    }

    async fn data(&mut self, line: &str) -> std::io::Result<Next> {
        let (action, ending) = lock(self.state).act("DATA", line);
        let (usual, takes) = match &action {
            Action::Send(octets) => (&b""[..], octets.starts_with(b"354")),
            _ if self.mail.to.is_empty() => (NO_ORDER, false),
            _ => (&b"354 Go\r\n"[..], true),
        };
        let next = self.perform(&action, ending, usual).await?;
        if next != Next::GoOn || !takes {
            return Ok(next);
        }
        let mut octets = Vec::new();
        let mut start = 0;
        loop {
            if self.wire.read_until(b'\n', &mut octets).await? == 0 {
                return Ok(Next::Over);
            }
            if octets.get(start..) == Some(b".\r\n") {
                octets.truncate(start);
                break;
            }
            if octets.ends_with(b"\r\n") {
                start = octets.len();
            }
        }
        self.mail.octets = octets;
        self.end().await
    }

    async fn chunk(&mut self, line: &str) -> std::io::Result<Next> {
        let mut words = line.split(' ').skip(1);
        let length = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let last = words.next().is_some_and(|w| w.eq_ignore_ascii_case("LAST"));
        let mut octets = vec![0; length];
        self.wire.read_exact(&mut octets).await?;
        self.mail.octets.append(&mut octets);
        let (action, ending) = lock(self.state).act("BDAT", line);
        if !matches!(action, Action::Usual | Action::Never) || ending != Ending::GoOn {
            return self.perform(&action, ending, b"250 2.0.0 Ok\r\n").await;
        }
        if last {
            self.end().await
        } else {
            self.write(b"250 2.0.0 Ok\r\n").await
        }
    }

    /// The message is whole.
    async fn end(&mut self) -> std::io::Result<Next> {
        let mail = std::mem::take(&mut self.mail);
        if self.language == Language::Smtp {
            return self.end_for(&mail, mail.to.clone(), "").await;
        }
        for to in mail.to.clone() {
            let next = self.end_for(&mail, vec![to.clone()], &to).await?;
            if next != Next::GoOn {
                return Ok(next);
            }
        }
        Ok(Next::GoOn)
    }

    async fn end_for(&mut self, mail: &Mail, to: Vec<String>, word: &str) -> std::io::Result<Next> {
        let (action, ending) = lock(self.state).act("END", word);
        if !action.refuses() {
            let kept = Kept {
                mail: mail.from.clone().unwrap_or_default(),
                to,
                octets: mail.octets.clone(),
                tls: self.tls,
            };
            lock(self.state).kept.push(kept);
        }
        self.perform(&action, ending, TAKEN.as_bytes()).await
    }
}

fn path(line: &str) -> String {
    let inner = line.split(['<', '>']).nth(1);
    inner.unwrap_or_default().to_owned()
}

fn keyword(extension: &str) -> &str {
    extension.split(' ').next().unwrap_or_default()
}
