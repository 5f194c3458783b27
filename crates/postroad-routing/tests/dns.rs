//! Hosts and addresses from a real name server on loopback.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use postroad_mail::Domain;
use postroad_routing::{DnsOptions, DnsResolver, HopPlan, MxLookup as _, PlanError};
use postroad_tests::dns::TestDns;

const US: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

/// We are `us.test` and 192.0.2.1; 192.0.2.2 is somebody else.
async fn resolver(dns: &TestDns) -> DnsResolver {
    dns.a("us.test", US.parse().unwrap());
    dns.a("nat.test", "::ffff:192.0.2.1".parse().unwrap());
    dns.a("other.test", OTHER.parse().unwrap());
    DnsResolver::new(DnsOptions {
        nameservers: vec![dns.address()],
        own_names: vec!["us.test".parse().unwrap(), "alias.test".parse().unwrap()],
        own_addresses: vec![US.parse().unwrap(), "::ffff:192.0.2.7".parse().unwrap()],
        attempts: 1,
        ..DnsOptions::default()
    })
    .unwrap()
}

/// The hosts with their first addresses, or the reply's codes.
fn shown(plan: Result<HopPlan, PlanError>) -> String {
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

/// A domain, its MX records, and what comes of it.
type World = (&'static str, &'static [(u16, &'static str)], &'static str);

const WORLDS: [World; 13] = [
    ("plain.test", &[(10, "other.test")], "other.test[192.0.2.2]"),
    ("null.test", &[(0, ".")], "556 5.1.10"),
    ("dangling.test", &[(10, "gone.test")], "550 5.4.4"),
    ("later.test", &[(10, "failing.test")], "451 4.4.3"),
    (
        "part.test",
        &[(10, "failing.test"), (20, "other.test")],
        "other.test[192.0.2.2]",
    ),
    (
        "us-best.test",
        &[(10, "us.test"), (20, "other.test")],
        "550 5.4.6",
    ),
    (
        "us-nat.test",
        &[(10, "nat.test"), (20, "other.test")],
        "550 5.4.6",
    ),
    // Our name counts, whether its addresses are known or not.
    (
        "us-gone.test",
        &[(10, "alias.test"), (20, "other.test")],
        "550 5.4.6",
    ),
    (
        "us-equal.test",
        &[(10, "us.test"), (10, "other.test")],
        "550 5.4.6",
    ),
    // Those behind us do not count, whether they can be looked up or not.
    (
        "us-then-failing.test",
        &[(10, "us.test"), (20, "failing.test")],
        "550 5.4.6",
    ),
    (
        "us-second.test",
        &[(10, "other.test"), (20, "us.test"), (30, "failing.test")],
        "other.test[192.0.2.2]",
    ),
    // A better one may come back.
    (
        "failing-then-us.test",
        &[(10, "failing.test"), (20, "us.test")],
        "451 4.4.3",
    ),
    // One that does not exist will not.
    (
        "gone-then-us.test",
        &[(10, "gone.test"), (20, "alias.test")],
        "550 5.4.6",
    ),
];

/// Domains without MX records.
const OTHERS: [(&str, &str); 9] = [
    ("implicit.test", "implicit.test[192.0.2.2]"),
    ("implicit-us.test", "550 5.4.6"),
    ("cname.test", "other.test[192.0.2.2]"),
    ("gone.test", "550 5.1.2"),
    ("failing.test", "451 4.4.3"),
    ("[192.0.2.2]", "[192.0.2.2][192.0.2.2]"),
    // Mail for our own addresses would come back here for ever.
    ("[192.0.2.1]", "550 5.4.6"),
    ("[192.0.2.7]", "550 5.4.6"),
    ("[IPv6:::ffff:192.0.2.1]", "550 5.4.6"),
];

#[tokio::test]
async fn by_mx() {
    let dns = TestDns::start().await;
    let resolver = resolver(&dns).await;
    dns.servfail("failing.test");
    dns.servfail("alias.test");
    dns.a("implicit.test", OTHER.parse().unwrap());
    dns.a("implicit-us.test", US.parse().unwrap());
    dns.cname("cname.test", "plain.test");
    for (domain, records, _) in WORLDS {
        for (preference, host) in records {
            dns.mx(domain, *preference, host);
        }
    }
    let all = WORLDS.map(|(domain, _, expected)| (domain, expected));
    for (domain, expected) in all.into_iter().chain(OTHERS) {
        let asked: Domain = domain.parse().unwrap();
        assert_eq!(shown(resolver.mx(&asked, 1).await), expected, "{domain}");
    }
}

#[tokio::test]
async fn a_host_that_a_route_names() {
    let dns = TestDns::start().await;
    let resolver = resolver(&dns).await;
    dns.servfail("failing.test");
    // MX records of it do not count.
    dns.mx("other.test", 10, "us.test");
    for (host, port, expected) in [
        ("other.test", 25, "other.test[192.0.2.2]"),
        ("[192.0.2.2]", 25, "[192.0.2.2][192.0.2.2]"),
        // A mistake in a configuration bounces nothing.
        ("gone.test", 25, "451 4.4.3"),
        ("failing.test", 25, "451 4.4.3"),
        ("us.test", 25, "550 5.4.6"),
        ("nat.test", 25, "550 5.4.6"),
        ("[192.0.2.1]", 25, "550 5.4.6"),
        // A filter on this host.
        ("[192.0.2.1]", 10_024, "[192.0.2.1][192.0.2.1]"),
    ] {
        let asked: Domain = host.parse().unwrap();
        assert_eq!(
            shown(resolver.host(&asked, port).await),
            expected,
            "{host}:{port}"
        );
    }
}
