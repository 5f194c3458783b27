//! The whole outbound role on virtual time: a queue in memory, a DNS that knows every name, and
//! next hops that live in this process.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use postroad_intake::RoutePreview as _;
use postroad_mail::{Domain, Envelope, Origin, Recipient, Timestamp};
use postroad_mta::{Clock, Outbound, OutboundConfig};
use postroad_net::client::{Connector, Dial, Dialling, PeerAddress, Stream};
use postroad_queue::{Draft, Filter, MemStore, Operation, QueueId, Store as _};
use postroad_routing::{BoxFuture, HopPlan, Host, MxLookup, PlanError, SharedRouter};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, DuplexStream,
    ReadBuf,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const START: u64 = 1_795_524_541_000;

/// Wall-clock time that goes with tokio's.
#[derive(Clone, Copy, Debug)]
pub struct SimClock(Instant);

impl SimClock {
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(START) + self.0.elapsed()
    }
}

/// How a destination behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// It takes all, each reply after so long.
    Takes(Duration),
    /// Connects come to nothing.
    Dead,
    /// The system knows no way there.
    NoWay,
}

pub const WELL: Temper = Temper::Takes(Duration::ZERO);

/// What has happened at one destination.
#[derive(Clone, Debug)]
pub struct Seen {
    pub temper: Temper,
    /// Connections asked for.
    pub connects: usize,
    /// Open ones, and the most there were.
    pub open: usize,
    pub most_open: usize,
    /// When each message came, and who sent it.
    pub taken: Vec<(Duration, String)>,
}

/// All destinations, by the number in their name.
#[derive(Debug)]
pub struct Net {
    clock: SimClock,
    all: Mutex<HashMap<u32, Seen>>,
    open: Mutex<(usize, usize)>,
}

impl Net {
    pub fn set(&self, n: u32, temper: Temper) {
        let mut all = self.all.lock().unwrap();
        let new = Seen {
            temper,
            connects: 0,
            open: 0,
            most_open: 0,
            taken: Vec::new(),
        };
        all.entry(n).or_insert(new).temper = temper;
    }

    pub fn seen(&self, n: u32) -> Seen {
        self.all.lock().unwrap()[&n].clone()
    }

    /// Whether each of those has taken so many messages.
    pub fn all_have(&self, mut those: impl Iterator<Item = u32>, messages: usize) -> bool {
        let all = self.all.lock().unwrap();
        those.all(|n| all[&n].taken.len() >= messages)
    }

    /// The most connections that were open at the same time.
    pub fn most_open(&self) -> usize {
        self.open.lock().unwrap().1
    }

    fn at<T>(&self, n: u32, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(self.all.lock().unwrap().get_mut(&n).unwrap())
    }

    fn opened(&self, n: u32) {
        self.at(n, |seen| {
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
        });
        let mut open = self.open.lock().unwrap();
        open.0 += 1;
        open.1 = open.1.max(open.0);
    }

    fn closed(&self, n: u32) {
        self.at(n, |seen| seen.open -= 1);
        self.open.lock().unwrap().0 -= 1;
    }
}

/// A connection that is open, or being opened, as long as the client holds it.
struct Open(Arc<Net>, u32);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed(self.1);
    }
}

#[derive(Debug)]
struct SimDial(Arc<Net>);

impl Dial for SimDial {
    fn dial<'a>(&'a self, address: &'a PeerAddress, _source: Option<IpAddr>) -> Dialling<'a> {
        Box::pin(async move {
            let Some(IpAddr::V4(ip)) = address.ip() else {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            };
            let n = u32::from(ip);
            let temper = self.0.at(n, |seen| {
                seen.connects += 1;
                seen.temper
            });
            if temper == Temper::NoWay {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            }
            self.0.opened(n);
            let open = Open(Arc::clone(&self.0), n);
            let Temper::Takes(pace) = temper else {
                return std::future::pending().await;
            };
            let (stream, far) = tokio::io::duplex(16 << 10);
            tokio::spawn(serve(far, Arc::clone(&self.0), n, pace));
            let stream: Box<dyn Stream> = Box::new(Counted {
                stream,
                _open: open,
            });
            Ok(stream)
        })
    }
}

/// The client's end.
struct Counted {
    stream: DuplexStream,
    _open: Open,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Takes all, until QUIT or the end.
async fn serve(stream: DuplexStream, net: Arc<Net>, n: u32, pace: Duration) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut sender = String::new();
    if say(&mut stream, pace, "220 hop").await.is_err() {
        return;
    }
    loop {
        line.clear();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return;
        }
        let reply = match line.get(..4) {
            Some("EHLO") => "250-hop\r\n250 PIPELINING",
            Some("MAIL") => {
                sender = line.split(['<', '>']).nth(1).unwrap().to_owned();
                "250 2.1.0 ok"
            }
            Some("DATA") => {
                if say(&mut stream, pace, "354 go").await.is_err() {
                    return;
                }
                while line != ".\r\n" {
                    line.clear();
                    if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
                        return;
                    }
                }
                let taken = (net.clock.elapsed() + pace, sender.clone());
                net.at(n, |seen| seen.taken.push(taken));
                "250 2.0.0 taken"
            }
            Some("QUIT") => {
                let _ = say(&mut stream, pace, "221 bye").await;
                return;
            }
            _ => "250 ok",
        };
        if say(&mut stream, pace, reply).await.is_err() {
            return;
        }
    }
}

async fn say(stream: &mut BufReader<DuplexStream>, pace: Duration, reply: &str) -> io::Result<()> {
    if !pace.is_zero() {
        tokio::time::sleep(pace).await;
    }
    stream.write_all(format!("{reply}\r\n").as_bytes()).await
}

/// `n<number>.test` has one host, with that number for its address.
struct SimMx;

fn plan(domain: &Domain) -> HopPlan {
    let label = domain.ascii().split('.').next().unwrap();
    let n: u32 = label.strip_prefix('n').unwrap().parse().unwrap();
    HopPlan::of(vec![Host {
        name: format!("mx.{}", domain.ascii()).parse().unwrap(),
        preference: Some(10),
        addresses: vec![Ipv4Addr::from(n).into()],
        ttl: None,
    }])
}

impl MxLookup for SimMx {
    fn mx<'a>(
        &'a self,
        domain: &'a Domain,
        _seed: u64,
    ) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        Box::pin(std::future::ready(Ok(plan(domain))))
    }

    fn host<'a>(
        &'a self,
        name: &'a Domain,
        _port: u16,
    ) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        Box::pin(std::future::ready(Ok(plan(name))))
    }
}

pub struct World {
    pub clock: SimClock,
    pub net: Arc<Net>,
    pub store: MemStore,
    pub outbound: Arc<Outbound>,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    /// Must be called on a paused clock; delivery runs from the start.
    pub fn new(router: SharedRouter, change: impl FnOnce(&mut OutboundConfig)) -> Self {
        let clock = SimClock(Instant::now());
        let net = Arc::new(Net {
            clock,
            all: Mutex::default(),
            open: Mutex::default(),
        });
        let mut config = OutboundConfig::new("mx.test".parse().unwrap());
        change(&mut config);
        let store = MemStore::new(256 << 20);
        let dial = Arc::new(SimDial(Arc::clone(&net)));
        let outbound = Outbound::new(
            config,
            Arc::new(store.clone()),
            router,
            Arc::new(SimMx),
            Connector::new(&[]).unwrap().with_dialer(dial),
        );
        Self {
            clock,
            net,
            store,
            outbound: Arc::new(outbound.with_clock(clock)),
            shutdown: CancellationToken::new(),
        }
    }

    pub fn run(&self) {
        let run = Arc::clone(&self.outbound).run(self.shutdown.clone(), Duration::ZERO);
        tokio::spawn(run);
    }

    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    pub async fn send(&self, from: &str, n: u32) -> QueueId {
        let to = Recipient::new(format!("bob@n{n}.test").parse().unwrap());
        let envelope = Envelope::new(format!("<{from}>").parse().unwrap(), to);
        let origin = Origin::default();
        let lanes = self.outbound.lanes(&envelope, &origin, 100).await;
        let mut incoming = self.store.begin(self.clock.now()).unwrap();
        incoming.write("hello\r\n".into()).await.unwrap();
        let draft = Draft {
            envelope,
            origin,
            head: "Subject: x\r\n\r\n".into(),
            lanes,
            resumes: None,
        };
        incoming.commit(self.clock.now(), draft).await.unwrap()
    }

    /// As an operator does it: attempts that are under way go on.
    pub async fn remove(&self, ids: Vec<QueueId>) {
        let filter = Filter {
            ids,
            ..Filter::default()
        };
        let (now, remove) = (self.clock.now(), Operation::Remove);
        self.store.operate(now, remove, &filter).await.unwrap();
    }

    /// Lets time pass until something is so; gives the time that took, and panics where it takes
    /// longer than `patience`.
    pub async fn until(&self, patience: Duration, is_so: impl Fn() -> bool) -> Duration {
        let began = self.clock.elapsed();
        while !is_so() {
            let waited = self.clock.elapsed() - began;
            assert!(waited <= patience, "it has not happened");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.clock.elapsed() - began
    }
}
