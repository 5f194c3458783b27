//! How a message would travel now, and why, for `postroad explain`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream;
use postroad_lookup::{Aliases, Expanded};
use postroad_mail::{Address, Domain, escape_peer_text};
use postroad_mta::Outbound;
use serde::{Deserialize, Serialize};

use crate::config::{Loaded, TlsPolicy};
use crate::queue::{self, QueueError};
use crate::service::{Prepared, standalone};
use crate::tls_report::TlsSummary;

pub use postroad_mta::{
    ExplainRequest, ExplainedAddress, ExplainedHost, ExplainedLimits, ExplainedSecurity,
    ExplainedSession, Explanation,
};

/// Members of an alias that are explained, at most.
pub const MEMBERS_MAX: usize = 20;
/// Members that are looked at at the same time.
const AT_ONCE: usize = 4;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Whether a running service has said so, which knows the limits now in force and the hosts
    /// that are dead; else it comes from the configuration alone.
    pub running: bool,
    /// What the recipient stands for, where it is an alias.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<ExplainedMember>,
    /// What becomes of the recipient before any route is asked, as in `refused: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// For each member, or for the recipient itself; those of the first [`MEMBERS_MAX`] members.
    pub explanations: Vec<Explanation>,
    /// Whether all of it would be delivered now, as far as it is known.
    pub deliverable: bool,
}

/// One that an alias stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedMember {
    /// The address.
    pub address: String,
    /// The reverse-path of mail to it, where it is not the message's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What explains: delivery itself, and what stands before it.
pub(crate) struct Explainer {
    outbound: Arc<Outbound>,
    known: ArcSwap<Known>,
}

/// What a reload may change.
pub(crate) struct Known {
    aliases: Aliases,
    hostname: Domain,
    postmaster: Option<Address>,
    tls_policy: TlsPolicy,
}

impl Known {
    pub(crate) fn new(loaded: &Loaded, prepared: &Prepared) -> Self {
        let roles = &prepared.roles;
        Self {
            aliases: prepared.routing.aliases.clone(),
            hostname: roles.hostname.clone(),
            postmaster: roles.outbound.postmaster.clone(),
            tls_policy: loaded.config.delivery.tls_policy,
        }
    }
}

impl Explainer {
    pub(crate) fn new(outbound: Arc<Outbound>, known: Known) -> Self {
        Self {
            outbound,
            known: ArcSwap::from_pointee(known),
        }
    }

    pub(crate) fn reload(&self, known: Known) {
        self.known.store(Arc::new(known));
    }

    /// How TLS went with those who have a policy.
    pub(crate) fn tls_report(&self) -> TlsSummary {
        TlsSummary::of(self.known.load().tls_policy, self.outbound.tls_report())
    }

    /// `running`: as a part of a service that runs.
    pub(crate) async fn explain(&self, running: bool, request: &ExplainRequest) -> Explained {
        let known = self.known.load_full();
        let mut explained = Explained {
            running,
            ..Explained::default()
        };
        let members = known.members(request).await;
        let requests = match members {
            Ok(None) => vec![request.clone()],
            Ok(Some(members)) => {
                explained.members = members.iter().map(ExplainedMember::of).collect();
                members
            }
            Err(outcome) => {
                explained.outcome = Some(outcome);
                return explained;
            }
        };
        explained.explanations = stream::iter(requests.into_iter().take(MEMBERS_MAX))
            .map(|request| async move { self.outbound.explain(&request).await })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut all = explained.explanations.iter();
        explained.deliverable = all.all(|one| is_deliverable(one, request.connect));
        explained
    }
}

impl ExplainedMember {
    fn of(request: &ExplainRequest) -> Self {
        let from = match &request.sender {
            sender if sender.address().is_some() => Some(sender.to_string()),
            _ => None,
        };
        Self {
            address: request.recipient.to_string(),
            from,
        }
    }
}

impl Known {
    /// The same question for each member of an alias; `Err`: what becomes of the recipient instead.
    async fn members(
        &self,
        request: &ExplainRequest,
    ) -> Result<Option<Vec<ExplainRequest>>, String> {
        let asked = &request.recipient;
        let own = asked.local_part().is_postmaster() && *asked.domain() == self.hostname;
        let instead = self.postmaster.as_ref().filter(|_| own);
        let recipient = instead.unwrap_or(asked);
        let of = |recipient: Address, from| ExplainRequest {
            recipient,
            sender: from,
            ..request.clone()
        };
        match self.aliases.expand(recipient).await {
            Ok(Expanded::NotAnAlias) => {
                Ok(instead.map(|one| vec![of(one.clone(), request.sender.clone())]))
            }
            Ok(Expanded::Unknown) if recipient.local_part().is_postmaster() => {
                let instead = self.postmaster.clone().into_iter();
                let instead = instead.map(|one| of(one, request.sender.clone()));
                Ok(self.postmaster.is_some().then(|| instead.collect()))
            }
            Ok(Expanded::Unknown) => Err(format!(
                "refused: 550 5.1.1: {} has aliases only, and this is none",
                recipient.domain()
            )),
            Ok(Expanded::Members(members)) => {
                let members = members.into_iter().map(|member| {
                    // A notification stays one, whatever list it is for.
                    let null = request.sender.address().is_none();
                    let from = member.from.filter(|_| !null);
                    of(
                        member.address,
                        from.unwrap_or_else(|| request.sender.clone()),
                    )
                });
                Ok(Some(members.collect()))
            }
            Err(error) => {
                let code = error.enhanced();
                Err(format!(
                    "refused: {code}: {}",
                    escape_peer_text(&error.to_string())
                ))
            }
        }
    }
}

/// Whether it would be delivered now, as far as it is known: some host may be called, and is not
/// known to be dead; where hosts were asked, one of them has said yes.
fn is_deliverable(explanation: &Explanation, asked: bool) -> bool {
    let held_back = explanation
        .destination
        .as_ref()
        .is_some_and(|destination| destination.throttled.is_some());
    if explanation.outcome.is_some() || held_back {
        return false;
    }
    if explanation.hosts.is_empty() {
        // Nobody is called: a Maildir, say. Or no host of a route could be found, of which the
        // warnings tell.
        return explanation.warnings.is_empty();
    }
    let good = |address: &ExplainedAddress| match &address.session {
        Some(session) => session.accepts,
        None => !asked && address.dead.is_none(),
    };
    explanation
        .hosts
        .iter()
        .filter(|host| host.security.unusable.is_none())
        .any(|host| host.addresses.iter().any(good))
}

/// Asks the running service, and where none runs, finds it out from the configuration alone.
///
/// # Errors
/// Where a service runs and does not answer, or the configuration cannot be used.
pub async fn ask(loaded: &Loaded, request: &ExplainRequest) -> Result<Explained, QueueError> {
    match queue::socket_of_running(&loaded.config).await? {
        Some(socket) => queue::post(&socket, "/explain", request).await,
        None => Ok(standalone::explain(loaded, request).await?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation(hosts: serde_json::Value) -> Explanation {
        let mut value = serde_json::to_value(Explanation::default()).unwrap();
        value["hosts"] = hosts;
        serde_json::from_value(value).unwrap()
    }

    fn host(unusable: Option<&str>, addresses: &serde_json::Value) -> serde_json::Value {
        let mut whole = serde_json::to_value(ExplainedSecurity::default()).unwrap();
        if let Some(why) = unusable {
            whole["unusable"] = why.into();
        }
        serde_json::json!({
            "name": "mx.test", "protocol": "smtp", "security": whole, "addresses": addresses
        })
    }

    struct Fixed;

    impl postroad_lookup::Table for Fixed {
        async fn lookup(
            &self,
            key: &str,
        ) -> Result<Option<Vec<String>>, postroad_lookup::LookupError> {
            Ok(match key {
                "list@v.test" => Some(vec!["a@b.test, c@d.test".to_owned()]),
                "owner-list@v.test" => Some(vec!["boss@b.test".to_owned()]),
                "loop@v.test" => Some(vec!["pool@v.test".to_owned()]),
                "pool@v.test" => Some(vec!["loop@v.test".to_owned()]),
                _ => None,
            })
        }

        fn name(&self) -> String {
            "fixed".to_owned()
        }
    }

    #[tokio::test]
    async fn whom_an_address_stands_for() {
        let known = Known {
            aliases: Aliases::new(vec![postroad_lookup::AliasTable {
                table: postroad_lookup::SharedTable::new(Fixed),
                domains: vec!["v.test".parse().unwrap()],
            }]),
            hostname: "mx.test".parse().unwrap(),
            postmaster: Some("admin@b.test".parse().unwrap()),
            tls_policy: TlsPolicy::Enforce,
        };
        let members = async |to: &str, from: &str| {
            let request = ExplainRequest {
                recipient: to.parse().unwrap(),
                sender: from.parse().unwrap(),
                user: None,
                network: None,
                connect: false,
            };
            let members = known.members(&request).await;
            members.map(|members| {
                let members = members.into_iter().flatten();
                let each = members.map(|one| format!("{} {}", one.recipient, one.sender));
                each.collect::<Vec<_>>()
            })
        };
        let own = ["a@b.test owner-list@v.test", "c@d.test owner-list@v.test"];
        let null = ["a@b.test ", "c@d.test "];
        for (to, from, expected) in [
            ("x@w.test", "<s@t.test>", &[][..]),
            ("list@v.test", "<s@t.test>", &own),
            ("list@v.test", "<>", &null),
            (
                "Postmaster@mx.test",
                "<s@t.test>",
                &["admin@b.test s@t.test"],
            ),
        ] {
            assert_eq!(members(to, from).await.unwrap(), expected, "{to}");
        }
        for (to, said) in [
            ("nobody@v.test", "refused: 550 5.1.1"),
            ("loop@v.test", "refused: 5.4.6: "),
        ] {
            let outcome = members(to, "<>").await.unwrap_err();
            assert!(outcome.starts_with(said), "{outcome}");
        }
    }

    #[test]
    fn what_would_be_delivered() {
        let plain = serde_json::json!([{ "address": "192.0.2.1:25" }]);
        let dead = serde_json::json!([{ "address": "192.0.2.1:25", "dead": {
            "name": "mx.test", "address": "192.0.2.1:25", "error": "x", "found": 0, "next_probe": 1
        } }]);
        let said = |accepts: bool| {
            serde_json::json!([{ "address": "192.0.2.1:25", "session": {
                "connect_ms": 1, "accepts": accepts
            } }])
        };
        for (hosts, asked, deliverable) in [
            (vec![], false, true),
            (vec![host(None, &plain)], false, true),
            (vec![host(Some("no TLS"), &plain)], false, false),
            (vec![host(None, &dead)], false, false),
            (vec![host(None, &dead), host(None, &plain)], false, true),
            (vec![host(None, &said(true))], true, true),
            (vec![host(None, &said(false))], true, false),
            (vec![host(None, &plain)], true, false),
        ] {
            let explanation = explanation(hosts.into());
            assert_eq!(
                is_deliverable(&explanation, asked),
                deliverable,
                "{explanation:?}"
            );
        }
        let waits = Explanation {
            outcome: Some("waits: x".to_owned()),
            ..Explanation::default()
        };
        assert!(!is_deliverable(&waits, false));
    }
}
