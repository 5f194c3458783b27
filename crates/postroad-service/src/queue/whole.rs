//! A queue as a whole: exported, imported, looked through for damage.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use postroad_net::clock;
use postroad_queue::transfer::{
    Export, Import, Imported, PIECE, Part, Reader, Skip, TransferError,
};
use postroad_queue::{Filter, Verified};
use tokio::sync::mpsc;

use super::{ANSWER_MAX, Queue, QueueError, Stopped, ask, failed, send};
use crate::admin::{ImportReport, ImportRequest};
use crate::with_causes;

/// Pieces of an import that have been read ahead, at most.
const AHEAD_MAX: usize = 2;

/// An export that comes in, piece by piece.
pub type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// Reads in a thread of its own: a read that never ends must not keep the process from ending.
///
/// # Errors
/// Where there is no thread to be had.
pub fn pieces(mut input: impl io::Read + Send + 'static) -> io::Result<Pieces> {
    let (pieces, taken) = mpsc::channel(AHEAD_MAX);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = match input.read(&mut piece) {
                    Ok(0) => return,
                    Ok(read) => {
                        piece.truncate(read);
                        Ok(piece.into())
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let last = read.is_err();
                if pieces.blocking_send(read).is_err() || last {
                    return;
                }
            }
        })?;
    Ok(taken)
}

impl Queue {
    /// Gives all messages that match as a stream of octets that [`Queue::import`] takes; `seen` is
    /// told each part of it.
    ///
    /// # Errors
    /// Where the queue cannot be read, or the stream is cut off on its way; those of `take`.
    pub async fn export(
        &self,
        filter: &Filter,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
        mut seen: impl FnMut(&Part),
    ) -> Result<(), QueueError> {
        let mut reader = Reader::default();
        let mut pass = |piece: &Bytes| -> Result<(), QueueError> {
            let mut unread = piece.clone();
            while let Some(part) = reader.next(&mut unread).map_err(TransferError::from)? {
                seen(&part);
            }
            take(piece).map_err(QueueError::Output)
        };
        match self {
            Self::Running(socket) => {
                let filter = serde_json::to_vec(filter).map_err(|e| failed(socket, e))?;
                let body = http_body_util::Full::new(Bytes::from(filter));
                let mut answer = send(socket, Method::POST, "/queue/export", body).await?;
                while let Some(frame) = answer.frame().await {
                    let broken = |error| failed(socket, format!("{error}; its log says why"));
                    if let Some(piece) = frame.map_err(broken)?.data_ref() {
                        pass(piece)?;
                    }
                }
            }
            Self::Stopped(Stopped { store, .. }) => {
                let mut export = Export::new(Arc::clone(store), filter.clone());
                while let Some(piece) = export.next().await? {
                    pass(&piece)?;
                }
            }
        }
        reader.finish().map_err(TransferError::from)?;
        Ok(())
    }

    /// Takes an export into this queue, but for the messages that are in it already; `progress`
    /// is told now and then how far it is.
    ///
    /// # Errors
    /// Where the queue cannot be had. An import that has begun ends in a report, whatever comes.
    pub async fn import(
        &self,
        skip: Skip,
        input: Pieces,
        mut progress: impl FnMut(&Imported),
    ) -> Result<ImportReport, QueueError> {
        match self {
            Self::Running(socket) => send_import(socket, &skip, input, progress).await,
            Self::Stopped(Stopped { store, .. }) => {
                let (mut input, mut import) = (input, Import::new(Arc::clone(store), skip));
                while let Some(piece) = input.recv().await {
                    let wanted = match piece {
                        Ok(piece) => import.take(clock::now(), piece).await,
                        Err(error) => {
                            import.fail(TransferError::Input(error.to_string()));
                            false
                        }
                    };
                    progress(&import.imported());
                    if !wanted {
                        break;
                    }
                }
                Ok(ImportReport::of(import).await)
            }
        }
    }

    /// Reads all that is kept.
    ///
    /// # Errors
    /// Where it cannot be read at all. Damage is no error, but a finding.
    pub async fn verify(&self) -> Result<Verified, QueueError> {
        match self {
            Self::Running(socket) => ask(socket, Method::GET, "/queue/verify", None::<&()>).await,
            Self::Stopped(stopped) => Ok(stopped.store.verify().await?),
        }
    }
}

async fn send_import(
    socket: &Path,
    skip: &Skip,
    input: Pieces,
    mut progress: impl FnMut(&Imported),
) -> Result<ImportReport, QueueError> {
    let unreadable = Arc::new(Mutex::new(None));
    let body = StreamBody::new(frames(input, Arc::clone(&unreadable)));
    let request = ImportRequest {
        skip: skip.to_string(),
    };
    let path = format!("/queue/import?skip={}", request.skip);
    let mut answer = send(socket, Method::POST, &path, body).await?;
    let mut last = Imported::default();
    let lost = |last: Imported, error: &dyn std::fmt::Display| {
        let detail = format!(
            "{error}, after at least {} messages were imported; its log says how many",
            last.messages
        );
        failed(socket, detail)
    };
    let mut lines = Vec::new();
    while let Some(frame) = answer.frame().await {
        let frame = frame.map_err(|error| lost(last, &error))?;
        lines.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = lines.iter().position(|octet| *octet == b'\n') {
            let line: Vec<_> = lines.drain(..=end).collect();
            let mut report: ImportReport =
                serde_json::from_slice(&line).map_err(|e| failed(socket, e))?;
            last = report.imported;
            if !report.ended {
                progress(&last);
                continue;
            }
            // The service saw no more than an early end.
            let why = unreadable
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let (Some(why), Some(failed)) = (why, &mut report.failed) {
                *failed = with_causes(&TransferError::Input(why));
            }
            return Ok(report);
        }
        if lines.len() > ANSWER_MAX {
            break;
        }
    }
    Err(lost(last, &"the answer has no end"))
}

/// What is read, as the body of a request. It ends where reading fails, and says why elsewhere:
/// the service still answers how far the import came.
fn frames(
    input: Pieces,
    unreadable: Arc<Mutex<Option<String>>>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, io::Error>> + Send {
    stream::unfold((input, unreadable), |(mut input, unreadable)| async {
        match input.recv().await? {
            Ok(piece) => Some((Ok(Frame::data(piece)), (input, unreadable))),
            Err(error) => {
                let mut why = unreadable.lock().unwrap_or_else(PoisonError::into_inner);
                *why = Some(error.to_string());
                None
            }
        }
    })
    .fuse()
}
