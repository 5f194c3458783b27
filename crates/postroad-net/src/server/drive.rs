use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::poll;
use postroad_proto::server::{Answer, Output, Question, REPLIES_FLUSH, Session};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::transport::Transport;
use super::{HANDSHAKE_TIMEOUT, Handler};
use crate::clock;

/// Octets that an idle session reads before it takes a buffer.
const FIRST_READ: usize = 256;
/// The buffer that a session takes while octets come, and gives back when it has used them up.
const BUFFER: usize = 32 << 10;
/// Octets of a client that goes on sending after we have closed, read and thrown away at most, so
/// that our last reply is not lost to a reset.
const DISCARD_MAX: usize = 64 << 10;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// Moves octets, questions and time between a connection, a session and a role's handler.
pub(crate) struct Driver<S, H> {
    transport: Transport<S>,
    session: Session,
    handler: H,
    acceptor: Option<TlsAcceptor>,
    shutdown: CancellationToken,
    write_timeout: Duration,
    /// Whether there is something to read, now.
    has_spoken: fn(&S) -> bool,
    input: BytesMut,
    /// Replies taken from the session and not written yet.
    output: BytesMut,
    told_of_shutdown: bool,
    at_end: bool,
    messages: u64,
    output_max: usize,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) errors: u32,
    pub(crate) messages: u64,
    pub(crate) reason: String,
    /// The most octets of replies that were kept at any time.
    pub(crate) output_max: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin, H: Handler> Driver<S, H> {
    pub(crate) fn new(
        transport: Transport<S>,
        session: Session,
        handler: H,
        acceptor: Option<TlsAcceptor>,
        shutdown: CancellationToken,
        write_timeout: Duration,
        has_spoken: fn(&S) -> bool,
    ) -> Self {
        Self {
            transport,
            session,
            handler,
            acceptor,
            shutdown,
            write_timeout,
            has_spoken,
            input: BytesMut::new(),
            output: BytesMut::new(),
            told_of_shutdown: false,
            at_end: false,
            messages: 0,
            output_max: 0,
        }
    }

    /// To its end. Borrowed, since a future that is given its driver has room for it twice.
    pub(crate) async fn run(&mut self) -> Ended {
        let reason = match self.drive().await {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        };
        // Whatever the role still holds of a transaction goes with it.
        self.handler.abandon();
        Ended {
            errors: self.session.errors(),
            messages: self.messages,
            reason,
            output_max: self.output_max,
        }
    }

    async fn drive(&mut self) -> io::Result<()> {
        loop {
            match self.session.poll(clock::instant(), &mut self.input) {
                Output::Ask(question) => self.ask(question).await?,
                Output::Body(chunk) => self.handler.body(chunk).await,
                Output::Abandon => self.handler.abandon(),
                Output::StartTls => self.start_tls().await?,
                Output::Pause { until } => {
                    self.flush().await?;
                    if until > clock::instant() {
                        tokio::time::sleep_until(until.into()).await;
                    }
                }
                Output::Wait { until } => self.wait(until).await?,
                Output::Close => return self.close().await,
            }
        }
    }

    async fn ask(&mut self, question: Question) -> io::Result<()> {
        let connecting = matches!(question, Question::Connect);
        self.gather();
        // Before more is asked: a client that reads no replies gets none made.
        if self.output.len() >= REPLIES_FLUSH {
            write(&mut self.transport, &mut self.output, self.write_timeout).await?;
        }
        let answer = {
            // Boxed: what a role needs to decide would else be room in every idle session.
            let mut deciding = Box::pin(self.handler.ask(self.session.info(), question));
            // A decision that is ready does not end the batch of replies; one that takes time does.
            match poll!(deciding.as_mut()) {
                Poll::Ready(answer) => answer,
                Poll::Pending if self.output.is_empty() => deciding.await,
                Poll::Pending => {
                    let writing = write(&mut self.transport, &mut self.output, self.write_timeout);
                    let (answer, written) = tokio::join!(deciding, writing);
                    written?;
                    answer
                }
            }
        };
        if matches!(answer, Answer::Queued(_)) {
            self.messages += 1;
        }
        if connecting {
            self.listen_for_early_talk();
        }
        self.session.answer(clock::instant(), answer);
        Ok(())
    }

    /// The greeting has not left yet: whatever is there to read was sent before it.
    fn listen_for_early_talk(&mut self) {
        if let Transport::Plain(stream) = &self.transport
            && (self.has_spoken)(stream)
        {
            self.session.spoke_early(clock::instant());
        }
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.input.clear();
        let Some(acceptor) = self.acceptor.clone() else {
            return Err(io::Error::other("STARTTLS without a certificate"));
        };
        let plain = match std::mem::replace(&mut self.transport, Transport::Closed) {
            Transport::Plain(stream) => Transport::Plain(stream),
            Transport::Tls(_) | Transport::Closed => {
                return Err(io::Error::other("STARTTLS under TLS"));
            }
        };
        // Boxed, as it is large, and soon over.
        let handshake = Box::pin(plain.accept_tls(&acceptor));
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake);
        let (secured, info) = handshake
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.transport = secured;
        debug!(version = info.version, cipher = info.cipher, "TLS started");
        self.session.tls_started(clock::instant(), info);
        Ok(())
    }

    async fn wait(&mut self, until: Instant) -> io::Result<()> {
        self.flush().await?;
        if self.at_end {
            self.session.end_of_input(clock::instant());
            return Ok(());
        }
        if self.input.is_empty() {
            // Octets that were split off keep the old buffer alive only as long as they live.
            self.input = BytesMut::new();
        }
        tokio::select! {
            biased;
            read = read(&mut self.transport, &mut self.input) => {
                if read? == 0 {
                    self.at_end = true;
                    self.session.end_of_input(clock::instant());
                }
            }
            () = self.shutdown.cancelled(), if !self.told_of_shutdown => {
                self.told_of_shutdown = true;
                self.session.shut_down(clock::instant());
            }
            () = tokio::time::sleep_until(until.into()) => self.session.timed_out(clock::instant()),
        }
        Ok(())
    }

    fn gather(&mut self) {
        let replies = self.session.replies().split();
        self.output.unsplit(replies);
        self.output_max = self.output_max.max(self.output.len());
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.gather();
        write(&mut self.transport, &mut self.output, self.write_timeout).await
    }

    /// Flush, close our side, read a little of what still comes, so that no reset overtakes the
    /// last reply.
    async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        let lingering = async {
            self.transport.shutdown().await?;
            let mut rest = vec![0; 1024];
            let mut discarded = 0;
            while discarded < DISCARD_MAX {
                match self.transport.read(&mut rest).await? {
                    0 => break,
                    read => discarded += read,
                }
            }
            io::Result::Ok(())
        };
        // Everything that matters has been written.
        let _ = tokio::time::timeout(DISCARD_TIME, lingering).await;
        Ok(())
    }
}

/// Reads what is there. Until something comes, no more than a few octets are set aside for it.
async fn read<S: AsyncRead + Unpin>(transport: &mut S, input: &mut BytesMut) -> io::Result<usize> {
    if input.capacity() - input.len() < FIRST_READ {
        if !input.is_empty() {
            input.reserve(BUFFER);
            return transport.read_buf(input).await;
        }
        let mut read = poll_fn(|context| read_first(transport, input, context)).await?;
        if read == FIRST_READ {
            // There is probably more at hand; an end or error found now is found again.
            let mut rest = pin!(transport.read_buf(input));
            if let Poll::Ready(Ok(further)) = poll!(rest.as_mut()) {
                read += further;
            }
        }
        return Ok(read);
    }
    transport.read_buf(input).await
}

/// Reads into the stack, so that a session that waits holds no buffer at all.
fn read_first<S: AsyncRead + Unpin>(
    transport: &mut S,
    input: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut first = [0; FIRST_READ];
    let mut first = ReadBuf::new(&mut first);
    ready!(Pin::new(transport).poll_read(context, &mut first))?;
    let read = first.filled().len();
    input.reserve(if read == FIRST_READ {
        BUFFER
    } else {
        FIRST_READ
    });
    input.extend_from_slice(first.filled());
    Poll::Ready(Ok(read))
}

async fn write<S: AsyncWrite + Unpin>(
    transport: &mut S,
    output: &mut BytesMut,
    timeout: Duration,
) -> io::Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    let writing = async {
        transport.write_all(output).await?;
        transport.flush().await
    };
    let written = tokio::time::timeout(timeout, writing).await;
    *output = BytesMut::new();
    written.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its replies",
        )
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_proto::server::{Config, Info, Peer};
    use std::sync::Arc;
    use tokio::io::{DuplexStream, duplex};

    /// Accepts all; a password takes a while.
    #[derive(Default)]
    struct Taker {
        content: Vec<u8>,
        slow: bool,
    }

    impl Handler for Taker {
        async fn ask(&mut self, _: &Info, question: Question) -> Answer {
            if self.slow {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            match question {
                Question::Commit => Answer::Queued(format!("{} octets", self.content.len())),
                _ => Answer::Accept,
            }
        }

        async fn body(&mut self, chunk: bytes::Bytes) {
            self.content.extend_from_slice(&chunk);
        }

        fn abandon(&mut self) {
            self.content.clear();
        }
    }

    fn serve(
        pipe: usize,
        slow: bool,
        shutdown: CancellationToken,
    ) -> (DuplexStream, tokio::task::JoinHandle<Ended>) {
        let (client, server) = duplex(pipe);
        (client, serve_over(server, slow, shutdown))
    }

    fn serve_over(
        server: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        slow: bool,
        shutdown: CancellationToken,
    ) -> tokio::task::JoinHandle<Ended> {
        let config = Arc::new(Config::new("mx.test".parse().unwrap()));
        let peer = Peer {
            address: [192, 0, 2, 1].into(),
            trusted: false,
            tls: None,
        };
        let session = Session::new(clock::instant(), config, peer);
        let handler = Taker {
            slow,
            ..Taker::default()
        };
        let mut driver = Driver::new(
            Transport::Plain(server),
            session,
            handler,
            None,
            shutdown,
            Duration::from_secs(60),
            |_| false,
        );
        tokio::spawn(async move { driver.run().await })
    }

    /// Sends and reads at the same time, as a pipelining client must.
    async fn play(client: DuplexStream, sent: &[u8]) -> String {
        let (mut read, mut write) = tokio::io::split(client);
        let mut heard = Vec::new();
        let (_, read) = tokio::join!(write.write_all(sent), read.read_to_end(&mut heard));
        read.unwrap();
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipelined_session_through_a_small_pipe() {
        let body = "line of text\r\n".repeat(5000);
        let sent = format!(
            "EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n{body}.\r\nQUIT\r\n"
        );
        for pipe in [1, 64, 1 << 20] {
            for slow in [false, true] {
                let (client, served) = serve(pipe, slow, CancellationToken::new());
                let heard = play(client, sent.as_bytes()).await;
                assert!(heard.starts_with("220 mx.test "), "{heard}");
                assert!(
                    heard.contains("Queued as 70000 octets\r\n221 2.0.0 "),
                    "{heard}"
                );
                let ended = served.await.unwrap();
                assert_eq!((ended.messages, ended.errors), (1, 0), "{}", ended.reason);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_are_told_and_left() {
        let (client, served) = serve(4096, false, CancellationToken::new());
        let started = tokio::time::Instant::now();
        let heard = play(client, b"EHLO c.test\r\n").await;
        assert!(
            heard.lines().last().unwrap().starts_with("421 4.4.2 "),
            "{heard}"
        );
        assert!(started.elapsed() >= Duration::from_secs(300));
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_reaches_the_idle() {
        let shutdown = CancellationToken::new();
        let (client, served) = serve(4096, false, shutdown.clone());
        let playing = tokio::spawn(play(client, b"EHLO c.test\r\n"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        shutdown.cancel();
        let heard = playing.await.unwrap();
        assert!(
            heard.lines().last().unwrap().starts_with("421 4.3.2 "),
            "{heard}"
        );
        served.await.unwrap();
    }

    /// It is given up; and before that, replies that it does not read do not pile up here,
    /// whether they come of a decision (EHLO) or of none (HELP).
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        const PIPE: usize = 1 << 16;
        for command in ["HELP\r\n", "EHLO c.test\r\n"] {
            let (client, served) = serve(PIPE, false, CancellationToken::new());
            let (read, mut write) = tokio::io::split(client);
            let flood = command.repeat(20_000);
            let sending = tokio::spawn(async move { write.write_all(flood.as_bytes()).await });
            let ended = served.await.unwrap();
            assert!(ended.reason.contains("does not read"), "{}", ended.reason);
            assert!(
                ended.output_max < REPLIES_FLUSH + 4096,
                "{command}: {} octets were kept",
                ended.output_max
            );
            assert!(sending.await.unwrap().is_err());
            drop(read);
        }
    }

    /// Remembers each write.
    struct Counting {
        stream: DuplexStream,
        writes: Arc<std::sync::Mutex<Vec<String>>>,
    }

    impl AsyncRead for Counting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = Pin::new(&mut self.stream).poll_write(context, octets);
            if let Poll::Ready(Ok(length)) = &written {
                let text = String::from_utf8_lossy(&octets[..*length]).into_owned();
                self.writes.lock().unwrap().push(text);
            }
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    /// RFC 2920 section 3.2: one write, and so one packet, however many commands came together.
    #[tokio::test(start_paused = true)]
    async fn the_replies_of_a_pipelined_group_leave_in_one_write() {
        let (mut client, server) = duplex(1 << 16);
        let writes = Arc::default();
        let counting = Counting {
            stream: server,
            writes: Arc::clone(&writes),
        };
        let served = serve_over(counting, false, CancellationToken::new());
        for (sent, last) in [
            ("", "220"),
            ("EHLO c.test\r\n", "250"),
            (
                "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@f.test>\r\nDATA\r\n",
                "354",
            ),
            (
                "Subject: x\r\n\r\n.\r\nRSET\r\nMAIL FROM:<a@b.test>\r\nX\r\nNOOP\r\nQUIT\r\n",
                "221",
            ),
        ] {
            client.write_all(sent.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            while !String::from_utf8_lossy(&heard)
                .split_inclusive("\r\n")
                .any(|line| line.starts_with(&format!("{last} ")) && line.ends_with('\n'))
            {
                assert_ne!(client.read_buf(&mut heard).await.unwrap(), 0, "{last}");
            }
        }
        drop(client);
        served.await.unwrap();
        let codes = |write: &String| {
            let lines = write.lines().filter(|line| line.get(3..4) == Some(" "));
            lines.map(|line| &line[..3]).collect::<Vec<_>>().join(" ")
        };
        let writes: Vec<_> = writes.lock().unwrap().iter().map(codes).collect();
        assert_eq!(
            writes,
            ["220", "250", "250 250 250 354", "250 250 250 500 250 221"]
        );
    }

    /// A client that still sends when we have closed: so much is read away, and no more.
    #[tokio::test(start_paused = true)]
    async fn what_comes_after_the_end_is_read_away_up_to_a_bound() {
        for (rest, taken) in [
            (DISCARD_MAX - 4096, true),
            (DISCARD_MAX + (32 << 10), false),
        ] {
            // A pipe that holds next to nothing: what is written was read.
            let (client, served) = serve(64, false, CancellationToken::new());
            let (mut read, mut write) = tokio::io::split(client);
            let reading = tokio::spawn(async move {
                let mut heard = String::new();
                read.read_to_string(&mut heard).await.map(|_| heard)
            });
            write.write_all(b"QUIT\r\n").await.unwrap();
            let sent = write.write_all(&vec![b'x'; rest]).await;
            assert_eq!(sent.is_ok(), taken, "{rest}");
            // The write half is not closed: whoever keeps silent is not waited for without end.
            served.await.unwrap();
            let heard = reading.await.unwrap().unwrap();
            assert!(heard.contains("\r\n221 2.0.0 "), "{heard}");
        }
    }
}
