use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use postroad_mail::{Address, Domain, Reply, ReversePath};

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
}

/// Where mail goes. Recipients of one message with equal routes travel together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// By the MX records of a domain: the recipient's, where none is named.
    Mx(Option<Domain>),
    /// To these hosts, in order (a smarthost).
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
    /// Its name, or address literal; looked up by A and AAAA, never by MX.
    pub host: Domain,
    /// The TCP port.
    pub port: u16,
    /// TLS from the first octet.
    pub implicit_tls: bool,
}

/// How mail goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteOptions {
    /// TLS for the way.
    pub tls: TlsMode,
    /// The local address to call from.
    pub source: Option<IpAddr>,
}

/// How much TLS a route asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// STARTTLS where offered, any certificate; plaintext where not.
    #[default]
    Opportunistic,
    /// TLS, any certificate.
    Require,
    /// TLS, with a certificate that is valid for the host's name.
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
            destination: Destination::Mx(None),
            options: RouteOptions::default(),
        })
    }
}

impl std::fmt::Debug for SharedRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedRouter({} routers)", self.0.len())
    }
}
