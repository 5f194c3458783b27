//! Postroad's tokio side: listeners, TLS, limits, and the drivers of the protocol sessions.
//!
//! A role (submission, relay) implements [`server::Role`]; [`server::Server`] gives it
//! connections. [`client::Connector`] opens sessions with next hops. The drivers hold no SMTP:
//! they move octets and time between sockets and the machines of `postroad-proto`.
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! use std::net::IpAddr;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use postroad_net::server::{BoundListener, ConnectionLimits, Handler, ListenerTls, Role, Server};
//! use postroad_proto::server::{Answer, Config, Info, Question};
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//! use tokio_util::sync::CancellationToken;
//!
//! /// Greets everybody, and takes no mail.
//! struct Closed;
//!
//! impl Handler for Closed {
//!     async fn ask(&mut self, _: &Info, question: Question) -> Answer {
//!         match question {
//!             Question::Connect | Question::Hello(_) => Answer::Accept,
//!             _ => Answer::Reject(postroad_mail::replies::REFUSED),
//!         }
//!     }
//!
//!     async fn body(&mut self, _: bytes::Bytes) {}
//!
//!     fn abandon(&mut self) {}
//! }
//!
//! impl Role for Closed {
//!     type Handler = Self;
//!
//!     fn open(&self, _: IpAddr) -> (Arc<Config>, Self) {
//!         let hostname = "mx.example.org".parse().expect("a domain");
//!         (Arc::new(Config::new(hostname)), Self)
//!     }
//!
//!     fn is_trusted(&self, _: IpAddr) -> bool {
//!         false
//!     }
//!
//!     fn name(&self) -> &'static str {
//!         "relay"
//!     }
//! }
//!
//! let listener = BoundListener::bind("127.0.0.1:0".parse()?, ListenerTls::None)?;
//! let address = listener.local_address()?;
//! let shutdown = CancellationToken::new();
//! let server = Server::new(Arc::new(Closed), None, ConnectionLimits::default(), shutdown.clone());
//! let running = tokio::spawn(server.run(vec![listener], Duration::from_secs(10)));
//!
//! let mut client = tokio::net::TcpStream::connect(address).await?;
//! let mut heard = vec![0; "220 ".len()];
//! client.read_exact(&mut heard).await?;
//! client.write_all(b"QUIT\r\n").await?;
//! client.read_to_end(&mut heard).await?;
//! assert_eq!(heard, b"220 mx.example.org ESMTP Postroad\r\n221 2.0.0 Bye\r\n");
//!
//! drop(client);
//! shutdown.cancel();
//! running.await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod client;
pub mod clock;
mod networks;
pub mod server;
pub mod tls;

pub use networks::{Network, NetworkError, Networks};
