//! Where a route leads.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad_mail::{Address, Recipient};
use postroad_message::return_path_header;
use postroad_net::client::PeerAddress;
use postroad_net::clock;
use postroad_queue::{Claimed, Outcome};
use postroad_routing::{Destination, Hop, HopAddress, HopPlan, Host, PlanError, Route, order_hops};
use tracing::{error, warn};

use super::attempt::Way;
use super::budget::Budget;
use super::content::Pieces;
use super::destinations::Verdict;
use super::files::Files;
use super::session::Callee;
use super::work::Work;
use super::{Outbound, Settings, maildir, replies};

/// A look-up that fails and takes longer than this costs too much to be made for each message.
const SLOW_LOOKUP: Duration = Duration::from_secs(5);

impl Outbound {
    /// Delivers to recipients that go the same way.
    pub(crate) async fn follow(&self, work: &mut Work<'_>, route: &Route, recipients: &[usize]) {
        work.trail
            .note(self.clock.now(), || (None, described(route)));
        match &route.destination {
            Destination::Mx(_) => self.follow_mx(work, route, recipients).await,
            Destination::Hops(hops) => self.follow_hops(work, route, hops, recipients).await,
            Destination::Maildir(directory) => self.maildir(work, directory, recipients).await,
            Destination::Discard => {
                let outcome = Outcome::Delivered(self.own(replies::DISCARDED));
                work.destination = Verdict::Well;
                work.set_all(recipients, &outcome);
            }
            Destination::Reject(reply) => {
                work.destination = Verdict::Well;
                work.set_all(recipients, &Outcome::Failed(self.own(reply.clone())));
            }
            Destination::Defer(reply) => {
                work.set_all(recipients, &Outcome::Deferred(self.own(reply.clone())));
            }
            _ => {
                let outcome = Outcome::Deferred(self.own(replies::UNKNOWN_WAY));
                work.set_all(recipients, &outcome);
            }
        }
    }

    /// The hosts that a domain's MX records name.
    async fn follow_mx(&self, work: &mut Work<'_>, route: &Route, recipients: &[usize]) {
        let Destination::Mx(Some(domain)) = &route.destination else {
            return;
        };
        let settings = work.settings;
        let began = clock::instant();
        let plan = match settings.mx.mx(domain, seed(work.job)).await {
            Ok(plan) => plan,
            Err(error) => {
                self.unlooked(work, &error, began);
                for &index in recipients {
                    let outcome = self.unplanned_by_mx(settings, work.job, index, &error);
                    work.blame(outcome.evidence());
                    work.set(index, outcome);
                }
                return;
            }
        };
        work.trail.note(self.clock.now(), || (None, planned(&plan)));
        let port = route.options.port.unwrap_or(settings.config.port);
        let way = Way::by_mx(plan, port, domain, &route.options);
        let mut budget = Budget::new(clock::instant());
        let left = self
            .attempt(work, recipients.to_vec(), &way, &mut budget)
            .await;
        if left.all_refuse {
            work.fail_waiting(&left.waiting);
        }
    }

    /// A domain whose DNS fails is no better than one whose hosts do; where that takes long, not
    /// every message waits for it.
    fn unlooked(&self, work: &mut Work<'_>, error: &PlanError, began: Instant) {
        if matches!(error, PlanError::Temporary(_)) {
            work.destination = work.destination.and(Verdict::Failed);
            if clock::instant().duration_since(began) > SLOW_LOOKUP {
                self.leave_alone(work, "its DNS takes long to fail");
            }
        }
    }

    /// Hosts named by the route, each with a port of its own.
    async fn follow_hops(
        &self,
        work: &mut Work<'_>,
        route: &Route,
        hops: &[Hop],
        recipients: &[usize],
    ) {
        let settings = work.settings;
        let mut waiting = recipients.to_vec();
        let mut budget = Budget::new(clock::instant());
        let hops = order_hops(hops, seed(work.job));
        for (nth, hop) in hops.iter().enumerate() {
            if waiting.is_empty() || work.is_stopped() || budget.is_spent(clock::instant()) {
                break;
            }
            let began = clock::instant();
            let (hosts, port) = match self.callees(settings, hop).await {
                Ok(found) => found,
                Err(error) => {
                    self.unlooked(work, &error, began);
                    let outcome = self.unplanned(&error);
                    work.blame(outcome.evidence());
                    work.fail_unless_waiting(&waiting, &outcome);
                    continue;
                }
            };
            let is_last = nth + 1 == hops.len();
            let way = Way::to_hop(hosts, port, hop, &route.options, is_last);
            waiting = self.attempt(work, waiting, &way, &mut budget).await.waiting;
        }
        if work.is_stopped() || budget.is_spent(clock::instant()) {
            work.doubt(&waiting);
        }
    }

    /// Where a hop listens, and at which port.
    pub(crate) async fn callees(
        &self,
        settings: &Settings,
        hop: &Hop,
    ) -> Result<(Vec<Callee>, u16), PlanError> {
        match &hop.at {
            HopAddress::Tcp { host, port } => {
                let plan = settings.mx.host(host, *port).await?;
                Ok((Callee::all(plan, *port), *port))
            }
            HopAddress::Unix(path) => {
                // What listens there is this host.
                let host = Host {
                    name: settings.config.hostname.clone(),
                    preference: None,
                    addresses: Vec::new(),
                    ttl: None,
                };
                let addresses = vec![PeerAddress::Unix(path.clone())];
                Ok((vec![Callee { host, addresses }], 0))
            }
        }
    }

    /// Mail for our own postmaster, with nobody configured to get it and no route: that is not its
    /// sender's fault, and must not be lost to whoever sets things right (RFC 5321 section 4.5.1).
    fn unplanned_by_mx(
        &self,
        settings: &Settings,
        job: &Claimed,
        index: usize,
        error: &PlanError,
    ) -> Outcome {
        let own = Address::postmaster_at(settings.config.hostname.clone());
        let is_own = |r: &Recipient| {
            r.address.local_part().is_postmaster() && r.address.domain() == own.domain()
        };
        let recipient = job.message.envelope.recipients().get(index);
        if matches!(error, PlanError::Permanent(_)) && recipient.is_some_and(is_own) {
            error!(queue_id = %job.message.id, recipient = %own, "mail for the postmaster has nowhere to go and waits: set `postmaster` in the configuration, and add a [[route]] for this address to release it");
            return Outcome::Deferred(self.own(replies::NO_POSTMASTER));
        }
        self.unplanned(error)
    }

    fn unplanned(&self, error: &PlanError) -> Outcome {
        match error {
            PlanError::Permanent(reply) => Outcome::Failed(self.own(reply.clone())),
            PlanError::Temporary(reply) => Outcome::Deferred(self.own(reply.clone())),
        }
    }

    async fn maildir(&self, work: &mut Work<'_>, directory: &Path, recipients: &[usize]) {
        let job = work.job;
        let envelope = &job.message.envelope;
        work.has_asked = true;
        for &index in recipients {
            let Some(Recipient { address, .. }) = envelope.recipients().get(index) else {
                continue;
            };
            let name = format!(
                "{}.{}_{index}.postroad",
                job.message.arrived.as_millis() / 1000,
                job.message.id
            );
            let from = envelope.reverse_path(index);
            let header = format!("{}Delivered-To: {address}\r\n", return_path_header(from));
            let mut pieces = Pieces::new(Arc::clone(&job.content));
            let files = Files::default();
            let delivering = maildir::deliver(&files, directory, &name, &header, &mut pieces);
            let shown = format!("maildir:{}", directory.display());
            let outcome = match delivering.await {
                Ok(file) => {
                    work.destination = work.destination.and(Verdict::Well);
                    self.maildir_delivered(&file, &from.to_string(), &address.to_string());
                    Outcome::Delivered(self.own_at(shown, replies::DELIVERED))
                }
                Err(error) => {
                    let unread = pieces.failure();
                    work.destination = work.destination.and(Verdict::Failed);
                    warn!(queue_id = %job.message.id, directory = %directory.display(), %error, unread, "a Maildir delivery failed");
                    Outcome::Deferred(self.own_at(shown, replies::MAILBOX_FAILED))
                }
            };
            work.trail.note(self.clock.now(), || {
                (
                    outcome.evidence().hop.clone(),
                    outcome.evidence().reply.to_string(),
                )
            });
            work.set(index, outcome);
        }
    }
}

/// What decides between equals: another for each attempt.
fn seed(job: &Claimed) -> u64 {
    let octets = job.message.id.to_bytes();
    let seed = u64::from_be_bytes(std::array::from_fn(|n| {
        octets.get(n + 8).copied().unwrap_or(0)
    }));
    seed.wrapping_add(u64::from(job.attempts))
}

/// A route, for people.
pub(crate) fn described(route: &Route) -> String {
    let to = match &route.destination {
        Destination::Mx(Some(domain)) => format!("by the MX records of {domain}"),
        Destination::Mx(None) => "by MX records".to_owned(),
        Destination::Hops(hops) => {
            let hops: Vec<_> = hops.iter().take(SHOWN_MAX).map(hop_url).collect();
            format!("to {}", hops.join(", "))
        }
        Destination::Maildir(path) => format!("into the Maildir {}", path.display()),
        Destination::Discard => "discarded".to_owned(),
        Destination::Reject(reply) => format!("refused: {reply}"),
        Destination::Defer(reply) => format!("put off: {reply}"),
        other => format!("{other:?}"),
    };
    match route.chosen_by.as_str() {
        Some(what) => format!("route: {to} ({what})"),
        None => format!("route: {to}"),
    }
}

/// Hosts that a line names, at most.
const SHOWN_MAX: usize = 10;

/// `smtp://relay.example:25`, `lmtp+unix:///run/lmtp`.
pub(crate) fn hop_url(hop: &Hop) -> String {
    use postroad_mail::Protocol;
    let scheme = match (hop.protocol, hop.implicit_tls) {
        (Protocol::Smtp, false) => "smtp",
        (Protocol::Smtp, true) => "smtps",
        (Protocol::Lmtp, _) => "lmtp",
    };
    match &hop.at {
        HopAddress::Tcp { host, port } => format!("{scheme}://{}:{port}", host.ascii()),
        HopAddress::Unix(path) => format!("{scheme}+unix://{}", path.display()),
    }
}

/// A plan, for people.
fn planned(plan: &HopPlan) -> String {
    let host = |host: &Host| {
        let name = host.name.ascii();
        match host.preference {
            Some(preference) => format!("{preference} {name}"),
            None => name.to_owned(),
        }
    };
    let hosts: Vec<_> = plan.hosts.iter().take(SHOWN_MAX).map(host).collect();
    let mut text = format!("hosts: {}", hosts.join(", "));
    for warning in &plan.warnings {
        text.push_str("; ");
        text.push_str(warning);
    }
    text
}
