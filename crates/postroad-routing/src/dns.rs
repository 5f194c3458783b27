//! Hosts and addresses by DNS.
//!
//! | what the DNS says | what follows |
//! |---|---|
//! | MX records | those hosts, in order |
//! | one MX record with the root as host | 556 5.1.10, bounce (RFC 7505) |
//! | no MX, but A or AAAA | the domain itself (RFC 5321 section 5.1) |
//! | no such domain | 550 5.1.2, bounce |
//! | hosts without any address, or only such as no host can have (an address in place of a name) | 550 5.4.4, bounce |
//! | the best host is this one, by its name or an address | 550 5.4.6, bounce |
//! | an address literal of this host; a host of a route at a port of ours | 550 5.4.6, bounce |
//! | a failure, a timeout, a lame server, a truncated answer, an answer about another name | 451 4.4.3, try later: also where only some hosts better than us could not be looked up, and no other is left |

mod client;
mod guard;
mod options;
mod secure;
mod server;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{RData, RecordType};
use postroad_mail::{Domain, escape_peer_text, replies};

use self::client::{Client, Nothing, text};
use crate::mx::{AddressFamily, HOSTS_MAX, MxSet, can_be_called, interleave, order, stop_at_us};
use crate::plan::{HopPlan, Host, MxLookup, PlanError};
use crate::route::BoxFuture;

pub use self::options::{DnsError, DnsOptions};
pub use self::secure::{SecureDns, SecureError, Secured, TlsaAnswer, TrustAnchor};
pub use self::server::{NameServer, NameServerError};

/// Why a look-up gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The name does not exist.
    #[error("no such name")]
    NoName,
    /// It exists, and has no such records.
    #[error("no such records")]
    NoData,
    /// It is not known now.
    #[error("{0}")]
    Failed(String),
}

/// Looks hosts up by DNS, with a cache.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    client: Client,
    options: Arc<DnsOptions>,
}

/// What is known of a host's addresses.
struct Addresses {
    /// At least one, in the order to try.
    list: Vec<IpAddr>,
    ttl: Duration,
    /// The host's other name, where its own is an alias.
    alias_of: Option<String>,
}

/// A host of an MX record, looked up.
struct LookedUp {
    name: Domain,
    addresses: Result<Addresses, Nothing>,
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
        Ok(Self {
            client: Client::new(&options, None)?,
            options: options.into(),
        })
    }

    /// The text records of a name: the strings of each put together (RFC 8461 section 3.1,
    /// RFC 8460 section 3). Octets that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// Where there are none, or it cannot be known.
    pub async fn txt(&self, name: &str) -> Result<Vec<String>, NoAnswer> {
        match self.client.lookup(name, RecordType::TXT).await {
            Ok(found) => Ok(found
                .data
                .iter()
                .filter_map(|data| match data {
                    RData::TXT(txt) => {
                        Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned())
                    }
                    _ => None,
                })
                .collect()),
            Err(Nothing::NoName(_)) => Err(NoAnswer::NoName),
            Err(Nothing::NoData(_)) => Err(NoAnswer::NoData),
            Err(Nothing::Failure(detail)) => Err(NoAnswer::Failed(detail)),
        }
    }

    /// All addresses of a name.
    async fn addresses(&self, name: &str) -> Result<Addresses, Nothing> {
        let of = async |family: AddressFamily, kind: RecordType| {
            if self.options.family == AddressFamily::Any || self.options.family == family {
                Some(self.client.lookup(name, kind).await)
            } else {
                None
            }
        };
        let (v4, v6) = futures_util::join!(
            of(AddressFamily::Ipv4, RecordType::A),
            of(AddressFamily::Ipv6, RecordType::AAAA)
        );
        let mut list = Vec::new();
        let mut ttl = Duration::MAX;
        let mut alias_of = None;
        let mut nothing: Option<Nothing> = None;
        for answer in [v4, v6].into_iter().flatten() {
            match (answer, &nothing) {
                (Ok(found), _) => {
                    let addresses = found.data.iter().filter_map(RData::ip_addr);
                    list.extend(addresses.filter(can_be_called));
                    ttl = ttl.min(found.ttl);
                    alias_of = found.aliased.then_some(found.name).or(alias_of);
                }
                // That one family is not known outweighs that there is none of the other.
                (Err(failure @ Nothing::Failure(_)), _) => nothing = Some(failure),
                (Err(_), Some(_)) => {}
                (Err(none), None) => nothing = Some(none),
            }
        }
        if list.is_empty() {
            let none = Nothing::NoData(hickory_resolver::proto::dnssec::Proof::Indeterminate);
            return Err(nothing.unwrap_or(none));
        }
        Ok(Addresses {
            list: interleave(list, self.options.family),
            ttl,
            alias_of,
        })
    }

    async fn plan(&self, domain: &Domain, seed: u64) -> Result<HopPlan, PlanError> {
        if let Some(plan) = literal(domain) {
            return self.unless_us(domain, plan?);
        }
        let found = match self.client.lookup(domain.ascii(), RecordType::MX).await {
            Ok(found) => found,
            Err(Nothing::NoData(_)) => return self.implicit(domain).await,
            Err(nothing) => return Err(refusal(domain, nothing)),
        };
        let records = found.data.iter().filter_map(|data| match data {
            RData::MX(mx) => Some((mx.preference, text(&mx.exchange))),
            _ => None,
        });
        let own = |name: &Domain| self.options.own_names.contains(name);
        let MxSet::Hosts(mx) = order(records.collect(), seed, own) else {
            let text = format!("The domain {} takes no mail (null MX)", domain.ascii());
            return Err(PlanError::Permanent(replies::NULL_MX.with_text(text)));
        };
        let hosts = self.hosts(domain, mx.hosts).await?;
        let mut warnings = mx.warnings;
        warnings.extend(hosts.warnings);
        Ok(HopPlan {
            ttl: Some(found.ttl),
            warnings,
            ..hosts
        })
    }

    /// No MX at all: the domain itself, if it has addresses (RFC 5321 section 5.1).
    async fn implicit(&self, domain: &Domain) -> Result<HopPlan, PlanError> {
        let addresses = self
            .addresses(domain.ascii())
            .await
            .map_err(|nothing| refusal(domain, nothing))?;
        let host = addresses.of(domain.clone(), None);
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
        names: Vec<(u16, Domain)>,
    ) -> Result<HopPlan, PlanError> {
        let looked_up = names.into_iter().map(|(preference, name)| async move {
            let addresses = self.addresses(name.ascii()).await;
            (preference, LookedUp { name, addresses })
        });
        let hosts = futures_util::future::join_all(looked_up).await;
        let all = hosts.len();
        // Before anything is dropped: our own name says that this is us also where its addresses
        // are not known, and what is behind us does not count, whatever its look-up says.
        let hosts = stop_at_us(hosts, |host| self.is_us_looked_up(host));
        let looping = hosts.len() < all;
        let mut usable = Vec::new();
        let mut warnings = Vec::new();
        let mut failure = None;
        for (preference, LookedUp { name, addresses }) in hosts {
            match addresses {
                Ok(addresses) => {
                    if let Some(other) = &addresses.alias_of {
                        warnings.push(format!(
                            "the mail exchanger {name} is an alias of {} (RFC 2181 section 10.3)",
                            escape_peer_text(other)
                        ));
                    }
                    usable.push(addresses.of(name, Some(preference)));
                }
                Err(Nothing::Failure(detail)) => {
                    warnings.push(format!("the mail exchanger {name} is left out: {detail}"));
                    failure = Some(detail);
                }
                // A host that does not exist takes no mail.
                Err(Nothing::NoName(_) | Nothing::NoData(_)) => {
                    warnings.push(format!("the mail exchanger {name} has no address"));
                }
            }
        }
        warnings.truncate(HOSTS_MAX);
        match (usable.is_empty(), failure) {
            (false, _) => Ok(HopPlan {
                warnings,
                ..HopPlan::of(usable)
            }),
            (true, Some(detail)) => Err(refusal(domain, Nothing::Failure(detail))),
            (true, None) if looping => Err(looped(domain)),
            (true, None) => Err(PlanError::Permanent(replies::NO_MAIL_HOST.with_text(
                format!("No mail exchanger of {} has an address", domain.ascii()),
            ))),
        }
    }

    fn is_us_looked_up(&self, host: &LookedUp) -> bool {
        match &host.addresses {
            Ok(addresses) => {
                let alias = addresses.alias_of.as_ref().and_then(|n| n.parse().ok());
                self.is_us(&host.name, &addresses.list)
                    || alias.is_some_and(|name| self.is_us(&name, &[]))
            }
            Err(_) => self.is_us(&host.name, &[]),
        }
    }

    fn is_us(&self, name: &Domain, addresses: &[IpAddr]) -> bool {
        let own = |address: &IpAddr| {
            let address = address.to_canonical();
            self.options.own_addresses.contains(&address)
                || (self.options.own_loopback && address.is_loopback())
        };
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
                Nothing::NoName(_) | Nothing::NoData(_) => refusal(
                    name,
                    Nothing::Failure(format!("{} has no address", name.ascii())),
                ),
                failure @ Nothing::Failure(_) => refusal(name, failure),
            })?;
        Ok(HopPlan::of(vec![addresses.of(name.clone(), None)]))
    }
}

impl Addresses {
    /// As a host of a plan.
    fn of(self, name: Domain, preference: Option<u16>) -> Host {
        Host {
            name,
            preference,
            addresses: self.list,
            ttl: Some(self.ttl),
        }
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
        Nothing::NoName(_) => PlanError::Permanent(
            replies::NO_SUCH_DOMAIN.with_text(format!("The domain {domain} does not exist")),
        ),
        Nothing::NoData(_) => PlanError::Permanent(replies::NO_MAIL_HOST.with_text(format!(
            "The domain {domain} has neither mail exchanger nor address"
        ))),
        Nothing::Failure(detail) => PlanError::Temporary(
            replies::LOOKUP_FAILED.with_text(format!("Looking up {domain} failed: {detail}")),
        ),
    }
}
