//! What is asked about messages and destinations.

use axum::extract::State;
use axum::response::Json;

use super::{Failure, Shared};
use crate::explain::{ExplainRequest, Explained};
use crate::tls_report::TlsSummary;
use crate::trace::{self, Trace, TraceRequest};

pub(super) async fn trace(
    State(shared): State<Shared>,
    Json(request): Json<TraceRequest>,
) -> Result<Json<Trace>, Failure> {
    let Some(wanted) = request.wanted() else {
        return Err(Failure::Asked("expected `id` or `message_id`".to_owned()));
    };
    let parts = &shared.parts;
    let found = trace::find(&*parts.store, &*parts.history, parts.kept, &wanted);
    Ok(Json(shared.unless_stopping(found).await?))
}

pub(super) async fn explain(
    State(shared): State<Shared>,
    Json(request): Json<ExplainRequest>,
) -> Result<Json<Explained>, Failure> {
    let Some(explainer) = &shared.parts.explainer else {
        return Err(Failure::Asked("nothing is delivered here".to_owned()));
    };
    tokio::select! {
        () = shared.shutdown.cancelled() => Err(Failure::Stopping),
        explained = explainer.explain(true, &request) => Ok(Json(explained)),
    }
}

pub(super) async fn tls_report(State(shared): State<Shared>) -> Result<Json<TlsSummary>, Failure> {
    let explainer = shared.parts.explainer.as_ref();
    let explainer = explainer.ok_or_else(|| Failure::Asked("nothing is delivered here".to_owned()));
    Ok(Json(explainer?.tls_report()))
}
