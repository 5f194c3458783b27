use std::future::Future;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::{Address, Domain, Protocol, Reply, ReversePath, Secret};

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The question: where does this go?
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'a> {
    /// The recipient.
    pub recipient: &'a Address,
    /// The reverse-path.
    pub sender: &'a ReversePath,
    /// The authenticated user who submitted it.
    pub user: Option<&'a str>,
    /// The address of the client it came from.
    pub network: Option<IpAddr>,
    /// Octets.
    pub size: u64,
}

/// The answer: where, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where.
    pub destination: Destination,
    /// How.
    pub options: RouteOptions,
    /// What decided it, for people.
    pub chosen_by: ChosenBy,
}

impl Route {
    /// A route with the usual options.
    #[must_use]
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            options: RouteOptions::default(),
            chosen_by: ChosenBy::default(),
        }
    }
}

/// What decided a route, as in `postroad.toml:41, [[route]] 2, routes.txt:7`: for `explain` and for
/// the log. It makes no route differ from another.
#[derive(Clone, Debug, Default)]
pub struct ChosenBy(Option<Arc<str>>);

impl ChosenBy {
    /// Decided by this.
    #[must_use]
    pub fn new(what: &str) -> Self {
        Self(Some(what.into()))
    }

    /// What decided, where it is known.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl PartialEq for ChosenBy {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ChosenBy {}

impl Hash for ChosenBy {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Where mail goes. Recipients of one message with equal routes travel together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// By the MX records of a domain: the recipient's, where none is named.
    Mx(Option<Domain>),
    /// To these hosts: by preference, and among equals by weight.
    Hops(Vec<Hop>),
    /// Into a Maildir.
    Maildir(PathBuf),
    /// Nowhere; counts as delivered.
    Discard,
    /// Bounce with this reply.
    Reject(Reply),
    /// Keep, and try again later, with this reply as the reason.
    Defer(Reply),
}

/// A host named by a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Where it listens.
    pub at: HopAddress,
    /// What it speaks.
    pub protocol: Protocol,
    /// TLS from the first octet.
    pub implicit_tls: bool,
    /// Lower ones are tried first, as with MX.
    pub preference: u16,
    /// Among hosts of equal preference, how often this one is first; 0: only where no other is.
    pub weight: u16,
}

impl Hop {
    /// An SMTP server.
    #[must_use]
    pub const fn smtp(host: Domain, port: u16) -> Self {
        Self {
            at: HopAddress::Tcp { host, port },
            protocol: Protocol::Smtp,
            implicit_tls: false,
            preference: 0,
            weight: 1,
        }
    }
}

/// Where a host listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HopAddress {
    /// On a TCP port.
    Tcp {
        /// Its name, or address literal; looked up by A and AAAA, never by MX.
        host: Domain,
        /// The port.
        port: u16,
    },
    /// On a Unix socket of this machine.
    Unix(PathBuf),
}

/// How mail goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteOptions {
    /// TLS for the way.
    pub tls: TlsMode,
    /// Local addresses to call from: the first of the family that is called. Where there are
    /// some, but none of a family, hosts are not called over that family.
    pub source: Vec<IpAddr>,
    /// The EHLO name, where it is not the host's own.
    pub helo: Option<Domain>,
    /// The port of MX targets, where it is not the usual.
    pub port: Option<u16>,
    /// The login at the hosts (RFC 4954); sent under TLS only.
    pub auth: Option<Arc<RouteCredentials>>,
    /// Bounds of this route.
    pub limits: Option<Arc<RouteLimits>>,
}

/// A login at a smarthost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCredentials {
    /// Who.
    pub user: String,
    /// The password.
    pub secret: Secret,
}

impl Hash for RouteCredentials {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.user.hash(state);
    }
}

/// Bounds of a route, over all its destinations together but for `per_destination`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteLimits {
    /// Which routes share the counts of the rates.
    pub name: String,
    /// Attempts for one destination at the same time.
    pub per_destination: Option<usize>,
    /// Messages in a time.
    pub messages: Option<Rate>,
    /// New connections in a time.
    pub connections: Option<Rate>,
}

/// So many in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

/// How much TLS a route asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// What DANE and MTA-STS ask for; else STARTTLS where offered, any certificate, plaintext where
    /// not.
    #[default]
    Opportunistic,
    /// TLS, any certificate, or what DANE and MTA-STS ask for.
    Require,
    /// TLS, with a certificate that is valid for the host's name, or matches its TLSA records.
    Verify,
    /// Plaintext.
    None,
}

/// Why a router did not answer: the recipient is deferred, never bounced, and no other router is asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("routing {recipient}: {detail}")]
pub struct RouteError {
    /// For whom.
    pub recipient: String,
    /// What went wrong.
    pub detail: String,
}

/// Decides where mail goes.
pub trait Router: Send + Sync + 'static {
    /// Where does this recipient's mail go? `None`: ask the next router.
    ///
    /// # Errors
    /// Where the answer cannot be had now; the recipient is deferred.
    fn route(
        &self,
        request: &RouteRequest<'_>,
    ) -> impl Future<Output = Result<Option<Route>, RouteError>> + Send;
}

impl<R: Router> Router for Arc<R> {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        R::route(self, request).await
    }
}

trait ErasedRouter: Send + Sync + 'static {
    fn route<'a>(
        &'a self,
        request: &'a RouteRequest<'a>,
    ) -> BoxFuture<'a, Result<Option<Route>, RouteError>>;
}

impl<R: Router> ErasedRouter for R {
    fn route<'a>(
        &'a self,
        request: &'a RouteRequest<'a>,
    ) -> BoxFuture<'a, Result<Option<Route>, RouteError>> {
        Box::pin(Router::route(self, request))
    }
}

/// Routers chained: the first that answers counts; where none does, it is by MX.
#[derive(Clone, Default)]
pub struct SharedRouter(Vec<Arc<dyn ErasedRouter>>);

impl SharedRouter {
    /// One router.
    #[must_use]
    pub fn new(router: impl Router) -> Self {
        Self(vec![Arc::new(router)])
    }

    /// Asks `next` where this one has no answer.
    #[must_use]
    pub fn or(mut self, next: impl Router) -> Self {
        self.0.push(Arc::new(next));
        self
    }

    /// Asks all of `next` where this one has no answer.
    #[must_use]
    pub fn chain(mut self, next: Self) -> Self {
        self.0.extend(next.0);
        self
    }

    /// Where the recipient's mail goes.
    ///
    /// # Errors
    /// Those of the router that was asked.
    pub async fn route(&self, request: &RouteRequest<'_>) -> Result<Route, RouteError> {
        for router in &self.0 {
            if let Some(route) = router.route(request).await? {
                return Ok(route);
            }
        }
        Ok(Route {
            chosen_by: ChosenBy::new("no route matches: by MX"),
            ..Route::new(Destination::Mx(None))
        })
    }
}

impl std::fmt::Debug for SharedRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedRouter({} routers)", self.0.len())
    }
}
