//! A session with a host: one that is open, or a new one; or why there is none.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use postroad_mail::{Protocol, escape_peer_text};
use postroad_net::client::{ConnectError, Connection, PeerAddress, Target};
use postroad_net::clock;
use postroad_proto::client::{Config, Credentials, StartTls};
use postroad_proto::sasl::Mechanism;
use postroad_queue::Lane;
use postroad_routing::{HopPlan, Host, HostSecurity, RouteOptions, TlsMode};
use tracing::{debug, info};

use super::classify::{self, Hop, Unconnected};
use super::hosts::{Dead, HostKey, Standing};
use super::pool::{Key, Place, Pooled};
use super::rates::Counted;
use super::security::{self, TlsPlan};
use super::tls_books::TlsBooks;
use super::tls_counts::TlsSession;
use super::work::Work;
use super::{Outbound, Settings};

/// The ways to log in at a smarthost, best first.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// A host that may be called, and how.
#[derive(Clone, Debug)]
pub(crate) struct Callee {
    pub(crate) host: Host,
    pub(crate) addresses: Vec<PeerAddress>,
}

impl Callee {
    /// The hosts of a plan, at a port.
    pub(crate) fn all(plan: HopPlan, port: u16) -> Vec<Self> {
        let callee = |host: Host| {
            let addresses = host.addresses.iter();
            let address = |&ip| PeerAddress::Tcp(SocketAddr::new(ip, port));
            Self {
                addresses: addresses.map(address).collect(),
                host,
            }
        };
        plan.hosts.into_iter().map(callee).collect()
    }

    /// Whether it is a program on this machine, behind a Unix socket: nobody stands in between.
    pub(crate) fn is_this_machine(&self) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.all(|address| matches!(address, PeerAddress::Unix(_)))
    }

    /// As evidence and log show it.
    pub(crate) fn hop(&self, address: &PeerAddress, tls: Option<String>) -> Hop {
        let name = self.host.name.ascii().to_owned();
        let shown = match address {
            PeerAddress::Tcp(address) if self.host.name.is_literal() => {
                format!("{name}:{}", address.port())
            }
            PeerAddress::Tcp(address) => format!("{name}[{}]:{}", address.ip(), address.port()),
            PeerAddress::Unix(_) => address.to_string(),
        };
        Hop { name, shown, tls }
    }

    pub(crate) fn key(&self, address: &PeerAddress) -> HostKey {
        HostKey {
            address: address.clone(),
            name: self.host.name.ascii().to_owned(),
        }
    }
}

/// How the hosts of a route, or some of them, are talked to.
#[derive(Clone, Debug)]
pub(crate) struct Manner<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) implicit_tls: bool,
    pub(crate) options: &'a RouteOptions,
    /// Whose mail it is for, in TLS reports: the domain whose MX records name the hosts.
    pub(crate) domain: Option<&'a str>,
}

/// A session with a host, in the hands of one job.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) called: Called<'a>,
    pub(crate) pooled: Pooled,
}

/// Who is called, and under what terms.
#[derive(Clone, Debug)]
pub(crate) struct Called<'a> {
    pub(crate) manner: &'a Manner<'a>,
    pub(crate) callee: &'a Callee,
    pub(crate) address: &'a PeerAddress,
    pub(crate) plan: &'a TlsPlan,
    pub(crate) security: &'a HostSecurity,
    pub(crate) key: Key,
}

/// A host that was dead, being tried. However that ends, or where it is cut off with its job,
/// another may try it next.
struct Probe<'a> {
    outbound: &'a Outbound,
    host: &'a HostKey,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.outbound.hosts().withdraw(self.host);
    }
}

/// Why there is no session.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// It came to none.
    Failed(ConnectError),
    /// The host is known to be dead, and was not called.
    Dead(Dead),
    /// A rate allows no more connections now: [`Work::away`] says which.
    Away,
}

impl Manner<'_> {
    /// The local address to call an address from; none of the system's choice where a route names
    /// some, but none of that family.
    pub(crate) fn source(&self, address: &PeerAddress) -> Result<Option<IpAddr>, ()> {
        let Some(ip) = address.ip() else {
            return Ok(None);
        };
        let sources = &self.options.source;
        match sources.iter().find(|s| s.is_ipv4() == ip.is_ipv4()) {
            Some(source) => Ok(Some(*source)),
            None if sources.is_empty() => Ok(None),
            None => Err(()),
        }
    }

    /// The TLS that the route asks for. A password never goes in the clear.
    pub(crate) fn tls(&self) -> TlsMode {
        match self.options.tls {
            TlsMode::Opportunistic if self.options.auth.is_some() => TlsMode::Require,
            mode => mode,
        }
    }

    pub(crate) fn key(
        &self,
        settings: &Settings,
        address: &PeerAddress,
        source: Option<IpAddr>,
        plan: &TlsPlan,
    ) -> Key {
        let own = settings.config.hostname.ascii();
        let helo = self.options.helo.as_ref().map_or(own, |name| name.ascii());
        Key {
            address: address.clone(),
            protocol: self.protocol,
            implicit_tls: self.implicit_tls,
            tls: plan.key(),
            source,
            helo: helo.to_owned(),
            login: self.options.auth.clone(),
        }
    }
}

impl Outbound {
    pub(crate) async fn session<'a>(
        &self,
        work: &mut Work<'_>,
        called: Called<'a>,
    ) -> Result<Session<'a>, Unopened> {
        if let Some(pooled) = self.pool.take(&called.key).await {
            work.trail.note(self.clock.now(), || {
                let text = "uses a connection that is open";
                (Some(called.hop().shown), text.to_owned())
            });
            return Ok(Session { called, pooled });
        }
        let pooled = self.open(work, &called).await?;
        Ok(Session { called, pooled })
    }

    /// A new session, unless the host is dead or a rate forbids it.
    pub(crate) async fn open(
        &self,
        work: &mut Work<'_>,
        called: &Called<'_>,
    ) -> Result<Pooled, Unopened> {
        let host = called.callee.key(called.address);
        let lane = &work.job.lease.lane;
        let standing = self.hosts().ask(&host, lane, self.clock.now());
        if let Standing::Dead(dead) = standing {
            return Err(Unopened::Dead(dead));
        }
        let probe = matches!(standing, Standing::Probe).then_some(Probe {
            outbound: self,
            host: &host,
        });
        if !self.may_connect(work, called.manner.options) {
            return Err(Unopened::Away);
        }
        let place = self.pool.place().await;
        match self.connect(work, called).await {
            Ok(connection) => {
                self.lives(&host, &mut work.revived);
                Ok(Pooled::new(connection, place, clock::instant()))
            }
            Err(error) => {
                drop::<Place>(place);
                let now = self.clock.now();
                let what = classify::unconnected(&error, &called.hop(), now);
                if self.is_death(work, &host, &what) {
                    self.died(work, &host, probe.is_some(), &what);
                } else if !what.is_unreachable {
                    self.lives(&host, &mut work.revived);
                }
                Err(Unopened::Failed(error))
            }
        }
    }

    fn died(&self, work: &Work<'_>, host: &HostKey, is_probe: bool, what: &Unconnected) {
        let error = escape_peer_text(&what.evidence.reply.to_string());
        let now = self.clock.now();
        let until = self.hosts().failed(host.clone(), is_probe, &error, now);
        if let Some(until) = until {
            let (name, address, again) = (&host.name, &host.address, until.since(now).as_secs());
            info!(name, %address, error, again, "a host is dead, and tried again in so many seconds");
        }
        self.known().dead(&work.job.lease.lane, host);
    }

    /// A host has answered; `revived` gets the lanes that wait for it.
    pub(crate) fn lives(&self, host: &HostKey, revived: &mut Vec<Lane>) {
        let waiting = self.hosts().lives(host, self.clock.now());
        if let Some(waiting) = waiting {
            let (name, address) = (&host.name, &host.address);
            info!(name, %address, "a dead host lives again");
            revived.extend(waiting);
        }
    }

    /// Whether a host is dead that failed like this. One that took mail a moment ago, and greets
    /// with a refusal now, has more sessions than it likes: that is what windows are for.
    fn is_death(&self, work: &Work<'_>, host: &HostKey, what: &Unconnected) -> bool {
        what.is_dead && !(what.evidence.remote && self.is_lively(work, host))
    }

    /// Whether the destination took mail a moment ago, or the host answered somebody else's.
    pub(crate) fn is_lively(&self, work: &Work<'_>, host: &HostKey) -> bool {
        let (lane, now) = (&work.job.lease.lane, self.clock.now());
        self.known().is_lively(lane, now) || self.hosts().is_lively(host, now)
    }

    fn may_connect(&self, work: &mut Work<'_>, options: &RouteOptions) -> bool {
        let Some(limits) = options.limits.as_deref() else {
            return true;
        };
        let Some(rate) = limits.connections else {
            return true;
        };
        self.take_token(work, &limits.name, Counted::Connections, rate)
    }

    /// Calls a host, in plaintext after a failed handshake where the plan allows that.
    async fn connect(
        &self,
        work: &mut Work<'_>,
        called: &Called<'_>,
    ) -> Result<Connection, ConnectError> {
        let made = self.connect_once(work, called, called.plan).await;
        match made {
            Err(ConnectError::Tls { detail, .. }) if called.plan.plaintext_retry => {
                let (address, detail) = (called.address, escape_peer_text(&detail));
                debug!(%address, detail, "TLS failed and is not required: plaintext");
                let plan = called.plan.plaintext();
                self.connect_once(work, called, &plan).await
            }
            made => made,
        }
    }

    async fn connect_once(
        &self,
        work: &mut Work<'_>,
        called: &Called<'_>,
        plan: &TlsPlan,
    ) -> Result<Connection, ConnectError> {
        let settings = work.settings;
        let target = called.target(settings, plan);
        let began = clock::instant();
        let made = settings.connector.connect(&target).await;
        let millis = clock::instant().duration_since(began).as_millis();
        work.trail.note(self.clock.now(), || {
            let what = match &made {
                Ok(connection) => format!("connected in {millis} ms, {}", secured(connection)),
                Err(error) => format!("no session after {millis} ms: {error}"),
            };
            (Some(called.hop().shown), what)
        });
        self.report_tls(work, called, plan, made.as_ref());
        made
    }

    /// Into the books of TLS reports, where they are kept.
    fn report_tls(
        &self,
        work: &Work<'_>,
        called: &Called<'_>,
        plan: &TlsPlan,
        made: Result<&Connection, &ConnectError>,
    ) {
        let Some(books) = &self.books else {
            return;
        };
        if !TlsBooks::counts(&work.job.message.origin) {
            return;
        }
        let host = called.callee.host.name.ascii();
        let session = TlsSession {
            domain: called.manner.domain.unwrap_or(host),
            host,
            security: called.security,
            sending_ip: called.key.source,
            receiving_ip: called.address.ip(),
            result: security::result(plan, made),
        };
        books.session(self.clock.now(), &session, plan.judges_policy);
    }

    /// A host that must not be called, into the books likewise.
    pub(crate) fn report_unusable(
        &self,
        work: &Work<'_>,
        manner: &Manner<'_>,
        callee: &Callee,
        security: &HostSecurity,
    ) {
        let Some(books) = &self.books else {
            return;
        };
        if !TlsBooks::counts(&work.job.message.origin) {
            return;
        }
        let host = callee.host.name.ascii();
        let session = TlsSession {
            domain: manner.domain.unwrap_or(host),
            host,
            security,
            sending_ip: None,
            receiving_ip: None,
            result: security::skipped(security),
        };
        books.session(self.clock.now(), &session, true);
    }
}

impl Called<'_> {
    /// Without TLS, as long as there is no connection.
    pub(crate) fn hop(&self) -> Hop {
        self.callee.hop(self.address, None)
    }

    /// The host, by this plan.
    pub(crate) fn target(&self, settings: &Settings, plan: &TlsPlan) -> Target {
        Target {
            address: self.address.clone(),
            name: plan.server_name.clone(),
            implicit_tls: self.manner.implicit_tls,
            certificate: plan.certificate.clone(),
            enforce: plan.enforce,
            source: self.key.source,
            connect_timeout: settings.config.connect_timeout,
            session: self.session(settings, plan),
        }
    }

    /// How to talk to the server; shared, where that is the usual way.
    fn session(&self, settings: &Settings, plan: &TlsPlan) -> Arc<Config> {
        let usual = &settings.session;
        let options = self.manner.options;
        if plan.starttls == StartTls::IfOffered
            && options.helo.is_none()
            && options.auth.is_none()
            && self.manner.protocol == Protocol::Smtp
        {
            return Arc::clone(usual);
        }
        Arc::new(Config {
            protocol: self.manner.protocol,
            helo: self.key.helo.clone(),
            starttls: plan.starttls,
            credentials: options.auth.as_ref().map(|login| Credentials {
                user: login.user.clone(),
                secret: login.secret.clone(),
                mechanisms: MECHANISMS.to_vec(),
            }),
            timeouts: usual.timeouts.clone(),
        })
    }
}

/// The connection's TLS, for people.
fn secured(connection: &Connection) -> String {
    use postroad_net::client::TlsVerdict;
    let Some(tls) = connection.tls() else {
        return "in plaintext".to_owned();
    };
    let (version, cipher) = (&tls.version, &tls.cipher);
    let verdict = match connection.verdict() {
        Some(TlsVerdict::Passed) => "the certificate is as it must be".to_owned(),
        Some(TlsVerdict::Failed { detail, .. }) => {
            format!("the certificate is not as it should be: {detail}")
        }
        Some(TlsVerdict::Unchecked) | None => "the certificate was not asked for".to_owned(),
    };
    format!("{version} {cipher}, {verdict}")
}
