//! One attempt for recipients that travel together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::{Recipient, escape_peer_text};
use postroad_net::client::{ConnectError, Connection, Target};
use postroad_net::clock;
use postroad_proto::client::{Config, RecipientResult, StartTls, Transaction};
use postroad_queue::{Claimed, Outcome};
use postroad_routing::{HopPlan, Host, RouteOptions, TlsMode};
use tracing::{debug, error};

use super::budget::Budget;
use super::classify::{self, Classified, Hop};
use super::content::Pieces;
use super::pool::Key;
use super::{Outbound, Settings, replies};

/// Recipients in one transaction, at most: what every server takes (RFC 5321 section 4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;
/// How long a hop that costs too much is left alone.
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
    /// Whether other hosts may follow those of the plan.
    pub(crate) is_last: bool,
}

impl Way {
    /// The local address to call an address of that family from.
    fn source(&self, address: SocketAddr) -> Option<std::net::IpAddr> {
        let mut sources = self.options.source.iter();
        sources.find(|s| s.is_ipv4() == address.is_ipv4()).copied()
    }
}

/// A session with a host, in the hands of one job.
struct Session<'a> {
    settings: &'a Settings,
    way: &'a Way,
    host: &'a Host,
    address: SocketAddr,
    connection: Connection,
    key: Key,
    /// Messages that the connection has carried.
    messages: u32,
}

/// What came of one transaction.
struct Sent {
    results: Vec<RecipientResult>,
    hop: Hop,
    /// The hop has the DSN extension.
    notifies: bool,
    /// The message could not be read.
    unread: bool,
}

impl Outbound {
    /// Tries host after host until every recipient has its answer, or the budget is spent. Gives
    /// the recipients for whom yet another host may be asked.
    pub(crate) async fn attempt(
        &self,
        settings: &Settings,
        job: &Claimed,
        mut waiting: Vec<usize>,
        way: &Way,
        budget: &mut Budget,
        results: &mut Results,
    ) -> Vec<usize> {
        let hosts = way.plan.hosts.len();
        for (nth, host) in way.plan.hosts.iter().enumerate() {
            let is_last = way.is_last && nth + 1 == hosts;
            let mut failed = 0;
            for &address in &host.addresses {
                let spent = budget.is_spent(clock::instant());
                if spent || !budget.allows_address(failed, is_last) {
                    break;
                }
                let address = SocketAddr::new(address, way.port);
                match self.session(settings, way, host, address).await {
                    Ok(session) => {
                        budget.connected();
                        waiting = self.transactions(job, session, waiting, results).await;
                        // Another address of a host that has answered is the same host.
                        break;
                    }
                    Err(error) => {
                        failed += 1;
                        // A family that this host does not have costs nothing.
                        if !is_unreachable(&error) {
                            budget.failed();
                        }
                        self.unconnected(job, &error, host, address, &waiting, results);
                    }
                }
            }
            if waiting.is_empty() {
                break;
            }
        }
        if budget.is_costly(clock::instant()) {
            self.store
                .park(&job.lease.lane, self.clock.now() + LEFT_ALONE);
        }
        waiting
    }

    /// A host that cannot be talked to defers all who wait.
    fn unconnected(
        &self,
        job: &Claimed,
        error: &ConnectError,
        host: &Host,
        address: SocketAddr,
        waiting: &[usize],
        results: &mut Results,
    ) {
        let detail = escape_peer_text(&error.to_string());
        debug!(queue_id = %job.message.id, detail, "a host cannot be used");
        let evidence = classify::unconnected(error, &hop(host, address, None), self.clock.now());
        for &recipient in waiting {
            results.insert(recipient, (Outcome::Deferred(evidence.clone()), false));
        }
    }

    /// A session with a host: one that is open, or a new one.
    async fn session<'a>(
        &self,
        settings: &'a Settings,
        way: &'a Way,
        host: &'a Host,
        address: SocketAddr,
    ) -> Result<Session<'a>, ConnectError> {
        let key = Key {
            address,
            name: host.name.ascii().to_owned(),
            implicit_tls: way.implicit_tls,
            tls: way.options.tls,
            source: way.source(address),
        };
        let (connection, messages) = match self.pool.take(&key).await {
            Some(kept) => kept,
            None => (self.connect(settings, way, &key).await?, 0),
        };
        Ok(Session {
            settings,
            way,
            host,
            address,
            connection,
            key,
            messages,
        })
    }

    async fn connect(
        &self,
        settings: &Settings,
        way: &Way,
        key: &Key,
    ) -> Result<Connection, ConnectError> {
        let mode = way.options.tls;
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
            address: key.address,
            name: key.name.clone(),
            implicit_tls: way.implicit_tls,
            verify: mode == TlsMode::Verify,
            source: key.source,
            connect_timeout: settings.config.connect_timeout,
            session: session(starttls),
        };
        match settings.connector.connect(&target).await {
            Err(ConnectError::Tls { detail, .. })
                if mode == TlsMode::Opportunistic && !way.implicit_tls =>
            {
                let detail = escape_peer_text(&detail);
                debug!(address = %key.address, detail, "TLS failed and is not required: plaintext");
                target.session = session(StartTls::Never);
                settings.connector.connect(&target).await
            }
            other => other,
        }
    }

    /// Sends the message for all that wait, in as many transactions as the host needs; gives
    /// those for whom another host may be asked.
    async fn transactions(
        &self,
        job: &Claimed,
        mut session: Session<'_>,
        mut waiting: Vec<usize>,
        results: &mut Results,
    ) -> Vec<usize> {
        let mut next = Vec::new();
        while !waiting.is_empty() {
            let later = waiting.split_off(session.recipients_max().min(waiting.len()));
            let group = std::mem::replace(&mut waiting, later);
            let has_served = session.messages > 0;
            let mut sent = self.transaction(job, &mut session, &group).await;
            if has_served && classify::is_stale(&sent.results) {
                let Session { settings, way, .. } = session;
                match self.connect(settings, way, &session.key).await {
                    Ok(connection) => (session.connection, session.messages) = (connection, 0),
                    Err(error) => {
                        let rest = [group, waiting].concat();
                        let (host, address) = (session.host, session.address);
                        self.unconnected(job, &error, host, address, &rest, results);
                        next.extend(rest);
                        return next;
                    }
                }
                sent = self.transaction(job, &mut session, &group).await;
            }
            let taken = |result: &RecipientResult| matches!(result, RecipientResult::Accepted(_));
            let progress = sent.results.iter().any(taken);
            for (recipient, result) in group.into_iter().zip(sent.results) {
                let again = progress && classify::is_too_many(&result);
                let broken = matches!(result, RecipientResult::Broken { .. });
                let Classified { outcome, try_next } = if sent.unread && broken {
                    self.unread()
                } else {
                    classify::recipient(result, &sent.hop, self.clock.now())
                };
                results.insert(recipient, (outcome, sent.notifies));
                if again {
                    waiting.push(recipient);
                } else if try_next {
                    next.push(recipient);
                }
            }
        }
        let Session {
            connection,
            key,
            messages,
            ..
        } = session;
        self.pool.give(key, connection, messages).await;
        next
    }

    async fn transaction(&self, job: &Claimed, session: &mut Session<'_>, group: &[usize]) -> Sent {
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
        let mut pieces = Pieces::new(Arc::clone(&job.content));
        let connection = &mut session.connection;
        let report = connection.deliver(transaction, &mut pieces).await;
        if let Some(detail) = pieces.failure() {
            error!(queue_id = %job.message.id, detail, "a message cannot be read from the queue");
        }
        session.messages += 1;
        let tls = connection
            .tls()
            .map(|tls| format!("{} {}", tls.version, tls.cipher));
        Sent {
            results: report.recipients,
            hop: hop(session.host, connection.peer(), tls),
            notifies: connection.extensions().dsn,
            unread: pieces.failure().is_some(),
        }
    }

    /// Our own fault, which no other host can mend.
    fn unread(&self) -> Classified {
        Classified {
            outcome: Outcome::Deferred(self.own(replies::UNREADABLE)),
            try_next: false,
        }
    }
}

impl Session<'_> {
    /// Recipients in one transaction with this host.
    fn recipients_max(&self) -> usize {
        let offered = self.connection.extensions().recipients_max;
        let offered = offered.and_then(|n| usize::try_from(n).ok());
        offered.unwrap_or(RECIPIENTS_MAX).clamp(1, RECIPIENTS_MAX)
    }
}

/// Whether the system itself knew that there is no way there.
fn is_unreachable(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::Connect {
            unreachable: true,
            ..
        }
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_mail::{Envelope, Origin};
    use postroad_net::client::Connector;
    use postroad_queue::{
        BoxFuture, ClaimRequest, Content, Draft, Filter, Lane, MemStore, Store, StoreError,
    };
    use postroad_routing::{DnsOptions, DnsResolver, RouteRule, SharedRouter, StaticRouter};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use crate::OutboundConfig;

    /// A disk that fails behind the first few octets.
    #[derive(Debug)]
    struct Failing;

    impl Content for Failing {
        fn len(&self) -> u64 {
            1_000_000
        }

        fn read(
            &self,
            offset: u64,
            _max: usize,
        ) -> BoxFuture<'_, Result<bytes::Bytes, StoreError>> {
            let read = match offset {
                0 => Ok("Subject: x\r\n\r\n".into()),
                _ => Err(StoreError::Io {
                    action: "reading",
                    place: "seg-1".to_owned(),
                    source: std::io::ErrorKind::InvalidData.into(),
                }),
            };
            Box::pin(std::future::ready(read))
        }
    }

    /// Takes all, one connection after the other; gives how many messages ended.
    async fn hop(listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let _ = stream.write_all(b"220 hop\r\n").await;
            let mut line = String::new();
            while matches!(stream.read_line(&mut line).await, Ok(1..)) {
                let reply = match line.get(..4) {
                    Some("EHLO") => "250-hop\r\n250 PIPELINING",
                    Some("DATA") => "354 go",
                    Some("MAIL" | "RCPT" | "RSET" | "QUIT") => "250 ok",
                    _ => "",
                };
                if !reply.is_empty() {
                    let _ = stream.write_all(format!("{reply}\r\n").as_bytes()).await;
                }
                line.clear();
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_no_fault_of_the_hop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let via = format!("smtp://{}", listener.local_addr().unwrap());
        tokio::spawn(hop(listener));
        let rule = RouteRule::new(via.parse().unwrap());
        let store = MemStore::new(1 << 20);
        let outbound = Outbound::new(
            OutboundConfig::new("mx.test".parse().unwrap()),
            Arc::new(store.clone()),
            SharedRouter::new(StaticRouter::new(vec![rule])),
            Arc::new(
                DnsResolver::new(DnsOptions {
                    nameservers: vec!["127.0.0.1:9".parse().unwrap()],
                    ..DnsOptions::default()
                })
                .unwrap(),
            ),
            Connector::new(&[]).unwrap(),
        );
        let now = outbound.clock.now();
        let draft = Draft {
            envelope: Envelope::new(
                "<me@s.test>".parse().unwrap(),
                Recipient::new("bob@far.test".parse().unwrap()),
            ),
            origin: Origin::default(),
            head: "Subject: x\r\n\r\n".into(),
            lanes: vec![Lane::new("x")],
            resumes: None,
        };
        store.begin(now).unwrap().commit(now, draft).await.unwrap();
        let request = ClaimRequest {
            max: 1,
            per_lane: 1,
            lease: Duration::from_secs(60),
        };
        let mut job = store.claim(now, &request).await.unwrap().remove(0);
        job.content = Arc::new(Failing);
        outbound.run_job(job).await;
        let listed = store.page(&Filter::default(), None, 1).await.unwrap();
        let last = listed[0].recipients[0].last.clone().unwrap();
        assert_eq!(
            last.reply.to_string(),
            "451 4.3.0 The message cannot be read from the queue now"
        );
        assert!(!last.remote && last.remote_mta.is_none());
    }
}
