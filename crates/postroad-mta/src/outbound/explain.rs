//! How a message would travel now, and why: for `postroad explain`.

use std::time::Duration;

use futures_util::future::join_all;
use postroad_mail::{BodyKind, Recipient, escape_peer_text};
use postroad_net::client::{CertificateCheck, ConnectError, Connection, PeerAddress, TlsVerdict};
use postroad_net::clock;
use postroad_proto::client::{RecipientResult, StartTls, Transaction};
use postroad_queue::Lane;
use postroad_routing::{
    Destination, HostSecurity, PlanError, PolicyKind, Rate, Requirement, Route, RouteRequest,
    order_hops,
};

use super::attempt::Way;
use super::explanation::{
    ExplainRequest, ExplainedAddress, ExplainedHost, ExplainedLimits, ExplainedSecurity,
    ExplainedSession, Explanation,
};
use super::follow::described;
use super::lanes::{PATIENCE, lane};
use super::security::{self, MessageTls, TlsPlan};
use super::session::{Called, Callee, Manner};
use super::views::DeadHost;
use super::{Outbound, Settings};

/// How long all hosts together may take to be asked.
const ASKING_MAX: Duration = Duration::from_secs(120);

/// Hosts of a route that are called in the same manner.
struct Group<'a> {
    way: Way<'a>,
    preference: Option<u16>,
}

impl Outbound {
    /// How a message would travel now, and why; it asks the router and the DNS, and with
    /// `connect` the hosts themselves. It ends within minutes, come what may.
    pub async fn explain(&self, request: &ExplainRequest) -> Explanation {
        let settings = self.settings.load_full();
        let mut explained = Explanation {
            recipient: request.recipient.to_string(),
            sender: request.sender.to_string(),
            ..Explanation::default()
        };
        let asked = RouteRequest {
            recipient: &request.recipient,
            sender: &request.sender,
            user: request.user.as_deref(),
            network: request.network,
            size: 0,
        };
        let routing = tokio::time::timeout(PATIENCE, settings.router.route(&asked));
        let mut route = match routing.await {
            Ok(Ok(route)) => route,
            Ok(Err(error)) => {
                let error = escape_peer_text(&error.to_string());
                explained.outcome = Some(format!("waits: the route cannot be found: {error}"));
                return explained;
            }
            Err(_) => {
                explained.outcome = Some("waits: the router takes too long".to_owned());
                return explained;
            }
        };
        if route.destination == Destination::Mx(None) {
            route.destination = Destination::Mx(Some(request.recipient.domain().clone()));
        }
        let of = lane(&route, &request.recipient);
        explained.chosen_by = route.chosen_by.as_str().map(str::to_owned);
        explained.route = described(&route);
        of.as_str().clone_into(&mut explained.lane);
        explained.limits = limits(&settings, &route);
        explained.destination = self.destination(&of);
        let groups = self.groups(&settings, &route, &mut explained).await;
        let asking = self.hosts_of(&settings, &of, &groups, request);
        explained.hosts = asking.await;
        explained
    }

    /// The hosts of a route; what stands in their way goes into the explanation.
    async fn groups<'a>(
        &self,
        settings: &Settings,
        route: &'a Route,
        explained: &mut Explanation,
    ) -> Vec<Group<'a>> {
        let seed = self.clock.now().as_millis();
        match &route.destination {
            Destination::Mx(Some(domain)) => match settings.mx.mx(domain, seed).await {
                Ok(plan) => {
                    explained.warnings.clone_from(&plan.warnings);
                    explained.mx_ttl = plan.ttl.map(|ttl| ttl.as_secs());
                    let port = route.options.port.unwrap_or(settings.config.port);
                    let way = Way::by_mx(plan, port, domain, &route.options);
                    vec![Group {
                        way,
                        preference: None,
                    }]
                }
                Err(error) => {
                    explained.outcome = Some(unplanned(&error));
                    Vec::new()
                }
            },
            Destination::Hops(hops) => {
                let mut groups = Vec::new();
                for hop in order_hops(hops, seed) {
                    match self.callees(settings, hop).await {
                        Ok((hosts, port)) => groups.push(Group {
                            way: Way::to_hop(hosts, port, hop, &route.options, false),
                            preference: Some(hop.preference),
                        }),
                        Err(error) => explained.warnings.push(unplanned(&error)),
                    }
                }
                groups
            }
            Destination::Maildir(_) | Destination::Discard => Vec::new(),
            Destination::Reject(reply) => {
                explained.outcome = Some(format!("fails: {reply}"));
                Vec::new()
            }
            Destination::Defer(reply) => {
                explained.outcome = Some(format!("waits: {reply}"));
                Vec::new()
            }
            _ => {
                explained.outcome = Some("waits: this version cannot go there".to_owned());
                Vec::new()
            }
        }
    }

    async fn hosts_of(
        &self,
        settings: &Settings,
        lane: &Lane,
        groups: &[Group<'_>],
        request: &ExplainRequest,
    ) -> Vec<ExplainedHost> {
        let mut asking = Vec::new();
        for group in groups {
            for callee in &group.way.hosts {
                asking.push(self.host_of(settings, lane, group, callee, request));
            }
        }
        join_all(asking).await
    }

    async fn host_of(
        &self,
        settings: &Settings,
        lane: &Lane,
        group: &Group<'_>,
        callee: &Callee,
        request: &ExplainRequest,
    ) -> ExplainedHost {
        let way = &group.way;
        let security = self.security_of(settings, way, callee).await;
        let plan = security::plan(&security::Asked {
            mode: way.manner.tls(),
            implicit_tls: way.manner.implicit_tls,
            host: callee.host.name.ascii(),
            by_mx: way.domain.is_some(),
            security: &security,
            message: MessageTls::Unsaid,
        });
        let address = |address: &PeerAddress| ExplainedAddress {
            address: address.to_string(),
            dead: DeadHost::find(&self.hosts(), &callee.key(address)),
            session: None,
        };
        let mut explained = ExplainedHost {
            name: callee.host.name.ascii().to_owned(),
            preference: callee.host.preference.or(group.preference),
            protocol: scheme(&way.manner).to_owned(),
            ttl: callee.host.ttl.map(|ttl| ttl.as_secs()),
            security: secured(&security, plan.as_ref()),
            addresses: callee.addresses.iter().map(address).collect(),
        };
        if let (true, Ok(plan)) = (request.connect, &plan) {
            let asking = Asking {
                settings,
                lane,
                way,
                callee,
                security: &security,
                plan,
                request,
            };
            let addresses = &mut explained.addresses;
            // What has been found out until then stays.
            let _ = tokio::time::timeout(ASKING_MAX, self.ask(&asking, addresses)).await;
        }
        explained
    }

    /// Asks one address after the other, until one answers.
    async fn ask(&self, asking: &Asking<'_>, addresses: &mut [ExplainedAddress]) {
        let callee = asking.callee;
        for (address, explained) in callee.addresses.iter().zip(addresses) {
            let manner = &asking.way.manner;
            let Ok(source) = manner.source(address) else {
                continue;
            };
            let called = Called {
                manner,
                callee,
                address,
                plan: asking.plan,
                security: asking.security,
                key: manner.key(asking.settings, address, source, asking.plan),
            };
            let session = self.ask_one(asking, &called).await;
            let answered = session.error.is_none();
            explained.session = Some(session);
            if answered {
                let mut revived = vec![asking.lane.clone()];
                self.lives(&callee.key(address), &mut revived);
                revived.iter().for_each(|lane| self.revive(lane));
                return;
            }
        }
    }

    async fn ask_one(&self, asking: &Asking<'_>, called: &Called<'_>) -> ExplainedSession {
        let place = self.pool.place().await;
        let began = clock::instant();
        let made = connect(asking.settings, called).await;
        let took = clock::instant().duration_since(began).as_millis();
        let mut session = ExplainedSession {
            connect_ms: u64::try_from(took).unwrap_or(u64::MAX),
            ..ExplainedSession::default()
        };
        match made {
            Ok(mut connection) => {
                describe(&connection, &mut session);
                let transaction = Transaction {
                    from: asking.request.sender.clone(),
                    recipients: vec![Recipient::new(asking.request.recipient.clone())],
                    size: 0,
                    body: BodyKind::SevenBit,
                    smtputf8: false,
                    ret: None,
                    envid: None,
                    auth: None,
                    require_tls: false,
                };
                let report = connection.probe(transaction).await;
                let result = report.recipients.first();
                session.accepts = matches!(result, Some(RecipientResult::Accepted(_)));
                session.reply = result.map(|result| escape_peer_text(&said(result)));
                connection.quit().await;
            }
            Err(error) => session.error = Some(escape_peer_text(&error.to_string())),
        }
        drop(place);
        session
    }
}

/// A host that is being asked.
struct Asking<'a> {
    settings: &'a Settings,
    lane: &'a Lane,
    way: &'a Way<'a>,
    callee: &'a Callee,
    security: &'a HostSecurity,
    plan: &'a TlsPlan,
    request: &'a ExplainRequest,
}

async fn connect(settings: &Settings, called: &Called<'_>) -> Result<Connection, ConnectError> {
    let target = called.target(settings, called.plan);
    match settings.connector.connect(&target).await {
        Err(ConnectError::Tls { .. }) if called.plan.plaintext_retry => {
            let target = called.target(settings, &called.plan.plaintext());
            settings.connector.connect(&target).await
        }
        made => made,
    }
}

fn describe(connection: &Connection, session: &mut ExplainedSession) {
    session.tls = connection
        .tls()
        .map(|tls| format!("{} {}", tls.version, tls.cipher));
    session.verdict = connection.verdict().map(|verdict| match verdict {
        TlsVerdict::Unchecked => "not asked for".to_owned(),
        TlsVerdict::Passed => "as it must be".to_owned(),
        TlsVerdict::Failed { detail, .. } => escape_peer_text(&format!("not so: {detail}")),
    });
    let offered = connection.extensions();
    let known = [
        (offered.pipelining, "PIPELINING"),
        (offered.eight_bit_mime, "8BITMIME"),
        (offered.smtputf8, "SMTPUTF8"),
        (offered.chunking, "CHUNKING"),
        (offered.binary_mime, "BINARYMIME"),
        (offered.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
        (offered.dsn, "DSN"),
        (offered.starttls, "STARTTLS"),
        (offered.require_tls, "REQUIRETLS"),
    ];
    let there = known.iter().filter(|(there, _)| *there);
    session.extensions = there.map(|(_, name)| (*name).to_owned()).collect();
    if let Some(size) = offered.size {
        session.extensions.push(format!("SIZE {size}"));
    }
    if !offered.auth.is_empty() {
        let names: Vec<_> = offered.auth.iter().map(|m| m.name()).collect();
        session.extensions.push(format!("AUTH {}", names.join(" ")));
    }
    if let Some(most) = offered.recipients_max {
        session.extensions.push(format!("LIMITS RCPTMAX={most}"));
    }
}

fn said(result: &RecipientResult) -> String {
    match result {
        RecipientResult::Accepted(reply) => format!("RCPT: {reply}"),
        RecipientResult::Refused { phase, reply } => {
            format!("{}: {reply}", format!("{phase:?}").to_uppercase())
        }
        RecipientResult::Broken { phase, error } => format!("{phase:?}: {error}"),
        RecipientResult::Unsupported(missing) => format!("it lacks {missing:?}"),
    }
}

fn unplanned(error: &PlanError) -> String {
    match error {
        PlanError::Permanent(reply) => format!("fails: {reply}"),
        PlanError::Temporary(reply) => format!("waits: {reply}"),
    }
}

const fn scheme(manner: &Manner<'_>) -> &'static str {
    use postroad_mail::Protocol;
    match (manner.protocol, manner.implicit_tls) {
        (Protocol::Smtp, false) => "smtp",
        (Protocol::Smtp, true) => "smtps",
        (Protocol::Lmtp, _) => "lmtp",
    }
}

fn limits(settings: &Settings, route: &Route) -> ExplainedLimits {
    let config = &settings.config;
    let of_route = route.options.limits.as_deref();
    let shown = |rate: Rate| format!("{} in {} s", rate.count, rate.per.as_secs_f64());
    ExplainedLimits {
        concurrency: config.concurrency,
        per_destination: of_route
            .and_then(|limits| limits.per_destination)
            .unwrap_or(config.per_destination),
        name: of_route.map(|limits| limits.name.clone()),
        messages: of_route.and_then(|limits| limits.messages).map(shown),
        connections: of_route.and_then(|limits| limits.connections).map(shown),
    }
}

fn secured(
    security: &HostSecurity,
    plan: Result<&TlsPlan, &postroad_mail::Reply>,
) -> ExplainedSecurity {
    let policy = match security.policy {
        PolicyKind::Tlsa => "dane",
        PolicyKind::Sts => "mta-sts",
        PolicyKind::NoPolicyFound => "none",
    };
    let requirement = match &security.requirement {
        Requirement::None => "nothing",
        Requirement::Encrypted => "TLS, with any certificate",
        Requirement::Dane { .. } => "a certificate that TLSA records match",
        Requirement::Valid => "a certificate that is valid for its name",
        Requirement::Unusable(_) => "that it is not used",
    };
    let mut explained = ExplainedSecurity {
        policy: policy.to_owned(),
        requirement: requirement.to_owned(),
        enforced: security.enforced,
        reasons: security.reasons.clone(),
        ..ExplainedSecurity::default()
    };
    match plan {
        Ok(plan) => {
            let starttls = match plan.starttls {
                StartTls::Never => "never",
                StartTls::IfOffered => "if offered",
                StartTls::Require => "required",
            };
            let certificate = match plan.certificate {
                CertificateCheck::Any => "any",
                CertificateCheck::Valid => "valid",
                CertificateCheck::Dane { .. } => "dane",
            };
            starttls.clone_into(&mut explained.starttls);
            certificate.clone_into(&mut explained.certificate);
            explained.reasons.clone_from(&plan.reasons);
        }
        Err(reply) => explained.unusable = Some(reply.to_string()),
    }
    explained
}
