//! Hosts and addresses by DNS.
//!
//! | what the DNS says | what follows |
//! |---|---|
//! | MX records | those hosts, in order |
//! | one MX record with the root as host | 556 5.1.10, bounce (RFC 7505) |
//! | no MX, but A or AAAA | the domain itself (RFC 5321 section 5.1) |
//! | no such domain | 550 5.1.2, bounce |
//! | hosts without any address | 550 5.4.4, bounce |
//! | the best host is this one, by its name or an address | 550 5.4.6, bounce |
//! | an address literal of this host; a host of a route at a port of ours | 550 5.4.6, bounce |
//! | a failure, a timeout, nonsense | 451 4.4.3, try later: also where only some hosts better than us could not be looked up, and no other is left |

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as HickoryError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use postroad_mail::{Domain, replies};

use crate::mx::{AddressFamily, MxSet, interleave, order, stop_at_us};
use crate::plan::{HopPlan, Host, MxLookup, PlanError};
use crate::route::BoxFuture;

/// How to look names up.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// Name servers; empty: the system's.
    pub nameservers: Vec<SocketAddr>,
    /// Names of this host: an MX of that name is a loop.
    pub own_names: Vec<Domain>,
    /// Addresses of this host, likewise.
    pub own_addresses: Vec<IpAddr>,
    /// Ports at which this host takes mail of other servers: a host that a route names is a loop
    /// only there, since behind another port may stand a filter, or another server.
    pub own_ports: Vec<u16>,
    /// Which addresses to call.
    pub family: AddressFamily,
    /// How long a name server may take.
    pub timeout: Duration,
    /// How often one is asked again.
    pub attempts: usize,
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            own_names: Vec::new(),
            own_addresses: Vec::new(),
            own_ports: vec![25],
            family: AddressFamily::Any,
            timeout: Duration::from_secs(5),
            attempts: 2,
        }
    }
}

/// No resolver can be made.
#[derive(Clone, Debug, thiserror::Error)]
#[error("preparing DNS look-ups: {0}")]
pub struct DnsError(String);

/// Looks hosts up by DNS, with a cache.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    resolver: TokioResolver,
    options: std::sync::Arc<DnsOptions>,
}

/// Why a look-up gave nothing.
enum Nothing {
    /// The name does not exist.
    NoName,
    /// It exists, and has no such records.
    NoData,
    /// It is not known now.
    Failure(String),
}

impl DnsResolver {
    /// A resolver. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the system's configuration cannot be read.
    pub fn new(mut options: DnsOptions) -> Result<Self, DnsError> {
        for address in &mut options.own_addresses {
            *address = address.to_canonical();
        }
        let mut builder = if options.nameservers.is_empty() {
            TokioResolver::builder_tokio()
                .map_err(|e| DnsError(format!("reading the system's configuration: {e}")))?
        } else {
            let servers = options.nameservers.iter().map(|server| {
                let connections =
                    [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                        connection.port = server.port();
                        connection
                    });
                NameServerConfig::new(server.ip(), true, connections.into())
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let resolver_options: &mut ResolverOpts = builder.options_mut();
        resolver_options.timeout = options.timeout;
        resolver_options.attempts = options.attempts;
        resolver_options.edns0 = true;
        let resolver = builder.build().map_err(|e| DnsError(e.to_string()))?;
        Ok(Self {
            resolver,
            options: options.into(),
        })
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, Nothing> {
        // The final dot keeps the system's search list out of it.
        let absolute = format!("{name}.");
        match self.resolver.lookup(absolute, kind).await {
            Ok(found) => {
                let data: Vec<_> = found
                    .answers()
                    .iter()
                    .map(|r| r.data.clone())
                    .filter(|d| d.record_type() == kind)
                    .collect();
                if data.is_empty() {
                    Err(Nothing::NoData)
                } else {
                    Ok(data)
                }
            }
            Err(NetError::Dns(HickoryError::NoRecordsFound(none))) => {
                Err(match none.response_code {
                    ResponseCode::NXDomain => Nothing::NoName,
                    ResponseCode::NoError => Nothing::NoData,
                    code => Nothing::Failure(format!("{kind} of {name}: {code}")),
                })
            }
            Err(error) => Err(Nothing::Failure(format!("{kind} of {name}: {error}"))),
        }
    }

    /// All addresses of a name, in the order to try.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Nothing> {
        let wants =
            |family| self.options.family == AddressFamily::Any || self.options.family == family;
        let of = async |wanted: bool, kind: RecordType| {
            if wanted {
                self.lookup(name, kind).await
            } else {
                Err(Nothing::NoData)
            }
        };
        let (v4, v6) = futures_util::join!(
            of(wants(AddressFamily::Ipv4), RecordType::A),
            of(wants(AddressFamily::Ipv6), RecordType::AAAA)
        );
        let mut found = Vec::new();
        let mut nothing = Nothing::NoData;
        for answer in [v4, v6] {
            match answer {
                Ok(data) => found.extend(data.iter().filter_map(RData::ip_addr)),
                Err(failure @ Nothing::Failure(_)) => nothing = failure,
                Err(Nothing::NoName) if !matches!(nothing, Nothing::Failure(_)) => {
                    nothing = Nothing::NoName;
                }
                Err(_) => {}
            }
        }
        if found.is_empty() {
            Err(nothing)
        } else {
            Ok(interleave(found, self.options.family))
        }
    }

    async fn plan(&self, domain: &Domain, seed: u64) -> Result<HopPlan, PlanError> {
        if let Some(plan) = literal(domain) {
            return self.unless_us(domain, plan?);
        }
        let records = match self.lookup(domain.ascii(), RecordType::MX).await {
            Ok(records) => records,
            Err(Nothing::NoData) => return self.implicit(domain).await,
            Err(nothing) => return Err(refusal(domain, nothing)),
        };
        let records = records.into_iter().filter_map(|data| match data {
            RData::MX(mx) => Some((mx.preference, canonical(&mx.exchange.to_ascii()))),
            _ => None,
        });
        let MxSet::Hosts(names) = order(records.collect(), seed) else {
            let text = format!("The domain {} takes no mail (null MX)", domain.ascii());
            return Err(PlanError::Permanent(replies::NULL_MX.with_text(text)));
        };
        self.hosts(domain, names).await
    }

    /// No MX at all: the domain itself, if it has addresses (RFC 5321 section 5.1).
    async fn implicit(&self, domain: &Domain) -> Result<HopPlan, PlanError> {
        let addresses = self
            .addresses(domain.ascii())
            .await
            .map_err(|nothing| refusal(domain, nothing))?;
        let host = Host {
            name: domain.clone(),
            preference: None,
            addresses,
            ttl: None,
        };
        self.unless_us(domain, HopPlan::of(vec![host]))
    }

    fn unless_us(&self, domain: &Domain, plan: HopPlan) -> Result<HopPlan, PlanError> {
        let ours = |host: &Host| self.is_us(&host.name, &host.addresses);
        if plan.hosts.iter().any(ours) {
            return Err(looped(domain));
        }
        Ok(plan)
    }

    async fn hosts(
        &self,
        domain: &Domain,
        names: Vec<(u16, String)>,
    ) -> Result<HopPlan, PlanError> {
        let looked_up = names.into_iter().map(|(preference, name)| async move {
            let addresses = self.addresses(&name).await;
            (preference, name, addresses)
        });
        // A host that has a name that none can have takes no mail.
        let hosts: Vec<_> = futures_util::future::join_all(looked_up)
            .await
            .into_iter()
            .filter_map(|(preference, name, addresses)| {
                Some((preference, (name.parse::<Domain>().ok()?, addresses)))
            })
            .collect();
        let all = hosts.len();
        // Before anything is dropped: our own name says that this is us also where its addresses
        // are not known, and what is behind us does not count, whatever its look-up says.
        let hosts = stop_at_us(hosts, |(name, addresses)| {
            self.is_us(name, addresses.as_deref().unwrap_or_default())
        });
        let looping = hosts.len() < all;
        let mut usable = Vec::new();
        let mut failure = None;
        for (preference, (name, addresses)) in hosts {
            match addresses {
                Ok(addresses) => usable.push(Host {
                    name,
                    preference: Some(preference),
                    addresses,
                    ttl: None,
                }),
                Err(Nothing::Failure(detail)) => failure = Some(detail),
                // A host that does not exist takes no mail.
                Err(Nothing::NoName | Nothing::NoData) => {}
            }
        }
        match (usable.is_empty(), failure) {
            (false, _) => Ok(HopPlan::of(usable)),
            (true, Some(detail)) => Err(refusal(domain, Nothing::Failure(detail))),
            (true, None) if looping => Err(looped(domain)),
            (true, None) => Err(PlanError::Permanent(replies::NO_MAIL_HOST.with_text(
                format!("No mail exchanger of {} has an address", domain.ascii()),
            ))),
        }
    }

    fn is_us(&self, name: &Domain, addresses: &[IpAddr]) -> bool {
        let own = |address: &IpAddr| self.options.own_addresses.contains(&address.to_canonical());
        self.options.own_names.contains(name) || addresses.iter().any(own)
    }

    async fn one(&self, name: &Domain, port: u16) -> Result<HopPlan, PlanError> {
        let plan = self.reachable(name).await?;
        if self.options.own_ports.contains(&port) {
            return self.unless_us(name, plan);
        }
        Ok(plan)
    }

    async fn reachable(&self, name: &Domain) -> Result<HopPlan, PlanError> {
        if let Some(plan) = literal(name) {
            return plan;
        }
        let addresses = self
            .addresses(name.ascii())
            .await
            .map_err(|nothing| match nothing {
                // A next hop from a configuration that is not there is a mistake to be mended, not a reason to bounce.
                Nothing::NoName | Nothing::NoData => refusal(
                    name,
                    Nothing::Failure(format!("{} has no address", name.ascii())),
                ),
                failure @ Nothing::Failure(_) => refusal(name, failure),
            })?;
        Ok(HopPlan::of(vec![Host {
            name: name.clone(),
            preference: None,
            addresses,
            ttl: None,
        }]))
    }
}

impl MxLookup for DnsResolver {
    fn mx<'a>(
        &'a self,
        domain: &'a Domain,
        seed: u64,
    ) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        Box::pin(self.plan(domain, seed))
    }

    fn host<'a>(
        &'a self,
        name: &'a Domain,
        port: u16,
    ) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        Box::pin(self.one(name, port))
    }
}

/// A host's name as [`Domain`] has it; as it is, where none can have it: the root of a null MX.
fn canonical(name: &str) -> String {
    let name = name.trim_end_matches('.');
    let domain = name.parse::<Domain>();
    domain.map_or_else(|_| name.to_owned(), |domain| domain.ascii().to_owned())
}

/// A literal is its own host.
fn literal(domain: &Domain) -> Option<Result<HopPlan, PlanError>> {
    match domain.ip() {
        Some(ip) => Some(Ok(HopPlan::of(vec![Host {
            name: domain.clone(),
            preference: None,
            addresses: vec![ip],
            ttl: None,
        }]))),
        None if domain.is_literal() => {
            Some(Err(PlanError::Permanent(replies::NO_MAIL_HOST.with_text(
                format!("The address literal {} cannot be reached", domain.ascii()),
            ))))
        }
        None => None,
    }
}

fn looped(domain: &Domain) -> PlanError {
    PlanError::Permanent(replies::MX_LOOP.with_text(format!(
        "The mail exchangers of {} lead back to this host",
        domain.ascii()
    )))
}

fn refusal(domain: &Domain, nothing: Nothing) -> PlanError {
    let domain = domain.ascii();
    match nothing {
        Nothing::NoName => PlanError::Permanent(
            replies::NO_SUCH_DOMAIN.with_text(format!("The domain {domain} does not exist")),
        ),
        Nothing::NoData => PlanError::Permanent(replies::NO_MAIL_HOST.with_text(format!(
            "The domain {domain} has neither mail exchanger nor address"
        ))),
        Nothing::Failure(detail) => PlanError::Temporary(
            replies::LOOKUP_FAILED.with_text(format!("Looking up {domain} failed: {detail}")),
        ),
    }
}
