//! One session of a sink.

use std::sync::Mutex;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::{Gate, Received, State, lock};

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

pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    state: &Mutex<State>,
    arrived: &Notify,
    gate: &Gate,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    if !say(&mut stream, state, "GREETING", "220 sink.test ESMTP").await? {
        return Ok(());
    }
    if session(&mut stream, tls.is_some(), false, state, arrived, gate).await? {
        let Some(acceptor) = tls else { return Ok(()) };
        let stream = acceptor.accept(stream.into_inner()).await?;
        session(
            &mut BufReader::new(stream),
            false,
            true,
            state,
            arrived,
            gate,
        )
        .await?;
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
    gate: &Gate,
) -> std::io::Result<bool> {
    let fresh = || Received {
        from: String::new(),
        to: Vec::new(),
        commands: Vec::new(),
        data: Vec::new(),
        wire: Vec::new(),
        hello: String::new(),
        pipelined: false,
        tls,
    };
    let mut message = fresh();
    let mut chunks = Vec::new();
    let mut hello = String::new();
    let mut pipelined = false;
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(false);
        }
        let group = !stream.buffer().is_empty();
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
        // What comes behind BDAT is its chunk, not a command.
        pipelined |= group && verb != "BDAT";
        if matches!(verb.as_str(), "EHLO" | "HELO") {
            hello.clone_from(&line);
        }
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
                (message.data, message.wire) = data(stream).await?;
                (message.hello, message.pipelined) = (hello.clone(), pipelined);
                end(stream, state, arrived, gate, &mut message).await?
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
                    (message.hello, message.pipelined) = (hello.clone(), pipelined);
                    end(stream, state, arrived, gate, &mut message).await?
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
    lines.extend(state.offered.iter().map(String::as_str));
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

/// Up to the line with a dot alone, which only CRLF ends: the message, and what stood on the wire.
async fn data<S: AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut message, mut wire) = (Vec::new(), Vec::new());
    let mut at_start = true;
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if at_start && line == b".\r\n" {
            return Ok((message, wire));
        }
        wire.extend_from_slice(&line);
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
    gate: &Gate,
    message: &mut Received,
) -> std::io::Result<bool> {
    gate.waiting.send_modify(|waiting| *waiting += 1);
    let _ = gate.shut.subscribe().wait_for(|&shut| !shut).await;
    gate.waiting.send_modify(|waiting| *waiting -= 1);
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
