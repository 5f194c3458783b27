//! The relay role: port 25 in, delivery out, bounces.
//!
//! [`Inbound`] is served by `postroad_net::server::Server`; [`Outbound`] takes what is due from
//! a store, asks a router where it goes, delivers it, and writes down what came of it, with the
//! notices that are owed.
//!
//! One message, from the queue into a Maildir:
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use postroad_intake::RoutePreview as _;
//! use postroad_mail::{Envelope, Origin, Recipient};
//! use postroad_mta::{Clock as _, Outbound, OutboundConfig, SystemClock};
//! use postroad_net::client::Connector;
//! use postroad_queue::{Draft, Filter, MemStore, Store as _};
//! use postroad_routing::{DnsOptions, DnsResolver, RouteRule, SharedRouter, StaticRouter};
//! use tokio_util::sync::CancellationToken;
//!
//! let directory = tempfile::tempdir()?;
//! let route = format!("maildir:{}/{{local}}", directory.path().display());
//! let router = StaticRouter::new(vec![RouteRule::new(route.parse()?)]);
//! let store = MemStore::new(1 << 20);
//! let outbound = Arc::new(Outbound::new(
//!     OutboundConfig::new("mx.example.org".parse()?),
//!     Arc::new(store.clone()),
//!     SharedRouter::new(router),
//!     // Not asked: no route leads by MX.
//!     Arc::new(DnsResolver::new(DnsOptions {
//!         nameservers: vec!["127.0.0.1:53".parse()?],
//!         ..DnsOptions::default()
//!     })?),
//!     Connector::new(&[])?,
//! ));
//!
//! let to = Recipient::new("bob@example.org".parse()?);
//! let envelope = Envelope::new("<alice@example.org>".parse()?, to);
//! let (now, origin) = (SystemClock.now(), Origin::default());
//! let lanes = outbound.lanes(&envelope, &origin, 100).await;
//! let head = "Subject: hi\r\n\r\nhello\r\n".into();
//! let draft = Draft { envelope, origin, head, lanes, resumes: None };
//! store.begin(now)?.commit(now, draft).await?;
//!
//! let shutdown = CancellationToken::new();
//! let running = tokio::spawn(outbound.run(shutdown.clone(), Duration::from_secs(10)));
//! while !store.page(&Filter::default(), None, 1).await?.is_empty() {
//!     tokio::time::sleep(Duration::from_millis(1)).await;
//! }
//! shutdown.cancel();
//! running.await?;
//!
//! let mail = std::fs::read_dir(directory.path().join("bob/new"))?.next().expect("mail")?;
//! let text = std::fs::read_to_string(mail.path())?;
//! assert!(text.starts_with("Return-Path: <alice@example.org>\n"));
//! assert!(text.ends_with("Subject: hi\n\nhello\n"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bounce;
mod inbound;
mod outbound;

pub use inbound::{DomainPatternError, DomainPatterns, Inbound, InboundConfig};
pub use outbound::{
    Clock, DeadHost, DestinationView, ExplainRequest, ExplainedAddress, ExplainedHost,
    ExplainedLimits, ExplainedSecurity, ExplainedSession, Explanation, LastError, MaildirObserver,
    ObservedDomain, Outbound, OutboundConfig, SystemClock, Throttled, TlsReportOptions,
};
