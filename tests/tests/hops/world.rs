//! The outbound role with a queue, routes and hosts of its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_intake::RoutePreview as _;
use postroad_mail::{
    BodyKind, Domain, Envelope, Notify, Origin, Protocol, Recipient, Secret, replies,
};
use postroad_mta::{Clock as _, Outbound, OutboundConfig, SystemClock};
use postroad_net::client::Connector;
use postroad_proto::client::Timeouts;
use postroad_queue::{Draft, QueueId, RetrySchedule, Store as _};
use postroad_routing::{
    BoxFuture, Destination, Hop, HopPlan, Host, MxLookup, PlanError, Route, RouteCredentials,
    RouteError, RouteOptions, RouteRequest, Router, SharedRouter, TlsMode,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::queue::Watched;
use crate::table::Conditions;

/// How long each step may take where hosts are silent; where they are not, nothing takes so long.
const HASTE: Duration = Duration::from_secs(3);
/// When mail is tried again: neither soon nor late, and not before the test is over.
const RETRY: Duration = Duration::from_mins(20);
/// Attempts under way may take so long after the end.
const DRAIN: Duration = Duration::from_secs(20);

/// Which hosts there are.
#[derive(Debug, Default)]
struct Names {
    /// By domain, the hosts, best first.
    domains: HashMap<String, Vec<(String, IpAddr)>>,
    /// By domain, how mail goes to it.
    conditions: HashMap<String, Conditions>,
}

#[derive(Clone, Debug, Default)]
struct Map {
    port: u16,
    names: Arc<Mutex<Names>>,
}

impl Map {
    fn hosts(&self, domain: &str) -> Option<Vec<(String, IpAddr)>> {
        self.names.lock().unwrap().domains.get(domain).cloned()
    }

    fn plan(hosts: Vec<(String, IpAddr)>) -> HopPlan {
        let host = |(name, address): (String, IpAddr)| Host {
            name: name.parse().unwrap(),
            preference: None,
            addresses: vec![address],
            ttl: None,
        };
        HopPlan::of(hosts.into_iter().map(host).collect())
    }
}

impl MxLookup for Map {
    fn mx<'a>(&'a self, domain: &'a Domain, _: u64) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        let hosts = self.hosts(domain.ascii());
        let plan = hosts
            .map(Self::plan)
            .ok_or(PlanError::Permanent(replies::NO_SUCH_DOMAIN));
        Box::pin(std::future::ready(plan))
    }

    fn host<'a>(&'a self, name: &'a Domain, _: u16) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        let names = self.names.lock().unwrap();
        let mut all = names.domains.values().flatten();
        let plan = all
            .find(|(host, _)| host == name.ascii())
            .map(|host| Self::plan(vec![host.clone()]))
            .ok_or(PlanError::Permanent(replies::NO_SUCH_DOMAIN));
        Box::pin(std::future::ready(plan))
    }
}

impl Router for Map {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        let domain = request.recipient.domain().ascii();
        let names = self.names.lock().unwrap();
        let Some(conditions) = names.conditions.get(domain) else {
            return Ok(None);
        };
        let hosts = names.domains.get(domain).cloned().unwrap_or_default();
        let hop = |(nth, (name, _)): (usize, (String, IpAddr))| Hop {
            protocol: Protocol::Lmtp,
            preference: u16::try_from(nth).unwrap(),
            ..Hop::smtp(name.parse().unwrap(), self.port)
        };
        let destination = if conditions.has("lmtp") {
            Destination::Hops(hosts.into_iter().enumerate().map(hop).collect())
        } else {
            Destination::Mx(None)
        };
        let tls = match () {
            () if conditions.has("tls=verify") => TlsMode::Verify,
            () if conditions.has("tls=require") || conditions.has("auth") => TlsMode::Require,
            () if conditions.has("tls=none") => TlsMode::None,
            () => TlsMode::Opportunistic,
        };
        let auth = conditions.has("auth").then(|| {
            Arc::new(RouteCredentials {
                user: "relay".to_owned(),
                secret: Secret::new("secret".to_owned()),
            })
        });
        let options = RouteOptions {
            tls,
            auth,
            ..RouteOptions::default()
        };
        Ok(Some(Route {
            options,
            ..Route::new(destination)
        }))
    }
}

/// The outbound role, and what it works on.
pub(crate) struct World {
    pub(crate) store: Watched,
    map: Map,
    outbound: Arc<Outbound>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    hasty: bool,
    directory: TempDir,
}

impl World {
    /// With hosts on that port, whose authority's certificate is the file `root` in `directory`.
    pub(crate) fn new(port: u16, directory: TempDir, hasty: bool) -> Self {
        let store = Watched::new();
        let map = Map {
            port,
            ..Map::default()
        };
        let outbound = outbound(&store, &map, &directory, hasty);
        Self {
            store,
            map,
            outbound,
            running: None,
            hasty,
            directory,
        }
    }

    /// A domain with its hosts, best first, and how mail goes there.
    pub(crate) fn domain(
        &self,
        domain: &str,
        hosts: Vec<(String, IpAddr)>,
        conditions: &Conditions,
    ) {
        let mut names = self.map.names.lock().unwrap();
        names.domains.insert(domain.to_owned(), hosts);
        names
            .conditions
            .insert(domain.to_owned(), conditions.clone());
    }

    /// Queues a message, as intake does.
    pub(crate) async fn send(&self, to: &[String], conditions: &Conditions) -> QueueId {
        let mut all = to.iter().map(|to| {
            let mut recipient = Recipient::new(to.parse().unwrap());
            if conditions.has("notify") {
                recipient.notify = Some(Notify {
                    success: true,
                    failure: true,
                    ..Notify::default()
                });
            }
            recipient
        });
        let from = "<me@sender.test>".parse().unwrap();
        let mut envelope = Envelope::new(from, all.next().unwrap());
        all.for_each(|recipient| envelope.push(recipient));
        let (head, body) = message(conditions);
        envelope.smtputf8 = conditions.has("utf8");
        envelope.body = match () {
            () if conditions.has("8bit") => BodyKind::EightBitMime,
            () if conditions.has("binary") => BodyKind::BinaryMime,
            () => BodyKind::SevenBit,
        };
        let origin = Origin::default();
        let size = u64::try_from(head.len() + body.len()).unwrap();
        let lanes = self.outbound.lanes(&envelope, &origin, size).await;
        let now = SystemClock.now();
        let mut incoming = self.store.begin(now).unwrap();
        incoming.write(body.into()).await.unwrap();
        let draft = Draft {
            envelope,
            origin,
            head: head.into(),
            lanes,
            resumes: None,
        };
        incoming.commit(now, draft).await.unwrap()
    }

    /// Begins to deliver.
    pub(crate) fn run(&mut self) {
        let shutdown = CancellationToken::new();
        let run = Arc::clone(&self.outbound).run(shutdown.clone(), DRAIN);
        self.running = Some((shutdown, tokio::spawn(run)));
    }

    /// Ends delivery, says goodbye to hosts, and begins anew: nothing is remembered of any host.
    pub(crate) async fn restart(&mut self) {
        if let Some((shutdown, task)) = self.running.take() {
            shutdown.cancel();
            task.await.unwrap();
        }
        self.outbound = outbound(&self.store, &self.map, &self.directory, self.hasty);
        self.run();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((shutdown, _)) = &self.running {
            shutdown.cancel();
        }
    }
}

fn outbound(store: &Watched, map: &Map, directory: &TempDir, hasty: bool) -> Arc<Outbound> {
    let mut config = OutboundConfig::new("relay.test".parse().unwrap());
    config.port = map.port;
    let never = Duration::from_hours(24 * 5);
    config.schedule = RetrySchedule::new(vec![RETRY], never, None).unwrap();
    if hasty {
        config.connect_timeout = HASTE;
        config.timeouts = Timeouts {
            greeting: HASTE,
            command: HASTE,
            data_start: HASTE,
            data_block: HASTE,
            data_end: HASTE,
            quit: HASTE,
        };
    }
    let root = directory.path().join("root.pem");
    Arc::new(Outbound::new(
        config,
        Arc::new(store.clone()),
        SharedRouter::new(map.clone()),
        Arc::new(map.clone()),
        Connector::new(&[root]).unwrap(),
    ))
}

/// Head and body.
fn message(conditions: &Conditions) -> (Vec<u8>, Vec<u8>) {
    let signed = if conditions.has("signed") {
        "DKIM-Signature: v=1; a=rsa-sha256; d=sender.test; s=s; h=from; bh=eA==; b=eA==\r\n"
    } else {
        ""
    };
    let subject = if conditions.has("utf8") {
        "Gr\u{fc}\u{df}e"
    } else {
        "hello"
    };
    let encoding = match () {
        () if conditions.has("8bit") => "8bit",
        () if conditions.has("binary") => "binary",
        () => "7bit",
    };
    let head = format!(
        "{signed}From: me@sender.test\r\nSubject: {subject}\r\nMessage-ID: <1@sender.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    );
    let line = if encoding == "7bit" {
        "hello\r\n"
    } else {
        "sch\u{f6}n\r\n"
    };
    let lines = match () {
        () if conditions.has("big") => 10_000,
        // More than all the buffers on the way hold.
        () if conditions.has("huge") => 1_700_000,
        () => 1,
    };
    (head.into_bytes(), line.repeat(lines).into_bytes())
}
