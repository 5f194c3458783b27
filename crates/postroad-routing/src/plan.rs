use std::net::IpAddr;
use std::time::Duration;

use postroad_mail::{Domain, Reply};

use crate::route::BoxFuture;

/// The hosts to try for a destination, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopPlan {
    /// At least one.
    pub hosts: Vec<Host>,
    /// How long the MX records may be kept, where there are some.
    pub ttl: Option<Duration>,
    /// What is odd about the records, and does no harm to this plan: an MX that is an alias, more
    /// hosts than are tried. For the operator.
    pub warnings: Vec<String>,
}

impl HopPlan {
    /// These hosts, and nothing to say about them.
    #[must_use]
    pub const fn of(hosts: Vec<Host>) -> Self {
        Self {
            hosts,
            ttl: None,
            warnings: Vec::new(),
        }
    }
}

/// One host with its addresses, in the order to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name: of the MX, for TLS and for the log.
    pub name: Domain,
    /// The MX preference, where it came from an MX record.
    pub preference: Option<u16>,
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// How long the addresses may be kept; none for literals.
    pub ttl: Option<Duration>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Never will be: bounce with this reply (556 5.1.10 null MX, 550 5.1.2 no such domain, 550 5.4.6 loop, …).
    #[error("{0}")]
    Permanent(Reply),
    /// Not now: defer with this reply (451 4.4.3, …).
    #[error("{0}")]
    Temporary(Reply),
}

/// Turns destinations into hosts. The one place behind which there is DNS.
pub trait MxLookup: Send + Sync + 'static {
    /// The hosts that take mail for a domain (RFC 5321 section 5.1, RFC 7505). An address literal
    /// is its own host. `seed` decides the order among equal preferences.
    fn mx<'a>(&'a self, domain: &'a Domain, seed: u64)
    -> BoxFuture<'a, Result<HopPlan, PlanError>>;

    /// One host by name or literal: A and AAAA only. `port` is where it is going to be called.
    fn host<'a>(&'a self, name: &'a Domain, port: u16)
    -> BoxFuture<'a, Result<HopPlan, PlanError>>;
}
