//! One connection of the load generator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::message::Messages;
use super::reply::Reply;
use crate::clock;

/// What goes before the first message.
#[derive(Clone, Debug)]
pub(crate) enum Opening {
    /// The greeting alone.
    Greeting,
    /// EHLO.
    Hello,
    /// EHLO, STARTTLS, EHLO.
    Tls(Arc<rustls::ClientConfig>),
    /// The same, then AUTH PLAIN.
    Login(Arc<rustls::ClientConfig>, Credentials),
}

/// A user and the password.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credentials {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    input: BytesMut,
    output: Vec<u8>,
    pipelining: bool,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Client {
    /// Connects, and says what is to be said before the first message.
    pub(crate) async fn connect(target: SocketAddr, opening: &Opening) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            stream: Stream::Plain(stream),
            input: BytesMut::with_capacity(1024),
            output: Vec::new(),
            pipelining: false,
        };
        client.expect(220, "the greeting").await?;
        match opening {
            Opening::Greeting => {}
            Opening::Hello => client.hello().await?,
            Opening::Tls(config) => client = client.start_tls(config).await?,
            Opening::Login(config, credentials) => {
                client = client.start_tls(config).await?;
                client.login(*credentials).await?;
            }
        }
        Ok(client)
    }

    /// Sends a message, and QUIT where it is the connection's last; gives how long its final
    /// reply took.
    pub(crate) async fn send(
        &mut self,
        messages: &Messages,
        number: u64,
        last: bool,
    ) -> anyhow::Result<Duration> {
        self.envelope(&messages.recipient(number)).await?;
        self.output.clear();
        let rest = messages.write(number, &mut self.output);
        if last && self.pipelining && rest.is_empty() {
            self.output.extend_from_slice(b"QUIT\r\n");
        }
        self.flush().await?;
        if !rest.is_empty() {
            self.stream.write_all(&rest).await?;
        }
        let sent = clock::now();
        self.expect(250, "the end of data").await?;
        let took = sent.elapsed();
        if last && self.pipelining && rest.is_empty() {
            self.expect(221, "QUIT").await?;
        } else if last {
            self.quit().await?;
        }
        Ok(took)
    }

    /// Takes its leave.
    pub(crate) async fn quit(&mut self) -> anyhow::Result<()> {
        self.say(b"QUIT\r\n").await?;
        self.expect(221, "QUIT").await
    }

    async fn envelope(&mut self, recipient: &[u8]) -> anyhow::Result<()> {
        const MAIL: &[u8] = b"MAIL FROM:<source@client.test>\r\n";
        const DATA: &[u8] = b"DATA\r\n";
        if self.pipelining {
            self.output.clear();
            for line in [MAIL, recipient, DATA] {
                self.output.extend_from_slice(line);
            }
            self.flush().await?;
            self.expect(250, "MAIL").await?;
            self.expect(250, "RCPT").await?;
        } else {
            self.say(MAIL).await?;
            self.expect(250, "MAIL").await?;
            self.say(recipient).await?;
            self.expect(250, "RCPT").await?;
            self.say(DATA).await?;
        }
        self.expect(354, "DATA").await
    }

    async fn hello(&mut self) -> anyhow::Result<()> {
        self.say(b"EHLO client.test\r\n").await?;
        let (code, pipelining, length) = loop {
            if let Some(reply) = Reply::first(&self.input)? {
                break (reply.code, reply.offers("PIPELINING"), reply.text.len());
            }
            self.read().await?;
        };
        if code != 250 {
            bail!("{code} to EHLO");
        }
        self.input.advance(length);
        self.pipelining = pipelining;
        Ok(())
    }

    async fn start_tls(mut self, config: &Arc<rustls::ClientConfig>) -> anyhow::Result<Self> {
        self.hello().await?;
        self.say(b"STARTTLS\r\n").await?;
        self.expect(220, "STARTTLS").await?;
        let Stream::Plain(stream) = self.stream else {
            bail!("TLS was started already");
        };
        let name = rustls::pki_types::ServerName::try_from("bench.test")?;
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .context("the TLS handshake")?;
        self.stream = Stream::Tls(Box::new(stream));
        self.hello().await?;
        Ok(self)
    }

    async fn login(&mut self, credentials: Credentials) -> anyhow::Result<()> {
        let Credentials { user, password } = credentials;
        let response = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        self.say(format!("AUTH PLAIN {response}\r\n").as_bytes())
            .await?;
        self.expect(235, "AUTH").await
    }

    /// Waits for a reply, which must have this code.
    async fn expect(&mut self, code: u16, to: &str) -> anyhow::Result<()> {
        loop {
            if let Some(reply) = Reply::first(&self.input)? {
                if reply.code != code {
                    bail!("{} to {to}", reply.text.trim_end());
                }
                let length = reply.text.len();
                self.input.advance(length);
                return Ok(());
            }
            self.read().await.with_context(|| format!("after {to}"))?;
        }
    }

    async fn say(&mut self, line: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(line).await
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.output).await
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.input.reserve(1024);
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read_buf(&mut self.input).await?,
            Stream::Tls(stream) => stream.read_buf(&mut self.input).await?,
        };
        if read == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}

impl Stream {
    async fn write_all(&mut self, octets: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await?,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await?;
            }
        }
        Ok(())
    }
}
