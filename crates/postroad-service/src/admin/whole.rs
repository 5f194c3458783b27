//! What takes as long as the queue is large: exports, imports, and looking for damage. None of it
//! keeps the service from stopping.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use futures_util::{Stream, StreamExt as _, stream};
use postroad_net::clock;
use postroad_queue::transfer::{Export, Import, Imported, Skip, TransferError};
use postroad_queue::{Filter, Verified};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Failure, STOPPING, Shared};
use crate::with_causes;

/// How often an import says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long a client may take to read why its import has failed.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// The line of a report that has not been read yet.
const REPORTS_MAX: usize = 2;

/// What an import is asked for with.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ImportRequest {
    /// Messages of the stream that are in the queue already, as [`Skip`] has them.
    pub(crate) skip: String,
}

/// How an import stands: a line of JSON of the answer. The last one has `ended`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ImportReport {
    /// Whether nothing more follows.
    pub ended: bool,
    /// What it has come to.
    pub imported: Imported,
    /// Why it has failed, where it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What the next import of the same stream has to skip then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip: Option<String>,
}

impl ImportReport {
    /// Of one that has ended.
    pub(crate) async fn of(import: Import) -> Self {
        let (imported, failed, skip) = match import.finish().await {
            Ok(imported) => (imported, None, None),
            Err(error) => {
                let (cause, skip) = (with_causes(&*error.cause), error.skip.to_string());
                (error.imported, Some(cause), Some(skip))
            }
        };
        Self {
            ended: true,
            imported,
            failed,
            skip,
        }
    }

    fn line(&self) -> Bytes {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

/// Damage is looked for as long as the client waits for the answer.
pub(super) async fn verify(State(shared): State<Shared>) -> Result<Json<Verified>, Failure> {
    let verified = shared.unless_stopping(shared.store.verify()).await?;
    let (messages, findings) = (verified.messages, verified.findings.len());
    if verified.is_good() {
        info!(messages, "the queue was verified");
    } else {
        warn!(messages, findings, "the queue was verified, and is damaged");
    }
    Ok(Json(verified))
}

pub(super) async fn export(State(shared): State<Shared>, Json(filter): Json<Filter>) -> Response {
    info!("an operator exports the queue");
    let begun = Some((Export::new(shared.store, filter), shared.shutdown));
    let pieces = stream::unfold(begun, |export| async {
        let (mut export, stopping) = export?;
        match piece(&mut export, &stopping).await {
            Ok(piece) => Some((Ok(piece?), Some((export, stopping)))),
            Err(why) => {
                error!(why, "an export broke off");
                Some((Err(io::Error::other(why)), None))
            }
        }
    });
    Body::from_stream(pieces).into_response()
}

async fn piece(export: &mut Export, stopping: &CancellationToken) -> Result<Option<Bytes>, String> {
    tokio::select! {
        () = stopping.cancelled() => Err(STOPPING.to_owned()),
        piece = export.next() => piece.map_err(|error| with_causes(&error)),
    }
}

/// The answer begins at once, and says how far the import is; nobody needs to have sent all
/// before they learn that it has failed.
pub(super) async fn import(
    State(shared): State<Shared>,
    Query(request): Query<ImportRequest>,
    body: Body,
) -> Response {
    let skip: Skip = match request.skip.as_str() {
        "" => Skip::default(),
        text => match text.parse() {
            Ok(skip) => skip,
            Err(error) => {
                return (StatusCode::BAD_REQUEST, format!("skip: {error}")).into_response();
            }
        },
    };
    let (said, reports) = mpsc::channel(REPORTS_MAX);
    // A task of its own: what has been taken is committed, and said in the log, whether or not
    // the client waits for it.
    tokio::spawn(take(shared, skip, body, said));
    let lines = stream::unfold(reports, |mut reports: mpsc::Receiver<Bytes>| async {
        let line = reports.recv().await?;
        Some((Ok::<_, io::Error>(line), reports))
    });
    Body::from_stream(lines).into_response()
}

async fn take(shared: Shared, skip: Skip, body: Body, said: mpsc::Sender<Bytes>) {
    info!("an operator imports mail into the queue");
    let mut import = Import::new(shared.store.clone(), skip);
    let mut pieces = body.into_data_stream();
    let mut every = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => {
                import.fail(TransferError::Input(STOPPING.to_owned()));
                break;
            }
            _ = every.tick() => {
                let report = ImportReport {
                    imported: import.imported(),
                    ..ImportReport::default()
                };
                // Whoever does not read this one reads the next.
                let _ = said.try_send(report.line());
            }
            piece = pieces.next() => {
                let wanted = match piece {
                    Some(Ok(piece)) => import.take(clock::now(), piece).await,
                    Some(Err(error)) => {
                        import.fail(TransferError::Input(with_causes(&error)));
                        false
                    }
                    None => false,
                };
                if !wanted {
                    break;
                }
            }
        }
    }
    let report = ImportReport::of(import).await;
    let messages = report.imported.messages;
    match (&report.failed, &report.skip) {
        (Some(why), Some(skip)) => warn!(messages, skip, why, "an import has failed"),
        _ => info!(messages, "mail was imported"),
    }
    let _ = said.send(report.line()).await;
    tokio::select! {
        () = shared.shutdown.cancelled() => {}
        () = rest(pieces) => {}
        () = tokio::time::sleep(READ_WITHIN) => {}
    }
}

/// A connection that is closed while the client still sends takes our answer with it.
async fn rest<P, E>(mut pieces: impl Stream<Item = Result<P, E>> + Unpin) {
    while let Some(Ok(_)) = pieces.next().await {}
}
