//! The notices of success that an expansion owes (RFC 3461 section 5.2.7).

use std::sync::Arc;

use bytes::Bytes;
use postroad_mail::{
    EnhancedCode, Envelope, Origin, Recipient, Reply, ReversePath, Timestamp, escape_peer_text,
};
use postroad_message::dsn::{Action, RecipientReport, Report};
use postroad_queue::history::{Event, Happening};
use postroad_queue::{Draft, QueueId, Store, StoreError};
use tracing::{error, info};

use crate::Config;
use crate::prelude::{Told, expand_own};
use crate::preview::RoutePreview;

/// What a diagnostic says where there is no other host whose reply could be shown.
const DIAGNOSTIC: &str = "250 2.1.5 Address expanded";

/// A message that has just come, with its envelope as the sender gave it.
pub(crate) struct Come<'a> {
    pub(crate) id: QueueId,
    pub(crate) envelope: &'a Envelope,
    /// That of notices to its sender.
    pub(crate) notices: Envelope,
    pub(crate) head: &'a Bytes,
    pub(crate) at: Timestamp,
}

/// The envelope of notices to the sender of a message, where it is to be told anything.
///
/// # Errors
/// The reply to give to the message, where it cannot be told now whom its sender stands for.
pub(crate) async fn to_sender(
    config: &Config,
    envelope: &Envelope,
    told: &[Told],
) -> Result<Option<Envelope>, Reply> {
    let ReversePath::Address(to) = &envelope.from else {
        return Ok(None);
    };
    if told.is_empty() {
        return Ok(None);
    }
    let mut notices = Envelope::new(ReversePath::Null, Recipient::new(to.clone()));
    notices.smtputf8 = to.needs_smtputf8();
    // What is told of a message is to be as safe as the message (RFC 8689 section 5).
    notices.require_tls = envelope.require_tls;
    expand_own(&*config.aliases, &mut notices).await?;
    Ok(Some(notices))
}

/// Puts them into the queue. A notice that cannot be kept is told of in the log: the message has
/// come, and its sender is not to send it again for that.
pub(crate) async fn tell(
    config: &Config,
    store: &Arc<dyn Store>,
    routes: &dyn RoutePreview,
    come: &Come<'_>,
    told: &[Told],
) {
    for action in [Action::Delivered, Action::Expanded] {
        let about: Vec<_> = told.iter().filter(|told| told.action == action).collect();
        let ReversePath::Address(_) = &come.envelope.from else {
            return;
        };
        if about.is_empty() {
            continue;
        }
        match one(config, store, routes, come, action, &about).await {
            Ok(id) => {
                info!(queue_id = %come.id, notice = %id, kind = action.name(), "notice queued");
                config.history.record(happened(come, action, &about));
            }
            Err(cause) => {
                error!(queue_id = %come.id, error = %cause, kind = action.name(), "a notice cannot be kept: the sender is not told");
            }
        }
    }
}

async fn one(
    config: &Config,
    store: &Arc<dyn Store>,
    routes: &dyn RoutePreview,
    come: &Come<'_>,
    action: Action,
    about: &[&Told],
) -> Result<QueueId, StoreError> {
    let ReversePath::Address(to) = &come.envelope.from else {
        return Err(StoreError::NobodyWaits);
    };
    let mut envelope = come.notices.clone();
    let status = EnhancedCode::success(1, 5);
    let recipients = about.iter().map(|told| RecipientReport {
        recipient: &told.recipient,
        status,
        remote_mta: None,
        diagnostic: DIAGNOSTIC,
        remote: false,
        last_attempt: come.at,
        will_retry_until: None,
    });
    let written = Report {
        action,
        reporting_mta: config.hostname.ascii(),
        id: &come.id.to_string(),
        serial: u64::from(action == Action::Expanded),
        envelope: come.envelope,
        arrived: come.at,
        now: come.at,
        to: &if to.needs_smtputf8() {
            to.to_string()
        } else {
            to.to_ascii_domain()
        },
        recipients: recipients.collect(),
        original: come.head,
        body_at: come.head.len(),
        whole: false,
    }
    .write();
    envelope.body = written.body_kind;
    let origin = Origin {
        service: "bounce".to_owned(),
        ..Origin::default()
    };
    let size = written.head.len() + written.body.len();
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    let lanes = routes.lanes(&envelope, &origin, size).await;
    let mut incoming = store.begin(come.at)?;
    incoming.write(written.body.into()).await?;
    let draft = Draft {
        envelope,
        origin,
        head: written.head.into(),
        lanes,
        resumes: None,
    };
    incoming.commit(come.at, draft).await
}

fn happened(come: &Come<'_>, action: Action, about: &[&Told]) -> Event {
    let named = about.iter().take(crate::SHOWN_MAX);
    let named: Vec<_> = named
        .map(|told| escape_peer_text(&told.recipient.address.to_string()))
        .collect();
    Event {
        id: come.id,
        at: come.at,
        what: Happening::Notice {
            kind: action.name().to_owned(),
            about: named.join(" "),
            to: escape_peer_text(&come.envelope.from.to_string()),
        },
    }
}
