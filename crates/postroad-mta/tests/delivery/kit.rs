//! The whole outbound role over a queue in memory, a DNS and a clock of our own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_intake::RoutePreview as _;
use postroad_mail::{Domain, Envelope, Origin, Recipient, Timestamp, replies};
use postroad_mta::{Clock, Outbound, OutboundConfig};
use postroad_net::client::Connector;
use postroad_queue::{
    Draft, Filter, Listed, MemStore, Operation, QueueId, RecipientState, Store as _,
};
use postroad_routing::{BoxFuture, HopPlan, Host, MxLookup, PlanError, SharedRouter};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
const START: u64 = 1_795_524_541_000;

/// A clock that stands still until told.
#[derive(Clone)]
pub struct FakeClock(Arc<AtomicU64>);

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Domains with their hosts, best first, and hosts with their addresses.
#[derive(Default)]
pub struct FakeMx(Mutex<HashMap<String, Result<HopPlan, PlanError>>>);

impl FakeMx {
    fn find(&self, name: &Domain) -> Result<HopPlan, PlanError> {
        if let Some(ip) = name.ip() {
            return Ok(plan(&[(name.ascii(), &[ip])]));
        }
        let all = self.0.lock().unwrap();
        all.get(name.ascii())
            .cloned()
            .unwrap_or(Err(PlanError::Permanent(replies::NO_SUCH_DOMAIN)))
    }
}

impl MxLookup for FakeMx {
    fn mx<'a>(
        &'a self,
        domain: &'a Domain,
        _seed: u64,
    ) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        Box::pin(std::future::ready(self.find(domain)))
    }

    fn host<'a>(
        &'a self,
        name: &'a Domain,
        _port: u16,
    ) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        Box::pin(std::future::ready(self.find(name)))
    }
}

fn plan(hosts: &[(&str, &[IpAddr])]) -> HopPlan {
    let host = |(name, addresses): &(&str, &[IpAddr])| Host {
        name: name.parse().unwrap(),
        preference: None,
        addresses: addresses.to_vec(),
        ttl: None,
    };
    HopPlan::of(hosts.iter().map(host).collect())
}

/// A relay called `mx.test`, and the mail it has.
pub struct World {
    pub store: MemStore,
    pub outbound: Arc<Outbound>,
    /// On which hosts found by MX are called.
    pub port: u16,
    clock: FakeClock,
    mx: Arc<FakeMx>,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(SharedRouter::default(), |_| ()).await
    }

    pub async fn routed(router: SharedRouter) -> Self {
        Self::with(router, |_| ()).await
    }

    pub async fn with(router: SharedRouter, change: impl FnOnce(&mut OutboundConfig)) -> Self {
        let mut config = Self::config().await;
        change(&mut config);
        Self::built(config, router, MemStore::new(64 << 20), |outbound| outbound)
    }

    /// With whatever the role is built with besides.
    pub async fn tuned(router: SharedRouter, tune: impl FnOnce(Outbound) -> Outbound) -> Self {
        let config = Self::config().await;
        Self::built(config, router, MemStore::new(64 << 20), tune)
    }

    /// With a queue that holds so many octets.
    pub async fn small(octets: u64) -> Self {
        let config = Self::config().await;
        let store = MemStore::new(octets);
        Self::built(config, SharedRouter::default(), store, |outbound| outbound)
    }

    async fn config() -> OutboundConfig {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        OutboundConfig {
            port,
            postmaster: Some("secret@admin.test".parse().unwrap()),
            connect_timeout: Duration::from_secs(5),
            ..OutboundConfig::new("mx.test".parse().unwrap())
        }
    }

    fn built(
        config: OutboundConfig,
        router: SharedRouter,
        store: MemStore,
        tune: impl FnOnce(Outbound) -> Outbound,
    ) -> Self {
        let port = config.port;
        let clock = FakeClock(Arc::new(AtomicU64::new(START)));
        let mx = Arc::new(FakeMx::default());
        let outbound = Outbound::new(
            config,
            Arc::new(store.clone()),
            router,
            Arc::clone(&mx) as Arc<dyn MxLookup>,
            Connector::new(&[]).unwrap(),
        );
        let outbound = Arc::new(tune(outbound.with_clock(clock.clone())));
        Self {
            store,
            outbound,
            port,
            clock,
            mx,
            shutdown: CancellationToken::new(),
        }
    }

    /// Starts delivery; mail sent before waits for it.
    pub fn run(&self) {
        let run = Arc::clone(&self.outbound).run(self.shutdown.clone(), Duration::ZERO);
        tokio::spawn(run);
    }

    /// A domain's hosts, best first.
    pub fn mx(&self, domain: &str, hosts: &[(&str, &[IpAddr])]) {
        let mut all = self.mx.0.lock().unwrap();
        all.insert(domain.to_owned(), Ok(plan(hosts)));
    }

    pub fn broken_mx(&self, domain: &str, error: PlanError) {
        let mut all = self.mx.0.lock().unwrap();
        all.insert(domain.to_owned(), Err(error));
    }

    pub async fn send(&self, from: &str, to: &[&str]) -> QueueId {
        self.send_with(from, to, "Subject: x\r\n\r\nhello\r\n", |_| ())
            .await
    }

    /// Queues a message as intake does, in the lanes that the routes give it.
    pub async fn send_with(
        &self,
        from: &str,
        to: &[&str],
        content: &str,
        change: impl FnOnce(&mut Envelope),
    ) -> QueueId {
        self.send_octets(from, to, content.as_bytes(), change).await
    }

    pub async fn send_octets(
        &self,
        from: &str,
        to: &[&str],
        content: &[u8],
        change: impl FnOnce(&mut Envelope),
    ) -> QueueId {
        let mut all = to.iter().map(|to| Recipient::new(to.parse().unwrap()));
        let from = format!("<{from}>").parse().unwrap();
        let mut envelope = Envelope::new(from, all.next().unwrap());
        all.for_each(|recipient| envelope.push(recipient));
        change(&mut envelope);
        let (head, body) = content.split_at(
            content
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
                .unwrap()
                + 4,
        );
        let origin = Origin::default();
        let lanes = self.outbound.lanes(&envelope, &origin, 1000).await;
        let mut incoming = self.store.begin(self.clock.now()).unwrap();
        incoming.write(body.to_owned().into()).await.unwrap();
        let draft = Draft {
            envelope,
            origin,
            head: head.to_owned().into(),
            lanes,
            resumes: None,
        };
        incoming.commit(self.clock.now(), draft).await.unwrap()
    }

    /// Lets time pass, and all mail be due.
    pub async fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap();
        self.clock.0.fetch_add(millis, Ordering::Relaxed);
        let all = Filter::default();
        self.store
            .operate(self.clock.now(), Operation::Retry, &all)
            .await
            .unwrap();
    }

    /// All messages in the queue.
    pub async fn queue(&self) -> Vec<Listed> {
        let all = Filter::default();
        self.store.page(&all, None, 1000).await.unwrap()
    }

    /// One message, where it is still in the queue.
    pub async fn listed(&self, id: QueueId) -> Option<Listed> {
        self.queue().await.into_iter().find(|m| m.id == id)
    }

    /// Waits until no attempt is under way, and each waiting recipient has had `attempts`.
    pub async fn settled(&self, id: QueueId, attempts: u32) -> Option<Listed> {
        self.until(async || {
            let listed = self.listed(id).await;
            let done = listed.as_ref().is_none_or(|m| {
                let mut all = m.recipients.iter();
                all.all(|r| {
                    r.state != RecipientState::Waiting
                        || (r.attempts >= attempts && r.due.is_some())
                })
            });
            done.then_some(listed)
        })
        .await
    }

    /// What was last said of a recipient that still waits.
    pub async fn last(&self, id: QueueId, attempts: u32) -> String {
        let listed = self.settled(id, attempts).await.unwrap();
        let waiting = |r: &&postroad_queue::ListedRecipient| r.state == RecipientState::Waiting;
        let recipient = listed.recipients.iter().find(waiting).unwrap();
        recipient.last.as_ref().unwrap().reply.to_string()
    }

    /// Waits until the queue is empty.
    pub async fn empty(&self) {
        self.until(async || self.queue().await.is_empty().then_some(()))
            .await;
    }

    /// Waits for something.
    pub async fn until<T>(&self, look: impl AsyncFn() -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => panic!("it has not happened; the queue: {:#?}", self.queue().await),
        }
    }
}
