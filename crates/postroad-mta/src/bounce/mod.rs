//! The notices that an attempt's outcomes owe (RFC 3461 section 5, RFC 3464).

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use postroad_intake::expand_own;
use postroad_mail::{
    Address, Class, EnhancedCode, Envelope, Notify, Origin, Recipient, Reply, Ret, ReversePath,
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

impl Ended {
    /// Who failed is tried again, since nobody can be told of it now.
    pub(crate) fn put_off(&mut self) {
        if let Outcome::Failed(evidence) = &self.outcome {
            self.outcome = Outcome::Deferred(evidence.clone());
            self.expired = false;
        }
    }
}

/// What has happened, and to which recipients; all have the same reverse-path.
struct Owed<'a> {
    from: &'a ReversePath,
    action: Action,
    recipients: Vec<usize>,
}

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

/// The notices that an attempt owes.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    pub(crate) all: Vec<(Notice, Shown)>,
    /// Those of failures and delays are not there, since it cannot be told now whom one is for:
    /// they are to be owed again.
    pub(crate) is_put_off: bool,
}

/// One notice for each reverse-path and each thing that has happened, naming all recipients to
/// whom it has.
pub(crate) async fn notices(
    settings: &Settings,
    job: &Claimed,
    ended: &BTreeMap<usize, Ended>,
    late: bool,
    expires: Timestamp,
    now: Timestamp,
) -> Notices {
    let config = &settings.config;
    let (mut all, mut is_put_off) = (Vec::new(), false);
    for owed in owed(job, ended, late) {
        let Some(to) = addressee(config, job, &owed) else {
            continue;
        };
        let about = about(&job.message.envelope, owed.from, to);
        let original = match read(&*job.content, owed.action, about.ret).await {
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
            to,
            about: &about,
            original,
        };
        let mut notice = reported.write(owed.action, &owed.recipients);
        let expanded = expand_own(&*config.aliases, &mut notice.draft.envelope).await;
        if let Err(reply) = expanded {
            let of_success = is_of_success(owed.action);
            warn!(queue_id = %job.message.id, to = %escape_peer_text(&to.to_string()), %reply, of_success, "it cannot be told now whom a notice is for: one of success goes to the address as it stands, others wait");
            is_put_off |= !of_success;
        }
        let Draft {
            envelope, origin, ..
        } = &notice.draft;
        let size = notice.draft.head.len() + notice.body.len();
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        notice.draft.lanes = lanes(&settings.router, envelope, origin, size).await;
        let shown = reported.shown(owed.action, &owed.recipients);
        all.push((owed.action, notice, shown));
    }
    // All failures are tried again where one is: those told of now would be told of twice.
    all.retain(|(action, ..)| !is_put_off || is_of_success(*action));
    let all = all.into_iter().map(|(_, notice, shown)| (notice, shown));
    Notices {
        all: all.collect(),
        is_put_off,
    }
}

const fn is_of_success(action: Action) -> bool {
    match action {
        Action::Failed | Action::Delayed => false,
        Action::Delivered | Action::Relayed | Action::Expanded => true,
    }
}

/// Recipients by what is to be told of them, and to whom, each group in the order of its first.
fn owed<'a>(job: &'a Claimed, ended: &BTreeMap<usize, Ended>, late: bool) -> Vec<Owed<'a>> {
    let envelope = &job.message.envelope;
    let mut all: Vec<Owed<'a>> = Vec::new();
    let mut places: HashMap<(&ReversePath, &'static str), usize> = HashMap::new();
    for (&index, end) in ended {
        let Some(recipient) = envelope.recipients().get(index) else {
            continue;
        };
        let Some(action) = action(end, recipient.notify(), late) else {
            continue;
        };
        let from = envelope.reverse_path(index);
        let place = *places.entry((from, action.name())).or_insert(all.len());
        match all.get_mut(place) {
            Some(owed) => owed.recipients.push(index),
            None => all.push(Owed {
                from,
                action,
                recipients: vec![index],
            }),
        }
    }
    all
}

/// What a notice says of the message's envelope. A list is told nothing of what the sender asked
/// for (RFC 3461 section 5.2.7.1 (b)); the body of a message that requires TLS is never returned
/// (RFC 8689 section 5).
fn about(envelope: &Envelope, from: &ReversePath, to: &Address) -> Envelope {
    let mut about = Envelope::new(from.clone(), Recipient::new(to.clone()));
    if *from == envelope.from {
        about.ret = envelope.ret;
        about.envid.clone_from(&envelope.envid);
    }
    if envelope.require_tls {
        about.ret = Some(Ret::Headers);
    }
    about.require_tls = envelope.require_tls;
    about
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
fn addressee<'a>(
    config: &'a OutboundConfig,
    job: &Claimed,
    owed: &Owed<'a>,
) -> Option<&'a Address> {
    if let ReversePath::Address(address) = owed.from {
        return Some(address);
    }
    if owed.action != Action::Failed {
        return None;
    }
    warn!(queue_id = %job.message.id, "double bounce: a message with a null reverse-path has failed");
    let postmaster = config.postmaster.as_ref()?;
    let mut recipients = job.message.envelope.recipients().iter();
    let own = recipients.any(|r| r.address == *postmaster);
    (!own && job.message.origin.service != "double-bounce").then_some(postmaster)
}

/// The start of a message: its header block, and all of it where that is to be returned.
async fn read(
    content: &dyn Content,
    action: Action,
    ret: Option<Ret>,
) -> Result<Bytes, postroad_queue::StoreError> {
    let whole = dsn::returns_body(action, ret, content.len());
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
    about: &'a Envelope,
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
            envelope: self.about,
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
        // As safe as the message (RFC 8689 section 5).
        envelope.require_tls = self.about.require_tls;
        let service = if self.about.from.is_null() {
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

    /// Whether this is the postmaster's own address, or one of those for whom that stands, and the
    /// sender does not know it: intake has put it in the place of the host's, and has said so in
    /// ORCPT. Who wrote to it by its name knows it.
    fn is_private_postmaster(&self, recipient: &Recipient) -> bool {
        let (Some(private), Some(named)) = (&self.config.postmaster, &recipient.original) else {
            return false;
        };
        let named = named.address.parse::<Address>().ok();
        if recipient.address == *private {
            return named.as_ref() != Some(private);
        }
        named.is_some_and(|named| {
            named != recipient.address
                && named.local_part().is_postmaster()
                && *named.domain() == self.config.hostname
        })
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
        Action::Delivered | Action::Relayed | Action::Expanded => Class::Success,
    };
    let code = reply.enhanced.unwrap_or(EnhancedCode::permanent(0, 0));
    EnhancedCode { class, ..code }
}

#[cfg(test)]
mod tests;
