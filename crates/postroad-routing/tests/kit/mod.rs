//! What the tests of look-ups share.

use std::time::Duration;

use postroad_routing::{DnsOptions, DnsResolver, HopPlan, MxLookup as _, PlanError};
use postroad_tests::dns::TestDns;

/// Asks that server only, once, and not for long.
pub(crate) fn options(dns: &TestDns) -> DnsOptions {
    DnsOptions {
        nameservers: vec![dns.address().into()],
        timeout: Duration::from_secs(1),
        attempts: 0,
        ..DnsOptions::default()
    }
}

/// The hosts with their first addresses, or the reply's codes.
pub(crate) fn shown(plan: Result<HopPlan, PlanError>) -> String {
    match plan {
        Ok(plan) => {
            let host = |host: &postroad_routing::Host| {
                format!("{}[{}]", host.name, host.addresses.first().unwrap())
            };
            plan.hosts.iter().map(host).collect::<Vec<_>>().join(" ")
        }
        Err(PlanError::Permanent(reply) | PlanError::Temporary(reply)) => {
            format!("{} {}", reply.code, reply.enhanced.unwrap())
        }
    }
}

/// The plan for a domain, shown.
pub(crate) async fn plan(resolver: &DnsResolver, domain: &str) -> String {
    shown(resolver.mx(&domain.parse().unwrap(), 1).await)
}
