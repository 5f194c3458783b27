//! The sink: the next hop of every server that is measured, in a thread of its own.

mod session;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

use session::Session;
pub(crate) use tally::Tally;

use crate::source::runtime;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Octets that are read at once.
const READ: usize = 64 << 10;

/// A running sink.
#[derive(Debug)]
pub(crate) struct Sink {
    tally: Arc<Tally>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Starts one that expects messages with numbers up to this one.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub(crate) fn start(address: SocketAddr, messages: u64) -> anyhow::Result<Self> {
        Self::start_at(&[address], messages)
    }

    /// The same at several addresses.
    ///
    /// # Errors
    /// Where it cannot listen at one of them.
    pub(crate) fn start_at(addresses: &[SocketAddr], messages: u64) -> anyhow::Result<Self> {
        Self::start_with(addresses, Tally::new(messages, false))
    }

    /// Starts one that closes each connection at once: a next hop that is down, and notes when
    /// the first one called.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub(crate) fn refusing(address: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with(&[address], Tally::new(0, true))
    }

    fn start_with(addresses: &[SocketAddr], tally: Tally) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let mut listeners = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let _inside = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket
                .bind(address)
                .with_context(|| format!("the sink's address {address}"))?;
            listeners.push(socket.listen(BACKLOG)?);
        }
        let tally = Arc::new(tally);
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&tally);
        let thread = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    for listener in listeners {
                        tokio::spawn(serve(listener, Arc::clone(&shared)));
                    }
                    let _ = stopped.await;
                });
            })?;
        Ok(Self {
            tally,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What has arrived.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, tally: Arc<Tally>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if tally.connected() => {
                tokio::spawn(connection(stream, Arc::clone(&tally)));
            }
            Ok(_) => {}
            // Out of descriptors, most likely: the connections that end give some back.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

/// Serves a connection to its end. A peer that breaks it off is the server's affair: what is
/// missing afterwards is seen in the tally.
async fn connection(mut stream: TcpStream, tally: Arc<Tally>) {
    let _ = stream.set_nodelay(true);
    let (mut input, mut replies) = (BytesMut::new(), b"220 sink.test ESMTP\r\n".to_vec());
    let mut session = Session::default();
    loop {
        if !replies.is_empty() && stream.write_all(&replies).await.is_err() {
            return;
        }
        replies.clear();
        input.reserve(READ);
        match stream.read_buf(&mut input).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if !session.advance(&mut input, &mut replies, &tally) {
            let _ = stream.write_all(&replies).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ports;
    use crate::source::{Load, Opening};

    #[test]
    fn what_the_source_sends_arrives() {
        let address = ports::free(1).unwrap()[0];
        let sink = Sink::start(address, 100).unwrap();
        for (size, per_connection, first) in [(4096, 1, 0), (300_000, 7, 50)] {
            let load = Load {
                target: address,
                opening: Opening::Hello,
                sessions: 5,
                first,
                messages: 50,
                per_connection,
                size,
                destinations: 0,
                patience: Duration::from_secs(30),
            };
            let sent = load.run().unwrap();
            assert_eq!((sent.acknowledged, sent.errors), (50, 0), "{sent:?}");
            assert_eq!(sent.replies.len(), 50);
        }
        sink.tally().wait(100, Duration::ZERO).unwrap();
        assert_eq!((sink.tally().duplicates(), sink.tally().strange()), (0, 0));
    }

    #[test]
    fn errors_are_counted() {
        let address = ports::free(1).unwrap()[0];
        let sink = Sink::refusing(address).unwrap();
        let load = Load {
            target: address,
            opening: Opening::Hello,
            sessions: 1,
            first: 0,
            messages: 2,
            per_connection: 1,
            size: 1,
            destinations: 0,
            patience: Duration::from_secs(30),
        };
        let sent = load.run().unwrap();
        assert_eq!((sent.acknowledged, sent.errors), (0, 2));
        assert!(!sent.texts.is_empty());
        assert!(sink.tally().first_connection().is_some());
    }
}
