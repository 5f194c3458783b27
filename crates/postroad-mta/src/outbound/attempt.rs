//! One attempt for recipients that travel together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::Recipient;
use postroad_net::client::{ConnectError, Connection, Target};
use postroad_net::clock;
use postroad_proto::client::{Config, StartTls, Transaction};
use postroad_queue::{Claimed, Outcome};
use postroad_routing::{HopPlan, Host, RouteOptions, TlsMode};
use tracing::debug;

use super::classify::{self, Hop};
use super::content::Pieces;
use super::pool::Key;
use super::{Outbound, Settings};

/// Recipients in one transaction, at most: what every server takes (RFC 5321 section 4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;
/// A hop that took longer to fail than this is left alone for a while, so that a thousand
/// messages do not each wait as long.
const SLOW: Duration = Duration::from_secs(5);
/// For how long.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// What came of it, per recipient: the outcome, and whether the hop sends notices itself.
pub(crate) type Results = BTreeMap<usize, (Outcome, bool)>;

/// Hosts, and how to call them.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) plan: HopPlan,
    pub(crate) port: u16,
    pub(crate) implicit_tls: bool,
    pub(crate) options: RouteOptions,
}

impl Outbound {
    /// Tries host after host until every recipient has its answer.
    pub(crate) async fn attempt(
        &self,
        settings: &Settings,
        job: &Claimed,
        recipients: &[usize],
        way: &Way,
    ) -> Results {
        let started = clock::instant();
        let mut results = Results::new();
        let mut waiting = recipients.to_vec();
        let mut connected = false;
        for host in &way.plan.hosts {
            for &address in &host.addresses {
                let address = SocketAddr::new(address, way.port);
                match self.session(settings, way, host, address).await {
                    Ok((connection, key, messages)) => {
                        connected = true;
                        waiting = self
                            .transactions(
                                job,
                                &waiting,
                                connection,
                                key,
                                messages,
                                host,
                                &mut results,
                            )
                            .await;
                        // Another address of a host that has answered is the same host.
                        break;
                    }
                    Err(error) => {
                        debug!(queue_id = %job.message.id, %error, "a host cannot be used");
                        let evidence = classify::unconnected(
                            &error,
                            &hop(host, address, None),
                            self.clock.now(),
                        );
                        for &recipient in &waiting {
                            results.insert(recipient, (Outcome::Deferred(evidence.clone()), false));
                        }
                    }
                }
            }
            if waiting.is_empty() {
                break;
            }
        }
        if !connected && clock::instant().duration_since(started) > SLOW {
            self.store
                .park(&job.lease.lane, self.clock.now() + LEFT_ALONE);
        }
        results
    }

    /// A session with a host: one that is open, or a new one.
    async fn session(
        &self,
        settings: &Settings,
        way: &Way,
        host: &Host,
        address: SocketAddr,
    ) -> Result<(Connection, Key, u32), ConnectError> {
        let mode = way.options.tls;
        let key = Key {
            address,
            name: host.name.ascii().to_owned(),
            implicit_tls: way.implicit_tls,
            tls: mode,
            source: way.options.source,
        };
        if let Some((connection, messages)) = self.pool.take(&key).await {
            return Ok((connection, key, messages));
        }
        let starttls = match mode {
            TlsMode::Opportunistic => StartTls::IfOffered,
            TlsMode::Require | TlsMode::Verify => StartTls::Require,
            TlsMode::None => StartTls::Never,
        };
        let session = |starttls| match starttls {
            StartTls::IfOffered => Arc::clone(&settings.session),
            other => Arc::new(Config {
                starttls: other,
                ..(*settings.session).clone()
            }),
        };
        let mut target = Target {
            address,
            name: key.name.clone(),
            implicit_tls: way.implicit_tls,
            verify: mode == TlsMode::Verify,
            source: way.options.source,
            connect_timeout: settings.config.connect_timeout,
            session: session(starttls),
        };
        let connection = match self.connector.connect(&target).await {
            Err(ConnectError::Tls { detail, .. })
                if mode == TlsMode::Opportunistic && !way.implicit_tls =>
            {
                debug!(%address, detail, "TLS failed and is not required: plaintext");
                target.session = session(StartTls::Never);
                self.connector.connect(&target).await?
            }
            other => other?,
        };
        Ok((connection, key, 0))
    }

    /// Sends the message for all that wait; gives those for whom another host may be asked.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are one step's parts, and nobody else's"
    )]
    async fn transactions(
        &self,
        job: &Claimed,
        waiting: &[usize],
        mut connection: Connection,
        key: Key,
        mut messages: u32,
        host: &Host,
        results: &mut Results,
    ) -> Vec<usize> {
        let mut next = Vec::new();
        let limit = connection
            .extensions()
            .recipients_max
            .and_then(|n| usize::try_from(n).ok());
        let limit = limit.unwrap_or(RECIPIENTS_MAX).clamp(1, RECIPIENTS_MAX);
        for group in waiting.chunks(limit) {
            let envelope = &job.message.envelope;
            let chosen: Vec<Recipient> = group
                .iter()
                .filter_map(|&n| envelope.recipients().get(n).cloned())
                .collect();
            let transaction = Transaction {
                from: envelope.from.clone(),
                recipients: chosen,
                size: job.content.len(),
                body: envelope.body,
                smtputf8: envelope.smtputf8,
                ret: envelope.ret,
                envid: envelope.envid.clone(),
                auth: None,
            };
            let notifies = connection.extensions().dsn;
            let report = connection
                .deliver(transaction, &mut Pieces::new(Arc::clone(&job.content)))
                .await;
            messages += 1;
            let tls = connection
                .tls()
                .map(|tls| format!("{} {}", tls.version, tls.cipher));
            let hop = hop(host, connection.peer(), tls);
            for (&recipient, result) in group.iter().zip(report.recipients) {
                let classified = classify::recipient(result, &hop, self.clock.now());
                if classified.try_next {
                    next.push(recipient);
                }
                results.insert(recipient, (classified.outcome, notifies));
            }
        }
        self.pool.give(key, connection, messages).await;
        next
    }
}

fn hop(host: &Host, address: SocketAddr, tls: Option<String>) -> Hop {
    let name = host.name.ascii().to_owned();
    let shown = if host.name.is_literal() {
        format!("{name}:{}", address.port())
    } else {
        format!("{name}[{}]:{}", address.ip(), address.port())
    };
    Hop { name, shown, tls }
}
