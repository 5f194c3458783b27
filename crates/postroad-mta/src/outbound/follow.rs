//! Where a route leads.

use std::path::Path;
use std::sync::Arc;

use postroad_mail::{Address, Recipient};
use postroad_message::return_path_header;
use postroad_net::clock;
use postroad_queue::{Claimed, Outcome};
use postroad_routing::{Destination, Hop, HopAddress, PlanError, Route};
use tracing::{error, warn};

use super::attempt::{Results, Way};
use super::budget::Budget;
use super::content::Pieces;
use super::files::Files;
use super::{Outbound, Settings, maildir, replies};

impl Outbound {
    pub(crate) async fn follow(
        &self,
        settings: &Settings,
        job: &Claimed,
        route: Route,
        recipients: &[usize],
    ) -> Results {
        let all = |outcome: Outcome| {
            recipients
                .iter()
                .map(|&n| (n, (outcome.clone(), false)))
                .collect()
        };
        match &route.destination {
            Destination::Mx(_) => self.follow_mx(settings, job, &route, recipients).await,
            Destination::Hops(hops) => {
                self.follow_hops(settings, job, &route, hops, recipients)
                    .await
            }
            Destination::Maildir(directory) => self.maildir(job, directory, recipients).await,
            Destination::Discard => all(Outcome::Delivered(self.own(replies::DISCARDED))),
            Destination::Reject(reply) => all(Outcome::Failed(self.own(reply.clone()))),
            Destination::Defer(reply) => all(Outcome::Deferred(self.own(reply.clone()))),
            _ => all(Outcome::Deferred(self.own(replies::UNKNOWN_WAY))),
        }
    }

    /// The hosts that a domain's MX records name.
    async fn follow_mx(
        &self,
        settings: &Settings,
        job: &Claimed,
        route: &Route,
        recipients: &[usize],
    ) -> Results {
        let mut results = Results::new();
        let Destination::Mx(Some(domain)) = &route.destination else {
            return results;
        };
        let seed = u64::from_be_bytes(std::array::from_fn(|n| {
            job.message.id.to_bytes().get(n + 8).copied().unwrap_or(0)
        }));
        let seed = seed.wrapping_add(u64::from(job.attempts));
        match settings.mx.mx(domain, seed).await {
            Ok(plan) => {
                let way = Way {
                    plan,
                    port: settings.config.port,
                    implicit_tls: false,
                    options: route.options.clone(),
                    is_last: true,
                };
                let mut budget = Budget::new(clock::instant());
                self.attempt(
                    settings,
                    job,
                    recipients.to_vec(),
                    &way,
                    &mut budget,
                    &mut results,
                )
                .await;
            }
            Err(error) => {
                for &index in recipients {
                    let outcome = self.unplanned_by_mx(settings, job, index, &error);
                    results.insert(index, (outcome, false));
                }
            }
        }
        results
    }

    /// Hosts named by the route, each with a port of its own.
    async fn follow_hops(
        &self,
        settings: &Settings,
        job: &Claimed,
        route: &Route,
        hops: &[Hop],
        recipients: &[usize],
    ) -> Results {
        let mut results = Results::new();
        let mut waiting = recipients.to_vec();
        let mut budget = Budget::new(clock::instant());
        for (nth, hop) in hops.iter().enumerate() {
            if waiting.is_empty() || budget.is_spent(clock::instant()) {
                break;
            }
            let HopAddress::Tcp { host, port } = &hop.at else {
                continue;
            };
            match settings.mx.host(host, *port).await {
                Ok(plan) => {
                    let way = Way {
                        plan,
                        port: *port,
                        implicit_tls: hop.implicit_tls,
                        options: route.options.clone(),
                        is_last: nth + 1 == hops.len(),
                    };
                    waiting = self
                        .attempt(settings, job, waiting, &way, &mut budget, &mut results)
                        .await;
                }
                Err(error) => {
                    let outcome = self.unplanned(&error);
                    for &index in &waiting {
                        // One host that never will be is no answer where another may be again.
                        if matches!(outcome, Outcome::Failed(_)) {
                            let result = (outcome.clone(), false);
                            results.entry(index).or_insert(result);
                        } else {
                            results.insert(index, (outcome.clone(), false));
                        }
                    }
                }
            }
        }
        results
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

    async fn maildir(&self, job: &Claimed, directory: &Path, recipients: &[usize]) -> Results {
        let mut results = Results::new();
        let envelope = &job.message.envelope;
        for &index in recipients {
            let Some(Recipient { address, .. }) = envelope.recipients().get(index) else {
                continue;
            };
            let name = format!(
                "{}.{}_{index}.postroad",
                job.message.arrived.as_millis() / 1000,
                job.message.id
            );
            let header = format!(
                "{}Delivered-To: {address}\r\n",
                return_path_header(&envelope.from)
            );
            let mut pieces = Pieces::new(Arc::clone(&job.content));
            let files = Files::default();
            let delivering = maildir::deliver(&files, directory, &name, &header, &mut pieces);
            let shown = format!("maildir:{}", directory.display());
            let outcome = match delivering.await {
                Ok(file) => {
                    self.maildir_delivered(&file, &envelope.from.to_string(), &address.to_string());
                    Outcome::Delivered(self.own_at(shown, replies::DELIVERED))
                }
                Err(error) => {
                    let unread = pieces.failure();
                    warn!(queue_id = %job.message.id, directory = %directory.display(), %error, unread, "a Maildir delivery failed");
                    Outcome::Deferred(self.own_at(shown, replies::MAILBOX_FAILED))
                }
            };
            results.insert(index, (outcome, false));
        }
        results
    }
}
