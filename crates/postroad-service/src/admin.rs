//! How operators reach a running service: HTTP over a Unix socket that only its owner may open.

mod look;
mod stats;
mod whole;

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use postroad_mta::Outbound;
use postroad_queue::history::History;
use postroad_queue::{Content, Filter, Health, Listed, Operation, QueueId, Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::Loaded;
use crate::explain::Explainer;
use crate::service::ServiceError;
use crate::{history, metrics, with_causes};

pub use postroad_mta::{DeadHost, DestinationView, LastError, Throttled};
pub use stats::Stats;
pub use whole::ImportReport;
pub(crate) use whole::ImportRequest;

/// Messages in one page of a listing, at most.
pub const PAGE_MAX: usize = 1000;
/// Messages that are asked of the store at once.
pub(crate) const PAGE_PART: usize = postroad_queue::transfer::PAGE;
/// A page that has so many octets gets no further messages.
const PAGE_OCTETS: usize = 4 << 20;
/// Octets of a body sent at a time.
const PIECE: usize = 64 << 10;

/// A request for messages of a listing.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PageRequest {
    /// Which.
    pub filter: Filter,
    /// Behind this one.
    pub after: Option<QueueId>,
    /// At most so many, and at most [`PAGE_MAX`].
    pub max: usize,
}

/// A request to do something to messages.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OperateRequest {
    /// What.
    pub operation: Operation,
    /// To which.
    pub filter: Filter,
}

/// To how many it was done.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Operated {
    /// Messages.
    pub messages: u64,
}

/// The server behind the socket.
#[derive(Debug)]
pub struct Admin {
    socket: PathBuf,
    reload: Arc<Notify>,
    shutdown: CancellationToken,
    tasks: std::sync::Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// What is asked, and worked on.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) history: Arc<dyn History>,
    /// How long the history is kept, as long as this process lives.
    pub(crate) kept: Duration,
    /// Delivery: who knows what holds destinations back.
    pub(crate) outbound: Option<Arc<Outbound>>,
    pub(crate) explainer: Option<Arc<Explainer>>,
}

#[derive(Clone)]
struct Shared {
    store: Arc<dyn Store>,
    parts: Parts,
    reload: Arc<Notify>,
    shutdown: CancellationToken,
}

impl Shared {
    /// What may take long ends without a result where the service does.
    async fn unless_stopping<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            () = self.shutdown.cancelled() => Err(Failure::Stopping),
            done = work => done.map_err(Failure::Store),
        }
    }
}

impl Admin {
    /// Serves until [`Admin::stop`].
    pub(crate) async fn start(loaded: &Loaded, parts: Parts) -> Result<Arc<Self>, ServiceError> {
        let config = &loaded.config;
        let failed = |key: &str, place: String, error: io::Error| {
            let message = format!("listening on {place}: {error}");
            ServiceError::Unavailable(loaded.problem(key, 0, message))
        };
        let socket = config.admin_socket();
        let listener = listen(&socket)
            .map_err(|error| failed("admin.socket", socket.display().to_string(), error))?;
        let (reload, shutdown) = (Arc::new(Notify::new()), CancellationToken::new());
        let watching = parts.clone();
        let shared = Shared {
            store: Arc::clone(&parts.store),
            parts,
            reload: Arc::clone(&reload),
            shutdown: shutdown.clone(),
        };
        let stopped = shutdown.clone().cancelled_owned();
        let mut tasks = vec![tokio::spawn(async move {
            let served = axum::serve(listener, all(shared))
                .with_graceful_shutdown(stopped)
                .await;
            if let Err(error) = served {
                error!(%error, "the admin socket has failed");
            }
        })];
        if let Some(address) = config.admin.http {
            let health = health(address, watching, shutdown.clone()).await;
            tasks.push(health.map_err(|error| failed("admin.http", address.to_string(), error))?);
        }
        Ok(Arc::new(Self {
            socket,
            reload,
            shutdown,
            tasks: tasks.into(),
        }))
    }

    /// Ends when somebody has asked for a reload.
    pub(crate) async fn reload_asked(&self) {
        self.reload.notified().await;
    }

    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        let tasks = std::mem::take(
            &mut *self
                .tasks
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        for task in tasks {
            // A client that does not let go is not waited for.
            let abort = task.abort_handle();
            if tokio::time::timeout(Duration::from_secs(2), task)
                .await
                .is_err()
            {
                abort.abort();
            }
        }
        let _ = fs::remove_file(&self.socket);
    }
}

/// A socket left over by a process that was killed is replaced; one that answers is not.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers there",
        ));
    }
    // A new socket has the rights that the umask leaves it. It is made where nobody else may look,
    // and moved here with its own: at no moment can others connect.
    let private = path.with_file_name(format!(".{}", std::process::id()));
    match fs::remove_dir_all(&private) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = private.join("s");
    let listener = UnixListener::bind(&made).and_then(|listener| {
        fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
        fs::rename(&made, path)?;
        Ok(listener)
    });
    let _ = fs::remove_dir_all(&private);
    listener
}

/// Health and metrics, for load balancers and monitoring, on a loopback address.
async fn health(
    address: SocketAddr,
    parts: Parts,
    shutdown: CancellationToken,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "health over HTTP");
    let router = Router::new()
        .route("/", get(healthy))
        .merge(watched())
        .with_state(parts);
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await;
        if let Err(error) = served {
            error!(%error, "health over HTTP has failed");
        }
    }))
}

/// What tells how the service does, and nothing of anybody's mail.
fn watched() -> Router<Parts> {
    Router::new()
        .route("/health", get(healthy))
        .route("/metrics", get(metrics))
}

fn all(shared: Shared) -> Router {
    let watched = watched().with_state(shared.parts.clone());
    Router::new()
        .route("/reload", post(reload))
        .route("/queue/page", post(page))
        .route("/queue/operate", post(operate))
        .route("/queue/stats", get(stats::stats))
        .route("/queue/verify", get(whole::verify))
        .route("/queue/export", post(whole::export))
        .route("/queue/import", post(whole::import))
        .route("/queue/{id}/body", get(body))
        .route("/trace", post(look::trace))
        .route("/explain", post(look::explain))
        .route("/tls/report", get(look::tls_report))
        .with_state(shared)
        .merge(watched)
}

/// A service whose queue takes no mail answers it with a temporary error: whoever spreads
/// connections does better to choose another.
async fn healthy(State(parts): State<Parts>) -> Response {
    health_of(parts.store.health())
}

fn health_of(health: Health) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let Some(fault) = health.fault else {
        return Json(serde_json::json!({ "status": "ok", "version": version })).into_response();
    };
    let answer = serde_json::json!({
        "status": "degraded",
        "fault": fault,
        "since": health.fault_since,
        "version": version,
    });
    (StatusCode::SERVICE_UNAVAILABLE, Json(answer)).into_response()
}

async fn metrics(State(parts): State<Parts>) -> Response {
    let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    let text = metrics::text(&*parts.store, parts.outbound.as_deref());
    (kind, text).into_response()
}

async fn reload(State(shared): State<Shared>) -> StatusCode {
    shared.reload.notify_one();
    StatusCode::ACCEPTED
}

/// An array of messages. It may end before there are as many as were asked for; only an empty one
/// says that there are no more.
async fn page(
    State(shared): State<Shared>,
    Json(request): Json<PageRequest>,
) -> Result<Response, Failure> {
    let listing = listing(&*shared.store, &request);
    let listing = shared.unless_stopping(listing).await?;
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, listing).into_response())
}

async fn listing(store: &dyn Store, request: &PageRequest) -> Result<Vec<u8>, StoreError> {
    let mut left = request.max.clamp(1, PAGE_MAX);
    let (mut after, mut listing) = (request.after, vec![b'[']);
    while left > 0 && listing.len() < PAGE_OCTETS {
        let part = store.page(&request.filter, after, left.min(PAGE_PART));
        let part = part.await?;
        let Some(last) = part.last() else { break };
        after = Some(last.id);
        for message in part {
            if listing.len() >= PAGE_OCTETS {
                break;
            }
            if listing.len() > 1 {
                listing.push(b',');
            }
            append(&mut listing, &message)?;
            left = left.saturating_sub(1);
        }
    }
    listing.push(b']');
    Ok(listing)
}

fn append(listing: &mut Vec<u8>, message: &Listed) -> Result<(), StoreError> {
    serde_json::to_writer(listing, message).map_err(|error| StoreError::Damaged {
        place: format!("message {}", message.id),
        detail: error.to_string().into(),
    })
}

async fn operate(
    State(shared): State<Shared>,
    Json(request): Json<OperateRequest>,
) -> Result<Json<Operated>, Failure> {
    let (parts, operation) = (&shared.parts, request.operation);
    let (store, history) = (&*parts.store, &*parts.history);
    let operated = history::operate(store, history, parts.kept, operation, &request.filter);
    let messages = operated.await?;
    info!(operation = ?request.operation, messages, "an operator's order was carried out");
    Ok(Json(Operated { messages }))
}

async fn body(
    State(shared): State<Shared>,
    UrlPath(id): UrlPath<QueueId>,
) -> Result<Response, Failure> {
    let content = shared.store.content(id).await?;
    let pieces = futures_util::stream::unfold(
        (content, 0_u64),
        |(content, offset): (Arc<dyn Content>, u64)| async move {
            if offset >= content.len() {
                return None;
            }
            let piece: io::Result<Bytes> =
                content.read(offset, PIECE).await.map_err(io::Error::other);
            let read = piece.as_ref().map_or(u64::MAX, |piece| {
                u64::try_from(piece.len()).unwrap_or(u64::MAX)
            });
            Some((piece, (content, offset.saturating_add(read.max(1)))))
        },
    );
    Ok(Body::from_stream(pieces).into_response())
}

const STOPPING: &str = "the service is stopping; ask again when it has stopped";

enum Failure {
    Store(StoreError),
    Asked(String),
    Stopping,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, STOPPING.to_owned()),
            Self::Asked(what) => (StatusCode::BAD_REQUEST, what),
            Self::Store(error @ StoreError::NotFound(_)) => {
                (StatusCode::NOT_FOUND, error.to_string())
            }
            Self::Store(error) => (StatusCode::INTERNAL_SERVER_ERROR, with_causes(&error)),
        };
        (status, text).into_response()
    }
}

#[cfg(test)]
mod tests;
