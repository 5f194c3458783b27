//! One attempt for recipients that travel together: host after host, address after address.

use std::time::Duration;

use postroad_mail::{Domain, Protocol, Severity, escape_peer_text};
use postroad_message::rfc5322_date;
use postroad_net::client::ConnectError;
use postroad_net::clock;
use postroad_queue::{Evidence, Outcome};
use postroad_routing::{Hop, HopPlan, HostSecurity, RouteOptions};
use tracing::{debug, error};

use super::budget::Budget;
use super::classify::{self, Unconnected};
use super::hosts::Dead;
use super::security::{self, MessageTls, TlsPlan};
use super::session::{Called, Callee, Manner, Unopened};
use super::work::Work;
use super::{Outbound, Settings, replies};

/// How long a lane is left alone whose hosts cost too much, or do not take our login.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Hosts, and how to call them.
#[derive(Clone, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) hosts: Vec<Callee>,
    /// The port, for policies about it.
    pub(crate) port: u16,
    pub(crate) manner: Manner<'a>,
    /// The domain whose MX records name the hosts.
    pub(crate) domain: Option<&'a Domain>,
    /// Whether other hosts may follow those of the plan.
    pub(crate) is_last: bool,
}

/// Recipients, and whether there is anyone left to ask for them.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// For whom yet another host may be asked.
    pub(crate) waiting: Vec<usize>,
    /// Every host has said that it takes no mail.
    pub(crate) all_refuse: bool,
}

impl<'a> Way<'a> {
    /// To the hosts that the MX records of a domain name.
    pub(crate) fn by_mx(
        plan: HopPlan,
        port: u16,
        domain: &'a Domain,
        options: &'a RouteOptions,
    ) -> Self {
        Self {
            hosts: Callee::all(plan, port),
            port,
            manner: Manner {
                protocol: Protocol::Smtp,
                implicit_tls: false,
                options,
                domain: Some(domain.ascii()),
            },
            domain: Some(domain),
            is_last: true,
        }
    }

    /// To a hop that a route names.
    pub(crate) const fn to_hop(
        hosts: Vec<Callee>,
        port: u16,
        hop: &Hop,
        options: &'a RouteOptions,
        is_last: bool,
    ) -> Self {
        Self {
            hosts,
            port,
            manner: Manner {
                protocol: hop.protocol,
                implicit_tls: hop.implicit_tls,
                options,
                domain: None,
            },
            domain: None,
            is_last,
        }
    }
}

impl Outbound {
    /// Tries host after host until every recipient has its answer, or the budget is spent.
    pub(crate) async fn attempt(
        &self,
        work: &mut Work<'_>,
        mut waiting: Vec<usize>,
        way: &Way<'_>,
        budget: &mut Budget,
    ) -> Left {
        let hosts = way.hosts.len();
        let mut refusing = 0;
        for (nth, callee) in way.hosts.iter().enumerate() {
            if waiting.is_empty() || work.is_stopped() || budget.is_spent(clock::instant()) {
                break;
            }
            let is_last = way.is_last && nth + 1 == hosts;
            let refuses;
            (waiting, refuses) = self.host(work, waiting, way, callee, is_last, budget).await;
            refusing += usize::from(refuses);
        }
        if work.is_stopped() || budget.is_spent(clock::instant()) {
            work.doubt(&waiting);
        }
        if budget.is_costly(clock::instant()) {
            self.leave_alone(work, "its hosts cost too much time");
        }
        Left {
            all_refuse: hosts > 0 && refusing == hosts,
            waiting,
        }
    }

    /// One host. Gives those for whom another may be asked, and whether it said that it takes no
    /// mail, at each address.
    async fn host(
        &self,
        work: &mut Work<'_>,
        mut waiting: Vec<usize>,
        way: &Way<'_>,
        callee: &Callee,
        is_last: bool,
        budget: &mut Budget,
    ) -> (Vec<usize>, bool) {
        if self.is_dead(work, callee, &waiting) {
            return (waiting, false);
        }
        if !self.read_message_tls(work, &waiting).await {
            return (Vec::new(), false);
        }
        let security = self.security_of(work.settings, way, callee).await;
        let Some(plan) = self.plan(work, way, callee, &security, &waiting) else {
            return (waiting, false);
        };
        let (mut failed, mut refused) = (0, 0);
        for address in &callee.addresses {
            if work.is_stopped()
                || budget.is_spent(clock::instant())
                || !budget.allows_address(failed, is_last)
            {
                break;
            }
            let Ok(source) = way.manner.source(address) else {
                let reply = replies::UNCONNECTED.with_text(format!(
                    "The route has no source address of the family of {address}"
                ));
                let evidence = self.own_at(callee.hop(address, None).shown, reply);
                work.skip(&waiting, &evidence);
                continue;
            };
            let called = Called {
                manner: &way.manner,
                callee,
                address,
                plan: &plan,
                security: &security,
                key: way.manner.key(work.settings, address, source, &plan),
            };
            match self.session(work, called.clone()).await {
                Ok(session) => {
                    budget.connected();
                    // Another address of a host that has answered is the same host.
                    waiting = self.transactions(work, session, waiting).await;
                    return (waiting, false);
                }
                Err(Unopened::Failed(error)) => {
                    failed += 1;
                    let what = self.unconnected(work, &error, &called, &waiting);
                    // One that took mail a moment ago has more sessions than it likes.
                    let is_lively = self.is_lively(work, &callee.key(address));
                    refused += usize::from(what.refuses && !is_lively);
                    budget.failed(&error, what.is_dead);
                }
                Err(Unopened::Dead(dead)) => self.not_tried(work, &called, &dead, &waiting),
                Err(Unopened::Away) => {}
            }
        }
        (waiting, refused > 0 && refused == callee.addresses.len())
    }

    /// What the message says of TLS on its way; whether that could be read. Not before there is a
    /// host to call: a message may have to be read from the disk for it.
    async fn read_message_tls(&self, work: &mut Work<'_>, recipients: &[usize]) -> bool {
        if work.message_tls.is_some() {
            return true;
        }
        let job = work.job;
        match MessageTls::read(&job.message.envelope, &*job.content).await {
            Ok(said) => {
                work.message_tls = Some(said);
                true
            }
            Err(error) => {
                error!(queue_id = %job.message.id, %error, "a message cannot be read from the queue");
                let outcome = Outcome::Deferred(self.own(replies::UNREADABLE));
                work.set_all(recipients, &outcome);
                false
            }
        }
    }

    /// What DANE and MTA-STS ask of a host.
    pub(crate) async fn security_of(
        &self,
        settings: &Settings,
        way: &Way<'_>,
        callee: &Callee,
    ) -> HostSecurity {
        let lookup = &settings.security;
        if callee.is_this_machine() {
            return HostSecurity::none();
        }
        lookup.security(way.domain, &callee.host, way.port).await
    }

    /// How TLS is to be done with a host; none where it must not be used.
    fn plan(
        &self,
        work: &mut Work<'_>,
        way: &Way<'_>,
        callee: &Callee,
        security: &HostSecurity,
        waiting: &[usize],
    ) -> Option<TlsPlan> {
        let asked = security::Asked {
            mode: way.manner.tls(),
            implicit_tls: way.manner.implicit_tls,
            host: callee.host.name.ascii(),
            by_mx: way.domain.is_some(),
            security,
            message: if callee.is_this_machine() {
                // It does not travel (RFC 8689 is about the transport from host to host).
                MessageTls::Unsaid
            } else {
                work.message_tls.unwrap_or_default()
            },
        };
        let name = || Some(callee.host.name.ascii().to_owned());
        match security::plan(&asked) {
            Ok(plan) => {
                let reasons = || (name(), plan.reasons.join("; "));
                work.trail.note(self.clock.now(), reasons);
                Some(plan)
            }
            Err(reply) => {
                self.report_unusable(work, &way.manner, callee, security);
                work.trail.note(self.clock.now(), || {
                    (name(), format!("must not be used: {reply}"))
                });
                let permanent = reply.severity() == Severity::Permanent;
                let evidence = self.own_at(callee.host.name.ascii().to_owned(), reply);
                work.blame(&evidence);
                if permanent {
                    work.fail_unless_waiting(waiting, &Outcome::Failed(evidence));
                } else {
                    work.wait_unless_answered(waiting, &evidence);
                }
                None
            }
        }
    }

    /// Whether all addresses of a host are known to be dead: then nothing is looked up for it.
    fn is_dead(&self, work: &mut Work<'_>, callee: &Callee, waiting: &[usize]) -> bool {
        let now = self.clock.now();
        let mut last = None;
        for address in &callee.addresses {
            match self
                .hosts()
                .skip(&callee.key(address), &work.job.lease.lane, now)
            {
                Some(dead) => last = Some((address, dead)),
                None => return false,
            }
        }
        let Some((address, dead)) = last else {
            return false;
        };
        let evidence = self.skipped(&callee.hop(address, None).shown, &dead);
        self.note_skip(work, &evidence);
        self.known()
            .dead(&work.job.lease.lane, &callee.key(address));
        work.skip(waiting, &evidence);
        true
    }

    /// One address is known to be dead.
    pub(crate) fn not_tried(
        &self,
        work: &mut Work<'_>,
        called: &Called<'_>,
        dead: &Dead,
        waiting: &[usize],
    ) {
        let evidence = self.skipped(&called.hop().shown, dead);
        self.note_skip(work, &evidence);
        let host = called.callee.key(called.address);
        self.known().dead(&work.job.lease.lane, &host);
        work.skip(waiting, &evidence);
    }

    fn skipped(&self, hop: &str, dead: &Dead) -> Evidence {
        let (at, until) = (rfc5322_date(dead.at), rfc5322_date(dead.until));
        let error = &dead.error;
        let text = format!("{hop} was not tried: {error}, at {at}; it is tried again from {until}");
        let reply = classify::bounded(replies::UNCONNECTED.with_text(text));
        self.own_at(hop.to_owned(), reply)
    }

    fn note_skip(&self, work: &mut Work<'_>, evidence: &Evidence) {
        work.trail.note(self.clock.now(), || {
            (
                evidence.hop.clone(),
                evidence.reply.text.clone().into_owned(),
            )
        });
    }

    /// A host that cannot be talked to defers all who wait.
    pub(crate) fn unconnected(
        &self,
        work: &mut Work<'_>,
        error: &ConnectError,
        called: &Called<'_>,
        waiting: &[usize],
    ) -> Unconnected {
        let queue_id = work.job.message.id;
        let detail = escape_peer_text(&error.to_string());
        debug!(%queue_id, detail, "a host cannot be used");
        let what = classify::unconnected(error, &called.hop(), self.clock.now());
        if what.is_login {
            let user = called.key.login.as_ref().map(|login| login.user.as_str());
            error!(%queue_id, user, detail, "the login at a smarthost fails: its mail waits until the configuration, or the smarthost, is put right");
            self.leave_alone(work, "the login fails");
        }
        work.destination = work.destination.and(what.destination);
        work.blame(&what.evidence);
        work.wait_unless_answered(waiting, &what.evidence);
        what
    }

    pub(crate) fn leave_alone(&self, work: &Work<'_>, why: &str) {
        let lane = &work.job.lease.lane;
        let until = self.clock.now() + LEFT_ALONE;
        self.store.park(lane, until);
        self.known().throttle(lane, until, why.to_owned());
    }
}

#[cfg(test)]
mod tests;
