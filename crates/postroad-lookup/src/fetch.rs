//! A bounded HTTP client: one answer for one request, of a known size and in a known time.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use postroad_mail::Secret;
use postroad_routing::BoxFuture;
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_service::Service;

/// Octets of an answer's head, at most.
const HEAD_MAX: usize = 16 << 10;
/// Fields of an answer's head, at most.
const HEADERS_MAX: usize = 64;
/// Octets of a URL, at most.
const URL_MAX: usize = 2 << 10;
/// Who we say we are.
const AGENT: HeaderValue = HeaderValue::from_static("Postroad");

/// Bounds of an [`HttpClient`].
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// For a whole request: waiting for a free connection, name, connection, TLS, and all of the body.
    pub timeout: Duration,
    /// Octets of a body that are accepted, at most.
    pub body_max: usize,
    /// Requests at the same time, at least 1; more wait, within `timeout`.
    pub connections: usize,
    /// Connections that are kept open for a host while nobody needs them.
    pub idle: usize,
    /// How long these are kept.
    pub idle_timeout: Duration,
    /// Refuse URLs without TLS.
    pub https_only: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            body_max: 64 << 10,
            connections: 4,
            idle: 4,
            idle_timeout: Duration::from_secs(30),
            https_only: false,
        }
    }
}

/// What came back. A redirect is an answer like any other: nothing is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The Content-Type as sent, where there is one in ASCII.
    pub content_type: Option<String>,
    /// The body, complete.
    pub body: Bytes,
}

/// Why there is no answer. The details hold what the peer or the system said; escape them before
/// they are shown on a terminal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Not a URL that can be asked.
    #[error(
        "`{0}` is no URL that can be asked; expected `https://host/path`, of at most {URL_MAX} octets"
    )]
    Url(String),
    /// A URL with a login. It is not shown.
    #[error("the URL has a login in it, which would be shown, and is not sent; use a token")]
    Login,
    /// The token has characters that no header takes.
    #[error("the token has characters that an HTTP header cannot hold")]
    Token,
    /// No address for the host, or no connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// The certificate is not valid for the host: expired, another name, an unknown authority.
    #[error("the certificate is not valid: {0}")]
    Certificate(String),
    /// TLS fails for another reason.
    #[error("TLS: {0}")]
    Tls(String),
    /// Not done in time.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// The body is larger than accepted.
    #[error("the body is larger than {0} octets")]
    TooLarge(usize),
    /// The connection broke, or what came is not HTTP.
    #[error("no HTTP answer: {0}")]
    Broken(String),
}

/// Finds the addresses of a host. An address with a port other than 0 decides the port too, where
/// the URL names none.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses, in the order in which to try them.
    ///
    /// # Errors
    /// Where there are none, or it is not known.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Fetches over HTTP/1.1, with or without TLS.
///
/// Cheap to clone; the clones share connections and bounds.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    free: Arc<Semaphore>,
    options: HttpOptions,
}

impl HttpClient {
    /// With the system's resolver. `tls` decides which certificates are good.
    #[must_use]
    pub fn new(tls: &Arc<ClientConfig>, options: HttpOptions) -> Self {
        Self::build(tls, options, Resolver::System(GaiResolver::new()))
    }

    /// Finds hosts by `resolver`.
    #[must_use]
    pub fn with_resolver(
        tls: &Arc<ClientConfig>,
        options: HttpOptions,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        Self::build(tls, options, Resolver::Given(resolver))
    }

    fn build(tls: &Arc<ClientConfig>, options: HttpOptions, resolver: Resolver) -> Self {
        // The connector says which protocols it speaks, and insists on being the only one who does.
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols.clear();
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = if options.https_only {
            builder.https_only()
        } else {
            builder.https_or_http()
        };
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Several addresses share this; the whole request is bounded anyway.
        tcp.set_connect_timeout(Some(options.timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.idle)
            .http1_max_buf_size(HEAD_MAX)
            .http1_max_headers(HEADERS_MAX)
            .build(builder.enable_http1().wrap_connector(tcp));
        Self {
            client,
            free: Arc::new(Semaphore::new(options.connections.max(1))),
            options,
        }
    }

    /// Whether a URL is one that can be asked.
    ///
    /// # Errors
    /// Where it is none.
    pub fn check(url: &str) -> Result<(), HttpError> {
        request(Method::GET, url, Bytes::new()).map(drop)
    }

    /// Gets `url`, and says that `accept` is wanted, such as `text/plain`.
    ///
    /// # Errors
    /// Where there is no complete answer; a status such as 404 is an answer.
    pub async fn get(&self, url: &str, accept: &str) -> Result<HttpAnswer, HttpError> {
        let mut request = request(Method::GET, url, Bytes::new())?;
        if let Ok(accept) = HeaderValue::from_str(accept) {
            request.headers_mut().insert(ACCEPT, accept);
        }
        self.send(request).await
    }

    /// Posts a JSON document, with a bearer token (RFC 6750 section 2.1) where there is one.
    ///
    /// # Errors
    /// Where there is no complete answer.
    pub async fn post_json(
        &self,
        url: &str,
        token: Option<&Secret>,
        json: &serde_json::Value,
    ) -> Result<HttpAnswer, HttpError> {
        let mut request = request(Method::POST, url, Bytes::from(json.to_string()))?;
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json.clone());
        headers.insert(ACCEPT, json);
        if let Some(token) = token {
            let bearer = format!("Bearer {}", token.expose());
            let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| HttpError::Token)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        self.send(request).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<HttpAnswer, HttpError> {
        timeout(self.options.timeout, self.exchange(request))
            .await
            .map_err(|_| HttpError::Timeout(self.options.timeout))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<HttpAnswer, HttpError> {
        let _free = self.free.acquire().await;
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|e| classed(&e))?;
        let (head, body) = answer.into_parts();
        let limit = self.options.body_max;
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                HttpError::TooLarge(limit)
            } else {
                HttpError::Broken(chain(&*error))
            }
        })?;
        let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::to_str);
        Ok(HttpAnswer {
            status: head.status.as_u16(),
            content_type: content_type.and_then(Result::ok).map(str::to_owned),
            body: body.to_bytes(),
        })
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClient({:?})", self.options)
    }
}

fn request(method: Method, url: &str, body: Bytes) -> Result<Request<Full<Bytes>>, HttpError> {
    let wrong = || HttpError::Url(url.chars().take(URL_MAX).collect());
    if url.len() > URL_MAX {
        return Err(wrong());
    }
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    if uri.host().is_none_or(str::is_empty) || !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong());
    }
    if uri.authority().is_some_and(|at| at.as_str().contains('@')) {
        return Err(HttpError::Login);
    }
    let request = Request::builder().method(method).uri(uri);
    request
        .header(USER_AGENT, AGENT)
        .body(Full::new(body))
        .map_err(|_| wrong())
}

/// What went wrong: the libraries wrap the cause in up to five others.
fn classed(error: &ClientError) -> HttpError {
    let detail = chain(error);
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        // An I/O error hides what it holds from `source`.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|held| held as &(dyn StdError + 'static));
        let tls = held
            .and_then(|held| held.downcast_ref())
            .or_else(|| error.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(why)) => {
                return HttpError::Certificate(why.to_string());
            }
            Some(other) => return HttpError::Tls(other.to_string()),
            None => {}
        }
        next = held.or_else(|| error.source());
    }
    if error.is_connect() {
        HttpError::Connect(detail)
    } else {
        HttpError::Broken(detail)
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The resolver in the form that the connector asks for.
#[derive(Clone)]
enum Resolver {
    System(GaiResolver),
    Given(Arc<dyn Resolve>),
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::System(system) => system.poll_ready(context),
            Self::Given(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, name: Name) -> Self::Future {
        match self {
            Self::System(system) => {
                let mut found = system.call(name);
                Box::pin(std::future::poll_fn(move |context| {
                    let ready = Pin::new(&mut found).poll(context);
                    ready.map(|found| Ok(found?.collect::<Vec<_>>().into_iter()))
                }))
            }
            Self::Given(given) => {
                let given = Arc::clone(given);
                Box::pin(async move { Ok(given.resolve(name.as_str()).await?.into_iter()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_hosts() {
        for bad in ["", "/x", "host/x", "ftp://h/", "http:///x", "https://a b/"] {
            let refused = request(Method::GET, bad, Bytes::new());
            assert!(matches!(refused, Err(HttpError::Url(_))), "{bad}");
        }
        let long = format!("https://h/{}", "x".repeat(URL_MAX));
        assert!(request(Method::GET, &long, Bytes::new()).is_err());
        let login = HttpClient::check("https://me:s3cret@h/x");
        assert_eq!(login, Err(HttpError::Login));
        assert!(request(Method::GET, "https://[::1]:8/x?y=z", Bytes::new()).is_ok());
    }
}
