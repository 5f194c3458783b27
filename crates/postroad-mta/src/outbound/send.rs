//! Transactions over a session.

use std::sync::Arc;

use postroad_mail::{BodyKind, Recipient};
use postroad_net::client::Connection;
use postroad_proto::Extensions;
use postroad_proto::client::{Missing, RecipientResult, Transaction};
use postroad_queue::Outcome;
use tracing::{debug, error};

use super::classify::{self, Classified, Hop};
use super::content::Pieces;
use super::destinations::Verdict;
use super::downgrade::{NotDowngraded, downgrade};
use super::pool::Pooled;
use super::session::{Called, Session, Unopened};
use super::table::Retry;
use super::work::Work;
use super::{Outbound, replies};

/// Recipients in one transaction, at most: what every server takes (RFC 5321 section 4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;

/// What came of one transaction.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) results: Vec<RecipientResult>,
    pub(crate) hop: Hop,
    /// The hop has the DSN extension.
    pub(crate) notifies: bool,
    /// The message could not be read.
    pub(crate) unread: bool,
    /// Why it cannot become what the hop would take.
    pub(crate) undowngraded: Option<String>,
}

impl Outbound {
    /// Sends the message for all that wait, in as many transactions as the host needs; gives
    /// those for whom another host may be asked.
    pub(crate) async fn transactions(
        &self,
        work: &mut Work<'_>,
        session: Session<'_>,
        mut waiting: Vec<usize>,
    ) -> Vec<usize> {
        let Session { called, mut pooled } = session;
        let mut next = Vec::new();
        while !waiting.is_empty() {
            let later = waiting.split_off(recipients_max(&pooled).min(waiting.len()));
            let group = std::mem::replace(&mut waiting, later);
            let has_served = pooled.messages > 0;
            let mut sent = self.transaction(work, &called, &mut pooled, &group).await;
            if has_served && classify::is_stale(&sent.results) {
                // Its place is needed.
                drop(pooled);
                pooled = match self.open(work, &called).await {
                    Ok(pooled) => pooled,
                    Err(unopened) => {
                        let rest = [group, waiting].concat();
                        self.not_reopened(work, &called, &unopened, &rest);
                        next.extend(rest);
                        return next;
                    }
                };
                sent = self.transaction(work, &called, &mut pooled, &group).await;
            }
            let taken = |result: &RecipientResult| matches!(result, RecipientResult::Accepted(_));
            let progress = sent.results.iter().any(taken);
            for (recipient, result) in group.into_iter().zip(sent.results) {
                let again = progress && classify::is_too_many(&result);
                let unsent = matches!(
                    result,
                    RecipientResult::Broken { .. } | RecipientResult::Unsupported(_)
                );
                let said = if sent.unread && unsent {
                    self.unread()
                } else {
                    let why = sent.undowngraded.as_deref();
                    classify::recipient(result, &sent.hop, self.clock.now(), why)
                };
                let try_next = said.try_next;
                work.answer(recipient, said, sent.notifies);
                if again {
                    waiting.push(recipient);
                } else if try_next {
                    next.push(recipient);
                }
            }
        }
        let keeping = work.settings.config.keeping();
        self.pool.give(called.key, pooled, &keeping).await;
        next
    }

    /// A connection that served before has gone, and there is no other.
    fn not_reopened(
        &self,
        work: &mut Work<'_>,
        called: &Called<'_>,
        unopened: &Unopened,
        rest: &[usize],
    ) {
        match unopened {
            Unopened::Failed(error) => {
                self.unconnected(work, error, called, rest);
            }
            Unopened::Dead(dead) => self.not_tried(work, called, dead, rest),
            Unopened::Away => {}
        }
    }

    async fn transaction(
        &self,
        work: &mut Work<'_>,
        called: &Called<'_>,
        pooled: &mut Pooled,
        group: &[usize],
    ) -> Sent {
        work.has_asked = true;
        let envelope = &work.job.message.envelope;
        let all = envelope.recipients();
        let chosen: Vec<Recipient> = group.iter().filter_map(|&n| all.get(n).cloned()).collect();
        let first = group.first().copied().unwrap_or(0);
        // A list asks for nothing that its sender has asked for (RFC 3461 section 5.2.7.1 (b)).
        let own = all.get(first).is_none_or(|r| r.from.is_none());
        let transaction = Transaction {
            from: envelope.reverse_path(first).clone(),
            recipients: chosen,
            size: work.job.content.len(),
            body: envelope.body,
            smtputf8: envelope.smtputf8,
            ret: envelope.ret.filter(|_| own),
            envid: envelope.envid.clone().filter(|_| own),
            auth: None,
            require_tls: called.plan.needs_requiretls,
        };
        let connection = &mut pooled.connection;
        let mut pieces = Pieces::new(Arc::clone(&work.job.content));
        let again =
            lacks_body(connection.extensions(), transaction.body).then(|| transaction.clone());
        let report = connection.deliver(transaction, &mut pieces).await;
        let mut sent = Sent {
            results: report.recipients,
            hop: called.callee.hop(called.address, None),
            notifies: connection.extensions().dsn,
            unread: pieces.failure().is_some(),
            undowngraded: None,
        };
        if let Some(transaction) = again
            && sent.results.iter().all(lacks_octets)
        {
            self.send_downgraded(work, connection, transaction, &mut sent)
                .await;
        } else if let Some(detail) = pieces.failure() {
            error!(queue_id = %work.job.message.id, detail, "a message cannot be read from the queue");
        }
        pooled.messages += 1;
        sent.hop.tls = pooled
            .connection
            .tls()
            .map(|tls| format!("{} {}", tls.version, tls.cipher));
        self.note(work, &sent);
        sent
    }

    /// The message as one of 7 bits, where that is legal, for a host that takes no other.
    async fn send_downgraded(
        &self,
        work: &mut Work<'_>,
        connection: &mut Connection,
        transaction: Transaction,
        sent: &mut Sent,
    ) {
        let queue_id = work.job.message.id;
        if work.downgraded.is_none() {
            match downgrade(&work.job.content).await {
                Ok(downgraded) => work.downgraded = Some(Ok(downgraded)),
                Err(why @ NotDowngraded::NotLegal(_)) => {
                    work.downgraded = Some(Err(why.to_string()));
                }
                Err(NotDowngraded::Unread(detail)) => {
                    error!(%queue_id, detail, "a message cannot be read from the queue");
                    sent.unread = true;
                    return;
                }
            }
        }
        let downgraded = match &work.downgraded {
            Some(Ok(downgraded)) => downgraded,
            Some(Err(why)) => {
                sent.undowngraded = Some(why.clone());
                return;
            }
            None => return,
        };
        debug!(%queue_id, hop = sent.hop.shown, "the message goes as one of 7 bits");
        let transaction = Transaction {
            body: BodyKind::SevenBit,
            size: downgraded.size(),
            ..transaction
        };
        let mut pieces = downgraded.pieces();
        sent.results = connection
            .deliver(transaction, &mut pieces)
            .await
            .recipients;
        sent.unread = pieces.failure().is_some();
        let hop = &sent.hop.shown;
        work.trail.note(self.clock.now(), || {
            let text = "it takes 7 bits only: the message was converted";
            (Some(hop.clone()), text.to_owned())
        });
    }

    fn note(&self, work: &mut Work<'_>, sent: &Sent) {
        work.trail.note(self.clock.now(), || {
            let results = &sent.results;
            let taken = results
                .iter()
                .filter(|result| matches!(result, RecipientResult::Accepted(_)));
            let what = match results.first() {
                Some(RecipientResult::Accepted(reply)) => reply.to_string(),
                Some(RecipientResult::Refused { phase, reply }) => format!("{phase:?}: {reply}"),
                Some(RecipientResult::Broken { phase, error }) => format!("{phase:?}: {error}"),
                Some(RecipientResult::Unsupported(missing)) => format!("it lacks {missing:?}"),
                None => String::new(),
            };
            let (taken, all) = (taken.count(), results.len());
            let text = format!("a transaction: {taken} of {all} recipients taken: {what}");
            (Some(sent.hop.shown.clone()), text)
        });
    }

    /// Our own fault, which no other host can mend.
    fn unread(&self) -> Classified {
        Classified {
            outcome: Outcome::Deferred(self.own(replies::UNREADABLE)),
            try_next: false,
            destination: Verdict::Nothing,
            retry: Retry::Usual,
        }
    }
}

/// Whether a host does not take such a body as it is.
const fn lacks_body(offered: &Extensions, body: BodyKind) -> bool {
    match body {
        BodyKind::SevenBit => false,
        BodyKind::EightBitMime => !offered.eight_bit_mime,
        BodyKind::BinaryMime => !(offered.binary_mime && offered.chunking),
    }
}

/// Whether that is all that keeps a message from a host.
const fn lacks_octets(result: &RecipientResult) -> bool {
    matches!(
        result,
        RecipientResult::Unsupported(Missing::EightBitMime | Missing::BinaryMime)
    )
}

/// Recipients in one transaction with this host.
fn recipients_max(pooled: &Pooled) -> usize {
    let offered = pooled.connection.extensions().recipients_max;
    let offered = offered.and_then(|n| usize::try_from(n).ok());
    offered.unwrap_or(RECIPIENTS_MAX).clamp(1, RECIPIENTS_MAX)
}
