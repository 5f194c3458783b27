//! How operators reach a running service: HTTP over a Unix socket that only its owner may open.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use postroad_net::clock;
use postroad_queue::{
    Content, Filter, LaneSummary, Listed, Operation, QueueId, Store, StoreError, Totals,
};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::Loaded;
use crate::service::ServiceError;

/// Messages in one page of a listing, at most.
pub const PAGE_MAX: usize = 1000;
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

/// The queue at a glance.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Stats {
    /// In all.
    pub totals: Totals,
    /// By lane.
    pub lanes: Vec<LaneSummary>,
}

impl Stats {
    /// Of a store.
    #[must_use]
    pub fn of(store: &dyn Store) -> Self {
        Self {
            totals: store.totals(),
            lanes: store.lanes(),
        }
    }
}

/// The server behind the socket.
#[derive(Debug)]
pub struct Admin {
    socket: PathBuf,
    reload: Arc<Notify>,
    shutdown: CancellationToken,
    tasks: std::sync::Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

#[derive(Clone)]
struct Shared {
    store: Arc<dyn Store>,
    reload: Arc<Notify>,
}

impl Admin {
    /// Serves until [`Admin::stop`].
    pub(crate) async fn start(
        loaded: &Loaded,
        store: Arc<dyn Store>,
    ) -> Result<Arc<Self>, ServiceError> {
        let config = &loaded.config;
        let failed = |key: &str, place: String, error: io::Error| {
            let message = format!("listening on {place}: {error}");
            ServiceError::Unavailable(loaded.problem(key, 0, message))
        };
        let socket = config.admin_socket();
        let listener = listen(&socket)
            .map_err(|error| failed("admin.socket", socket.display().to_string(), error))?;
        let (reload, shutdown) = (Arc::new(Notify::new()), CancellationToken::new());
        let shared = Shared {
            store,
            reload: Arc::clone(&reload),
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
            let health = health(address, shutdown.clone()).await;
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
            if tokio::time::timeout(std::time::Duration::from_secs(2), task)
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

/// Health alone, for load balancers and service managers, on a loopback address.
async fn health(
    address: SocketAddr,
    shutdown: CancellationToken,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "health over HTTP");
    let router = Router::new()
        .route("/health", get(healthy))
        .route("/", get(healthy));
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await;
        if let Err(error) = served {
            error!(%error, "health over HTTP has failed");
        }
    }))
}

fn all(shared: Shared) -> Router {
    Router::new()
        .route("/health", get(healthy))
        .route("/reload", post(reload))
        .route("/queue/page", post(page))
        .route("/queue/operate", post(operate))
        .route("/queue/stats", get(stats))
        .route("/queue/{id}/body", get(body))
        .with_state(shared)
}

async fn healthy() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

async fn reload(State(shared): State<Shared>) -> StatusCode {
    shared.reload.notify_one();
    StatusCode::ACCEPTED
}

async fn page(
    State(shared): State<Shared>,
    Json(request): Json<PageRequest>,
) -> Result<Json<Vec<Listed>>, Failure> {
    let max = request.max.clamp(1, PAGE_MAX);
    Ok(Json(
        shared
            .store
            .page(&request.filter, request.after, max)
            .await?,
    ))
}

async fn operate(
    State(shared): State<Shared>,
    Json(request): Json<OperateRequest>,
) -> Result<Json<Operated>, Failure> {
    let messages = shared
        .store
        .operate(clock::now(), request.operation, &request.filter)
        .await?;
    info!(operation = ?request.operation, messages, "an operator's order was carried out");
    Ok(Json(Operated { messages }))
}

async fn stats(State(shared): State<Shared>) -> Json<Stats> {
    Json(Stats::of(&*shared.store))
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

struct Failure(StoreError);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = if matches!(self.0, StoreError::NotFound(_)) {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        (status, self.0.to_string()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_queue::MemStore;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(socket: &Path, request: &str) -> String {
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let head = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let request = format!("{request} {head}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_and_reload_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let mut config = crate::config::Config::default();
        config.admin.socket = Some(socket.clone());
        let loaded = Loaded::from_config(config);
        let store = || -> Arc<dyn Store> { Arc::new(MemStore::new(1 << 20)) };
        // One left over by a process that was killed.
        drop(UnixListener::bind(&socket).unwrap());

        let admin = Admin::start(&loaded, store()).await.unwrap();
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let health = ask(&socket, "GET /health").await;
        assert!(
            health.starts_with("HTTP/1.1 200 ") && health.contains("\"status\":\"ok\""),
            "{health}"
        );
        let reload = ask(&socket, "POST /reload").await;
        assert!(reload.starts_with("HTTP/1.1 202 "), "{reload}");
        admin.reload_asked().await;

        let second = Admin::start(&loaded, store()).await.unwrap_err();
        assert!(
            second.to_string().contains("another process answers there"),
            "{second}"
        );
        admin.stop().await;
        assert!(!socket.exists());
    }
}
