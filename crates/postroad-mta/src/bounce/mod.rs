//! The notices that an attempt's outcomes owe (RFC 3461 section 5, RFC 3464).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use postroad_mail::{
    Address, Class, EnhancedCode, Envelope, Notify, Origin, Recipient, Reply, ReversePath,
    Timestamp, escape_peer_text,
};
use postroad_message::dsn::{self, Action, RecipientReport, Report};
use postroad_queue::{Claimed, Content, Draft, Notice, Outcome};
use tracing::{error, warn};

use crate::outbound::{OutboundConfig, Settings, lanes, replies};

/// Octets of a message read for a notice, at most: a header block larger than this is cut.
const READ_MAX: usize = 512 << 10;

/// How an attempt ended for a recipient.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// Its time was up.
    pub(crate) expired: bool,
    /// The hop has the DSN extension: notices of success are its business.
    pub(crate) hop_notifies: bool,
}

/// What has happened, and to which recipients.
type Owed = (Action, Vec<usize>);

/// A notice, as the log shows it once it is in the queue.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) kind: &'static str,
    /// The recipients it is about.
    pub(crate) about: String,
    /// Who gets it.
    pub(crate) to: String,
}

/// Recipients that a log line names, at most.
const SHOWN_MAX: usize = 10;

/// One notice for each thing that has happened, naming all recipients to whom it has.
pub(crate) async fn notices(
    settings: &Settings,
    job: &Claimed,
    ended: &BTreeMap<usize, Ended>,
    late: bool,
    expires: Timestamp,
    now: Timestamp,
) -> Vec<(Notice, Shown)> {
    let config = &settings.config;
    let mut owed: Vec<Owed> = Vec::new();
    for (&index, end) in ended {
        let Some(recipient) = job.message.envelope.recipients().get(index) else {
            continue;
        };
        let Some(action) = action(end, recipient.notify(), late) else {
            continue;
        };
        match owed.iter_mut().find(|(other, _)| *other == action) {
            Some((_, together)) => together.push(index),
            None => owed.push((action, vec![index])),
        }
    }
    let Some((to, owed)) = addressee(config, job, owed) else {
        return Vec::new();
    };
    let mut notices = Vec::with_capacity(owed.len());
    for (action, recipients) in owed {
        let original = match read(&*job.content, action, &job.message.envelope).await {
            Ok(original) => original,
            Err(error) => {
                error!(queue_id = %job.message.id, %error, "a notice goes without the message it is about");
                Bytes::new()
            }
        };
        let reported = Reported {
            config,
            job,
            ended,
            expires,
            now,
            to: &to,
            original,
        };
        let mut notice = reported.write(action, &recipients);
        let Draft {
            envelope, origin, ..
        } = &notice.draft;
        let size = notice.draft.head.len() + notice.body.len();
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        notice.draft.lanes = lanes(&settings.router, envelope, origin, size).await;
        notices.push((notice, reported.shown(action, &recipients)));
    }
    notices
}

fn action(end: &Ended, notify: Notify, late: bool) -> Option<Action> {
    match &end.outcome {
        Outcome::Failed(_) => notify.failure.then_some(Action::Failed),
        Outcome::Deferred(_) => (late && notify.delay).then_some(Action::Delayed),
        Outcome::Delivered(_) if !notify.success || end.hop_notifies => None,
        Outcome::Delivered(evidence) if evidence.remote => Some(Action::Relayed),
        Outcome::Delivered(_) => Some(Action::Delivered),
    }
}

/// Whom to tell. Never the null reverse-path: then the postmaster hears of failures, unless the
/// failure is the postmaster's own.
fn addressee(
    config: &OutboundConfig,
    job: &Claimed,
    owed: Vec<Owed>,
) -> Option<(Address, Vec<Owed>)> {
    if owed.is_empty() {
        return None;
    }
    if let ReversePath::Address(address) = &job.message.envelope.from {
        return Some((address.clone(), owed));
    }
    let failures: Vec<_> = owed
        .into_iter()
        .filter(|(action, _)| *action == Action::Failed)
        .collect();
    if failures.is_empty() {
        return None;
    }
    warn!(queue_id = %job.message.id, "double bounce: a message with a null reverse-path has failed");
    let postmaster = config.postmaster.as_ref()?;
    let own = job
        .message
        .envelope
        .recipients()
        .iter()
        .any(|r| r.address == *postmaster);
    (!own && job.message.origin.service != "double-bounce").then(|| (postmaster.clone(), failures))
}

/// The start of a message: its header block, and all of it where that is to be returned.
async fn read(
    content: &dyn Content,
    action: Action,
    envelope: &Envelope,
) -> Result<Bytes, postroad_queue::StoreError> {
    let whole = dsn::returns_body(action, envelope.ret, content.len());
    let mut octets = BytesMut::new();
    let mut offset = 0;
    while offset < content.len() && octets.len() < READ_MAX {
        let piece = content.read(offset, READ_MAX - octets.len()).await?;
        if piece.is_empty() {
            break;
        }
        offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        octets.extend_from_slice(&piece);
        if !whole && head_end(&octets).is_some() {
            break;
        }
    }
    Ok(octets.freeze())
}

fn head_end(octets: &[u8]) -> Option<usize> {
    octets
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

struct Reported<'a> {
    config: &'a OutboundConfig,
    job: &'a Claimed,
    ended: &'a BTreeMap<usize, Ended>,
    expires: Timestamp,
    now: Timestamp,
    to: &'a Address,
    original: Bytes,
}

impl Reported<'_> {
    fn write(&self, action: Action, recipients: &[usize]) -> Notice {
        let message = &self.job.message;
        let replies: Vec<_> = recipients
            .iter()
            .filter_map(|&n| self.one(n, action))
            .collect();
        let reports = replies.iter().map(|one| RecipientReport {
            recipient: &one.recipient,
            status: one.status,
            remote_mta: one.remote_mta,
            diagnostic: &one.diagnostic,
            remote: one.remote,
            last_attempt: one.at,
            will_retry_until: (action == Action::Delayed).then_some(self.expires),
        });
        let whole =
            u64::try_from(self.original.len()).is_ok_and(|length| length == self.job.content.len());
        let id = message.id.to_string();
        let written = Report {
            action,
            reporting_mta: self.config.hostname.ascii(),
            id: &id,
            serial: u64::from(self.job.attempts) * 10
                + recipients
                    .first()
                    .map_or(0, |&n| u64::try_from(n).unwrap_or(0) * 1_000_000),
            envelope: &message.envelope,
            arrived: message.arrived,
            now: self.now,
            // In A-labels, where the local part lets it be ASCII.
            to: &if self.to.needs_smtputf8() {
                self.to.to_string()
            } else {
                self.to.to_ascii_domain()
            },
            recipients: reports.collect(),
            original: &self.original,
            body_at: head_end(&self.original).unwrap_or(self.original.len()),
            whole,
        }
        .write();
        let mut envelope = Envelope::new(ReversePath::Null, Recipient::new(self.to.clone()));
        envelope.body = written.body_kind;
        envelope.smtputf8 = self.to.needs_smtputf8();
        let service = if message.envelope.from.is_null() {
            "double-bounce"
        } else {
            "bounce"
        };
        let draft = Draft {
            lanes: Vec::new(),
            envelope,
            origin: Origin {
                service: service.to_owned(),
                ..Origin::default()
            },
            head: written.head.into(),
            resumes: None,
        };
        Notice {
            draft,
            body: written.body.into(),
        }
    }

    fn one(&self, index: usize, action: Action) -> Option<One<'_>> {
        let end = self.ended.get(&index)?;
        let evidence = end.outcome.evidence();
        let recipient = self.job.message.envelope.recipients().get(index)?;
        let mut one = One {
            recipient: recipient.clone(),
            status: if end.expired {
                replies::EXPIRED
            } else {
                status(&evidence.reply, action)
            },
            remote_mta: evidence.remote_mta.as_deref(),
            diagnostic: evidence.reply.to_string(),
            remote: evidence.remote,
            at: evidence.at,
        };
        if self.is_private_postmaster(recipient) {
            // Neither the address nor its host, nor what that says of it.
            one.recipient.address = Address::postmaster_at(self.config.hostname.clone());
            one.remote_mta = None;
            one.remote = false;
            let code = evidence.reply.code;
            one.diagnostic = format!("{code} {} at the postmaster's mailbox", one.status);
        }
        if end.expired {
            one.diagnostic.push_str(" (tried until its time was up)");
        }
        Some(one)
    }

    /// Whether this is the postmaster's own address, and the sender does not know it: intake has put it in the
    /// place of the host's, and has said so in ORCPT. Who wrote to it by its name knows it.
    fn is_private_postmaster(&self, recipient: &Recipient) -> bool {
        let (Some(private), Some(named)) = (&self.config.postmaster, &recipient.original) else {
            return false;
        };
        let known = named.address.parse().is_ok_and(|a: Address| a == *private);
        recipient.address == *private && !known
    }

    fn shown(&self, action: Action, recipients: &[usize]) -> Shown {
        let all = self.job.message.envelope.recipients();
        let named = recipients.iter().take(SHOWN_MAX);
        let mut about: Vec<_> = named
            .filter_map(|&n| all.get(n))
            .map(|r| escape_peer_text(&r.address.to_string()))
            .collect();
        if recipients.len() > SHOWN_MAX {
            about.push("\u{2026}".to_owned());
        }
        Shown {
            kind: action.name(),
            about: about.join(" "),
            to: escape_peer_text(&self.to.to_string()),
        }
    }
}

struct One<'a> {
    recipient: Recipient,
    status: EnhancedCode,
    remote_mta: Option<&'a str>,
    diagnostic: String,
    remote: bool,
    at: Timestamp,
}

/// The reply's own enhanced code, or the plainest, in the class of what follows from it
/// (RFC 3464 section 2.3.4): a 554 greeting delays a message for which there are other hosts.
fn status(reply: &Reply, action: Action) -> EnhancedCode {
    let class = match action {
        Action::Failed => Class::Permanent,
        Action::Delayed => Class::Transient,
        Action::Delivered | Action::Relayed => Class::Success,
    };
    let code = reply.enhanced.unwrap_or(EnhancedCode::permanent(0, 0));
    EnhancedCode { class, ..code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_mail::ReplyCode;
    use postroad_queue::Evidence;

    #[test]
    fn the_status_is_of_the_actions_class() {
        let reply = |code, enhanced: &str| Reply {
            code: ReplyCode::new(code).unwrap(),
            enhanced: enhanced.parse().ok(),
            text: "x".into(),
        };
        for (reply, action, shown) in [
            (reply(554, "5.7.1"), Action::Delayed, "4.7.1"),
            (reply(552, "5.5.3"), Action::Delayed, "4.5.3"),
            (reply(550, "4.1.1"), Action::Failed, "5.1.1"),
            (reply(550, "-"), Action::Failed, "5.0.0"),
            (reply(451, "-"), Action::Delayed, "4.0.0"),
            (reply(250, "2.1.5"), Action::Delivered, "2.1.5"),
            (reply(250, "-"), Action::Relayed, "2.0.0"),
        ] {
            assert_eq!(status(&reply, action).to_string(), shown, "{reply:?}");
        }
    }

    /// RFC 3461 sections 4.1 and 5.2: who said nothing hears of failures, and of delays, since we
    /// choose to tell; NEVER is never; nobody hears of a success who has not asked, nor twice.
    #[test]
    fn what_is_told_of_what_has_happened() {
        let by = |remote| Evidence {
            at: Timestamp::default(),
            hop: None,
            remote_mta: None,
            reply: replies::DELIVERED,
            remote,
            tls: None,
        };
        let end = |outcome, hop_notifies| Ended {
            outcome,
            expired: false,
            hop_notifies,
        };
        let happened = [
            ("failed", end(Outcome::Failed(by(true)), false), false),
            ("failed late", end(Outcome::Failed(by(false)), true), true),
            ("deferred", end(Outcome::Deferred(by(true)), false), false),
            ("late", end(Outcome::Deferred(by(true)), true), true),
            ("local", end(Outcome::Delivered(by(false)), false), false),
            ("relayed", end(Outcome::Delivered(by(true)), false), false),
            ("hop tells", end(Outcome::Delivered(by(true)), true), true),
        ];
        for (notify, told) in [
            ("", "failed failed - delayed - - -"),
            ("NEVER", "- - - - - - -"),
            ("SUCCESS", "- - - - delivered relayed -"),
            ("FAILURE", "failed failed - - - - -"),
            ("DELAY", "- - - delayed - - -"),
            ("SUCCESS,FAILURE", "failed failed - - delivered relayed -"),
            ("SUCCESS,DELAY", "- - - delayed delivered relayed -"),
            ("FAILURE,DELAY", "failed failed - delayed - - -"),
            (
                "SUCCESS,FAILURE,DELAY",
                "failed failed - delayed delivered relayed -",
            ),
        ] {
            let mut recipient = Recipient::new("bob@far.test".parse().unwrap());
            recipient.notify = (!notify.is_empty()).then(|| notify.parse().unwrap());
            let told: Vec<_> = told.split(' ').collect();
            assert_eq!(told.len(), happened.len(), "{notify}");
            for ((what, end, late), told) in happened.iter().zip(told) {
                let action = action(end, recipient.notify(), *late);
                let name = action.map_or("-", Action::name);
                assert_eq!(name, told, "NOTIFY={notify}: {what}");
            }
        }
    }
}
