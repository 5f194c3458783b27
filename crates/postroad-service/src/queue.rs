//! The queue as an operator sees it: of a running service over its admin socket, of a stopped
//! one directly.

mod whole;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::{Uid, User};
use postroad_mail::Timestamp;
use postroad_net::clock;
use postroad_queue::history::{History, Wanted};
use postroad_queue::transfer::TransferError;
use postroad_queue::{Filter, Listed, Operation, QueueId, Store, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::admin::{OperateRequest, Operated, PAGE_MAX, PAGE_PART, PageRequest, Stats};
use crate::config::{Config, StoreKind};
use crate::history;
use crate::service::{ServiceError, open_store};
use crate::trace::{self, Trace, TraceRequest};

pub use whole::{Pieces, pieces};

/// Octets of an answer other than a message's body, at most.
const ANSWER_MAX: usize = 256 << 20;

/// An operator's order cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue itself.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be opened.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The running service cannot be talked to.
    #[error("asking the running service at {}: {detail}", socket.display())]
    Socket {
        /// Its socket.
        socket: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// An export or import.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// What was read from the queue cannot be written where it should go.
    #[error("writing the output")]
    Output(#[source] io::Error),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// A queue in memory is the running service's alone.
    #[error("no service is running, and its queue, being in memory, is gone")]
    Gone,
}

/// A queue.
pub enum Queue {
    /// Of a running service, at this socket.
    Running(PathBuf),
    /// Of a stopped one.
    Stopped(Stopped),
}

/// A queue that no service uses, open here.
pub struct Stopped {
    store: Arc<dyn Store>,
    history: Arc<dyn History>,
    /// How long the history is kept.
    kept: Duration,
}

impl std::fmt::Debug for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopped").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running(socket) => write!(f, "Running({})", socket.display()),
            Self::Stopped(_) => f.write_str("Stopped"),
        }
    }
}

/// The moment that was so long ago: what arrived before it is older.
#[must_use]
pub fn so_long_ago(span: Duration) -> Timestamp {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(clock::now().as_millis().saturating_sub(millis))
}

impl Queue {
    /// The running service's, where one answers; else opened here.
    ///
    /// # Errors
    /// Where it can be had neither way.
    pub async fn of(config: &Config) -> Result<Self, QueueError> {
        if let Some(socket) = socket_of_running(config).await? {
            return Ok(Self::Running(socket));
        }
        must_be_there(config)?;
        Ok(Self::Stopped(Stopped {
            store: open_store(config).await?,
            history: history::open(config).await?,
            kept: history::kept(config),
        }))
    }

    /// Whether a service runs that uses it.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Messages that match, behind `after`; a few at a time. There are no more where there are
    /// none.
    ///
    /// # Errors
    /// Where the queue cannot be read.
    pub async fn page(
        &self,
        filter: &Filter,
        after: Option<QueueId>,
    ) -> Result<Vec<Listed>, QueueError> {
        match self {
            Self::Running(socket) => {
                let request = PageRequest {
                    filter: filter.clone(),
                    after,
                    max: PAGE_MAX,
                };
                ask(socket, Method::POST, "/queue/page", Some(&request)).await
            }
            Self::Stopped(stopped) => Ok(stopped.store.page(filter, after, PAGE_PART).await?),
        }
    }

    /// Does something to messages; says to how many.
    ///
    /// # Errors
    /// Where it cannot be done.
    pub async fn operate(&self, operation: Operation, filter: &Filter) -> Result<u64, QueueError> {
        match self {
            Self::Running(socket) => {
                let request = OperateRequest {
                    operation,
                    filter: filter.clone(),
                };
                let done: Operated =
                    ask(socket, Method::POST, "/queue/operate", Some(&request)).await?;
                Ok(done.messages)
            }
            Self::Stopped(stopped) => {
                let (store, history) = (&*stopped.store, &*stopped.history);
                Ok(history::operate(store, history, stopped.kept, operation, filter).await?)
            }
        }
    }

    /// What has happened to a message, or to those of one Message-ID; nothing where nothing is
    /// known.
    ///
    /// # Errors
    /// Where the history or the queue cannot be read.
    pub async fn trace(&self, wanted: &Wanted) -> Result<Trace, QueueError> {
        match self {
            Self::Running(socket) => {
                let request = TraceRequest::of(wanted);
                ask(socket, Method::POST, "/trace", Some(&request)).await
            }
            Self::Stopped(stopped) => {
                let (store, history) = (&*stopped.store, &*stopped.history);
                Ok(trace::find(store, history, stopped.kept, wanted).await?)
            }
        }
    }

    /// The queue at a glance, with the lanes that most mail waits in, at most so many.
    ///
    /// # Errors
    /// Where the running service does not answer.
    pub async fn stats(&self, top: usize) -> Result<Stats, QueueError> {
        match self {
            Self::Running(socket) => {
                let path = format!("/queue/stats?top={top}");
                ask(socket, Method::GET, &path, None::<&()>).await
            }
            Self::Stopped(stopped) => Ok(Stats::of(&*stopped.store, None, top)),
        }
    }

    /// Gives a message, piece by piece.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read; those of `take`.
    pub async fn body(
        &self,
        id: QueueId,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), QueueError> {
        match self {
            Self::Running(socket) => {
                let mut body = send(
                    socket,
                    Method::GET,
                    &format!("/queue/{id}/body"),
                    Full::new(Bytes::new()),
                )
                .await?;
                while let Some(frame) = body.frame().await {
                    let frame = frame.map_err(|e| failed(socket, e))?;
                    if let Some(piece) = frame.data_ref() {
                        take(piece).map_err(QueueError::Output)?;
                    }
                }
            }
            Self::Stopped(stopped) => {
                let content = stopped.store.content(id).await?;
                let mut offset = 0;
                while offset < content.len() {
                    let piece = content.read(offset, 256 << 10).await?;
                    offset += u64::try_from(piece.len()).unwrap_or(u64::MAX).max(1);
                    take(&piece).map_err(QueueError::Output)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the look: closes a queue that was opened for it.
    ///
    /// # Errors
    /// Where it does not close cleanly.
    pub async fn close(self) -> Result<(), QueueError> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Stopped(stopped) => Ok(stopped.store.close().await?),
        }
    }
}

fn failed(socket: &Path, error: impl std::fmt::Display) -> QueueError {
    QueueError::Socket {
        socket: socket.to_owned(),
        detail: error.to_string(),
    }
}

/// Where the service answers, where one runs.
pub(crate) async fn socket_of_running(config: &Config) -> Result<Option<PathBuf>, QueueError> {
    let socket = config.admin_socket();
    match UnixStream::connect(&socket).await {
        Ok(_) => Ok(Some(socket)),
        Err(error) => nobody_answers(&socket, &error).map(|()| None),
    }
}

/// A queue that is not there is not made by looking.
pub(crate) fn must_be_there(config: &Config) -> Result<(), QueueError> {
    if config.queue.store == StoreKind::Memory {
        return Err(QueueError::Gone);
    }
    let place = config.queue.path.display();
    match config.queue.path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(QueueError::Refused(format!(
            "there is no queue at {place}; is the configuration the right one?"
        ))),
        Err(error) => Err(QueueError::Refused(format!(
            "looking for the queue at {place}: {error}; run this as the service's user"
        ))),
    }
}

/// Asks a running service something.
pub(crate) async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    request: &impl Serialize,
) -> Result<T, QueueError> {
    ask(socket, Method::POST, path, Some(request)).await
}

/// Asks a running service something that needs no words.
pub(crate) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, QueueError> {
    ask(socket, Method::GET, path, None::<&()>).await
}

/// Whether that is because no service runs. Where one may run, its queue must be left alone.
fn nobody_answers(socket: &Path, error: &io::Error) -> Result<(), QueueError> {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::ConnectionRefused => Ok(()),
        io::ErrorKind::PermissionDenied => {
            let owner = std::fs::metadata(socket)
                .ok()
                .and_then(|file| User::from_uid(Uid::from_raw(file.uid())).ok()?)
                .map_or_else(
                    || "the service's user".to_owned(),
                    |user| format!("{0}, as in `sudo -u {0} postroad queue list`", user.name),
                );
            Err(QueueError::Refused(format!(
                "{} may be used by the service's user only: run this as {owner}",
                socket.display()
            )))
        }
        _ => Err(failed(socket, error)),
    }
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    request: Option<&impl Serialize>,
) -> Result<T, QueueError> {
    let body = request
        .map(serde_json::to_vec)
        .transpose()
        .map_err(|e| failed(socket, e))?
        .unwrap_or_default();
    let answer = send(socket, method, path, Full::new(Bytes::from(body))).await?;
    let octets = http_body_util::Limited::new(answer, ANSWER_MAX)
        .collect()
        .await
        .map_err(|e| failed(socket, e))?
        .to_bytes();
    serde_json::from_slice(&octets).map_err(|e| failed(socket, e))
}

async fn send<B>(
    socket: &Path,
    method: Method,
    path: &str,
    body: B,
) -> Result<hyper::body::Incoming, QueueError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|e| failed(socket, e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(socket, e))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Box::pin(body))
        .map_err(|e| failed(socket, e))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| failed(socket, e))?;
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    let status = response.status();
    let text = http_body_util::Limited::new(response.into_body(), 64 << 10)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let text = text
        .map(|octets| String::from_utf8_lossy(&octets).into_owned())
        .unwrap_or_default();
    Err(QueueError::Refused(if text.is_empty() {
        status.to_string()
    } else {
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_another_is_no_stopped_service() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let said = |kind: io::ErrorKind| nobody_answers(&socket, &kind.into());
        assert!(said(io::ErrorKind::NotFound).is_ok());
        assert!(said(io::ErrorKind::ConnectionRefused).is_ok());
        let refused = said(io::ErrorKind::PermissionDenied).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.ends_with("run this as the service's user"),
            "{refused}"
        );
        std::fs::write(&socket, "").unwrap();
        let user = User::from_uid(nix::unistd::geteuid())
            .unwrap()
            .unwrap()
            .name;
        let refused = said(io::ErrorKind::PermissionDenied).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.contains(&format!("`sudo -u {user} postroad queue list`")),
            "{refused}"
        );
        assert!(said(io::ErrorKind::WouldBlock).is_err());
    }
}
