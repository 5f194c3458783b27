//! A job under way, with what has come of it so far.

use std::collections::BTreeMap;

use postroad_mail::{Timestamp, escape_peer_text};
use postroad_queue::{Claimed, Evidence, Lane, Outcome};
use postroad_routing::Rate;

use super::classify::Classified;
use super::destinations::Verdict;
use super::downgrade::Downgraded;
use super::job::Together;
use super::security::MessageTls;
use super::table::Retry;
use super::trail::Trail;
use super::{Settings, replies};

/// What has come of it for a recipient.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) outcome: Outcome,
    /// The hop sends notices of success itself.
    pub(crate) hop_notifies: bool,
    pub(crate) retry: Retry,
    /// Nobody was asked: anything that a host says counts more.
    weak: bool,
    /// A host has said so of this recipient.
    answered: bool,
    /// A failure that holds for one host only: it counts where no other has anything else to say.
    of_one_host: bool,
}

/// A job under way.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) job: &'a Claimed,
    pub(crate) found: BTreeMap<usize, Found>,
    pub(crate) trail: Trail,
    /// What it says of the destination.
    pub(crate) destination: Verdict,
    /// What went wrong last, for who looks at the destination.
    pub(crate) error: Option<String>,
    /// A rate allows no more before that moment, and which.
    pub(crate) away: Option<(Timestamp, String)>,
    /// What was taken of the rates of messages, to be given back where it is not used.
    pub(crate) tokens: Vec<(String, Rate)>,
    /// Somebody was asked to take the message since this was last set to no.
    pub(crate) has_asked: bool,
    /// As many as the route allows are under way already.
    pub(crate) is_full: bool,
    /// It was cut off, at the end of the process.
    pub(crate) is_cut: bool,
    /// Lanes that waited for a host which has been found alive.
    pub(crate) revived: Vec<Lane>,
    /// What the message says of TLS, once it has been read.
    pub(crate) message_tls: Option<MessageTls>,
    /// The message as one of 7 bits, or why it cannot be, once that was asked.
    pub(crate) downgraded: Option<Result<Downgraded, String>>,
}

impl<'a> Work<'a> {
    pub(crate) const fn new(settings: &'a Settings, job: &'a Claimed, trail: Trail) -> Self {
        Self {
            settings,
            job,
            found: BTreeMap::new(),
            trail,
            destination: Verdict::Nothing,
            error: None,
            away: None,
            tokens: Vec::new(),
            has_asked: false,
            is_full: false,
            is_cut: false,
            revived: Vec::new(),
            message_tls: None,
            downgraded: None,
        }
    }

    /// Whether no host is to be called any more: the job goes back.
    pub(crate) const fn is_stopped(&self) -> bool {
        self.away.is_some() || self.is_full || self.is_cut
    }

    /// What was taken of the rate of a route is used.
    pub(crate) fn use_token(&mut self, way: &Together) {
        let name = way.route.options.limits.as_ref().map(|limits| &limits.name);
        let mut tokens = self.tokens.iter();
        if let Some(at) = tokens.position(|(of, _)| Some(of) == name) {
            self.tokens.swap_remove(at);
        }
    }

    /// Forgets those for whom nobody was asked.
    pub(crate) fn drop_weak(&mut self) {
        self.found.retain(|_, found| !found.weak);
    }

    /// An outcome that nothing changes any more, or that the next host may change.
    pub(crate) fn set(&mut self, recipient: usize, outcome: Outcome) {
        self.put(recipient, Found::new(outcome));
    }

    /// The same for several.
    pub(crate) fn set_all(&mut self, recipients: &[usize], outcome: &Outcome) {
        for &recipient in recipients {
            self.set(recipient, outcome.clone());
        }
    }

    /// What a host has said of a recipient. That this host cannot have it at all is no answer where
    /// another may have it later.
    pub(crate) fn answer(&mut self, recipient: usize, said: Classified, hop_notifies: bool) {
        self.destination = self.destination.and(said.destination);
        if said.destination != Verdict::Well && !matches!(said.outcome, Outcome::Delivered(_)) {
            self.blame(said.outcome.evidence());
        }
        let found = Found {
            hop_notifies,
            retry: said.retry,
            answered: said.outcome.evidence().remote,
            ..Found::new(said.outcome)
        };
        if said.try_next {
            self.put_unless_waiting(recipient, found);
        } else {
            self.put(recipient, found);
        }
    }

    /// One host fails for good: that counts only for those for whom no other has asked to wait.
    pub(crate) fn fail_unless_waiting(&mut self, recipients: &[usize], outcome: &Outcome) {
        for &recipient in recipients {
            self.put_unless_waiting(recipient, Found::new(outcome.clone()));
        }
    }

    /// A host cannot be asked: that counts for those of whom none that could has said to wait.
    pub(crate) fn wait_unless_answered(&mut self, recipients: &[usize], evidence: &Evidence) {
        for &recipient in recipients {
            let found = self.found.get(&recipient);
            let waits = |f: &Found| f.answered && matches!(f.outcome, Outcome::Deferred(_));
            if !found.is_some_and(waits) {
                self.set(recipient, Outcome::Deferred(evidence.clone()));
            }
        }
    }

    /// Not all hosts could be asked: what one says for good of itself does not count yet.
    pub(crate) fn doubt(&mut self, recipients: &[usize]) {
        for recipient in recipients {
            if let Some(found) = self.found.get_mut(recipient)
                && found.of_one_host
                && let Outcome::Failed(evidence) = &found.outcome
            {
                found.outcome = Outcome::Deferred(evidence.clone());
                found.of_one_host = false;
                found.weak = true;
            }
        }
    }

    /// Nobody was asked, for this reason: it counts for those of whom nothing else is known.
    pub(crate) fn skip(&mut self, recipients: &[usize], evidence: &Evidence) {
        for &recipient in recipients {
            let found = self.found.get(&recipient);
            if found.is_none_or(|found| found.weak || found.of_one_host) {
                let found = Found {
                    weak: true,
                    ..Found::new(Outcome::Deferred(evidence.clone()))
                };
                self.put(recipient, found);
            }
        }
    }

    /// What every host of a destination says for good is said for good.
    pub(crate) fn fail_waiting(&mut self, recipients: &[usize]) {
        for recipient in recipients {
            if let Some(found) = self.found.get_mut(recipient)
                && let Outcome::Deferred(evidence) = &found.outcome
            {
                found.outcome = Outcome::Failed(evidence.clone());
            }
        }
    }

    /// Whether a recipient waits only because no host could be reached.
    pub(crate) fn waits_for_a_host(&self) -> bool {
        let unreached = replies::UNCONNECTED.enhanced;
        self.found.values().any(|found| match &found.outcome {
            Outcome::Deferred(evidence) => !evidence.remote && evidence.reply.enhanced == unreached,
            Outcome::Delivered(_) | Outcome::Failed(_) => false,
        })
    }

    /// Remembers what went wrong, for who looks at the destination.
    pub(crate) fn blame(&mut self, evidence: &Evidence) {
        let reply = escape_peer_text(&evidence.reply.to_string());
        self.error = Some(match &evidence.hop {
            Some(hop) => format!("{hop}: {reply}"),
            None => reply,
        });
    }

    /// When those who wait want to be tried again: soon if one does, later if all do.
    pub(crate) fn retry(&self) -> Retry {
        let waiting = || {
            let all = self.found.values();
            all.filter(|found| matches!(found.outcome, Outcome::Deferred(_)))
        };
        if waiting().any(|found| found.retry == Retry::Soon) {
            Retry::Soon
        } else if waiting().count() > 0 && waiting().all(|found| found.retry == Retry::Later) {
            Retry::Later
        } else {
            Retry::Usual
        }
    }

    fn put(&mut self, recipient: usize, found: Found) {
        self.found.insert(recipient, found);
    }

    fn put_unless_waiting(&mut self, recipient: usize, mut found: Found) {
        found.of_one_host = matches!(found.outcome, Outcome::Failed(_));
        let waits = self
            .found
            .get(&recipient)
            .is_some_and(|f| matches!(f.outcome, Outcome::Deferred(_)));
        if !(waits && found.of_one_host) {
            self.put(recipient, found);
        }
    }
}

impl Found {
    pub(crate) const fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            hop_notifies: false,
            retry: Retry::Usual,
            weak: false,
            answered: false,
            of_one_host: false,
        }
    }
}
