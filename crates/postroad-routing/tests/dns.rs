//! Hosts and addresses from a real name server on loopback.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

mod kit;

use std::net::IpAddr;

use kit::{options, plan, shown};
use postroad_mail::Domain;
use postroad_routing::{
    AddressFamily, DnsOptions, DnsResolver, HOSTS_MAX, HopPlan, MxLookup as _, PlanError,
};
use postroad_tests::dns::TestDns;

const US: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

/// We are `us.test` and 192.0.2.1; 192.0.2.2 is somebody else.
async fn resolver(dns: &TestDns) -> DnsResolver {
    dns.a("us.test", US.parse().unwrap());
    dns.a("nat.test", "::ffff:192.0.2.1".parse().unwrap());
    dns.a("other.test", OTHER.parse().unwrap());
    DnsResolver::new(DnsOptions {
        nameservers: vec![dns.address().into()],
        own_names: vec!["us.test".parse().unwrap(), "alias.test".parse().unwrap()],
        own_addresses: vec![US.parse().unwrap(), "::ffff:192.0.2.7".parse().unwrap()],
        attempts: 1,
        ..DnsOptions::default()
    })
    .unwrap()
}

/// Bound to all addresses of the machine, it takes mail at every one of 127.0.0.0/8; else only at
/// those that are named.
#[tokio::test]
async fn every_loopback_address_may_be_us() {
    let dns = TestDns::start().await;
    dns.mx("back.test", 10, "loopback.test");
    dns.a("loopback.test", "127.0.0.2".parse().unwrap());
    for own_loopback in [true, false] {
        let options = DnsOptions {
            nameservers: vec![dns.address().into()],
            own_loopback,
            ..DnsOptions::default()
        };
        let resolver = DnsResolver::new(options).unwrap();
        let plan = resolver.mx(&"back.test".parse().unwrap(), 1).await;
        match plan {
            Ok(_) => assert!(!own_loopback),
            Err(PlanError::Permanent(reply)) => {
                assert!(own_loopback && reply.to_string().starts_with("550 5.4.6"));
            }
            Err(error) => panic!("{error}"),
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

/// The plan for a domain that has one.
async fn planned(resolver: &DnsResolver, domain: &str) -> HopPlan {
    resolver.mx(&domain.parse().unwrap(), 1).await.unwrap()
}

#[tokio::test]
async fn a_mail_exchanger_that_is_an_alias() {
    let dns = TestDns::start().await;
    let resolver = resolver(&dns).await;
    dns.cname("alias-of-other.test", "second.test");
    dns.cname("second.test", "other.test");
    dns.cname("alias-of-us.test", "us.test");
    dns.cname("alias-of-gone.test", "gone.test");
    dns.mx("aliased.test", 10, "alias-of-other.test");
    let plan = planned(&resolver, "aliased.test").await;
    // TLS and DANE go by the name that the MX record has.
    assert_eq!(plan.hosts[0].name.ascii(), "alias-of-other.test");
    assert_eq!(plan.hosts[0].addresses, [OTHER.parse::<IpAddr>().unwrap()]);
    assert_eq!(
        plan.warnings,
        [
            "the mail exchanger alias-of-other.test is an alias of other.test (RFC 2181 section 10.3)"
        ]
    );
    dns.mx("aliased-gone.test", 10, "alias-of-gone.test");
    assert_eq!(kit::plan(&resolver, "aliased-gone.test").await, "550 5.4.4");
    dns.mx("aliased-us.test", 10, "alias-of-us.test");
    assert_eq!(kit::plan(&resolver, "aliased-us.test").await, "550 5.4.6");
}

#[tokio::test]
async fn what_is_odd_is_told() {
    let dns = TestDns::start().await;
    let resolver = resolver(&dns).await;
    dns.mx("plain.test", 10, "other.test");
    assert_eq!(planned(&resolver, "plain.test").await.warnings, [""; 0]);

    for (domain, odd, told) in [
        (
            "address.test",
            "192.0.2.9",
            "`192.0.2.9` is no name of a host",
        ),
        ("null.test", ".", "a null MX beside other mail exchangers"),
        ("gone-first.test", "gone.test", "gone.test has no address"),
        (
            "failing-first.test",
            "failing.test",
            "failing.test is left out",
        ),
        (
            "nowhere-first.test",
            "nowhere.test",
            "nowhere.test has no address",
        ),
    ] {
        dns.servfail("failing.test");
        dns.a("nowhere.test", "0.0.0.0".parse().unwrap());
        dns.mx(domain, 5, odd);
        dns.mx(domain, 10, "other.test");
        let plan = planned(&resolver, domain).await;
        assert_eq!(plan.hosts.len(), 1, "{domain}");
        assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
        assert!(plan.warnings[0].contains(told), "{:?}", plan.warnings);
    }
    // Nobody is left.
    dns.mx("only-address.test", 5, "192.0.2.9");
    assert_eq!(plan(&resolver, "only-address.test").await, "550 5.4.4");
    dns.mx("only-nowhere.test", 5, "nowhere.test");
    assert_eq!(plan(&resolver, "only-nowhere.test").await, "550 5.4.4");
}

#[tokio::test]
async fn many_mail_exchangers() {
    let dns = TestDns::start().await;
    let resolver = resolver(&dns).await;
    for n in 0..30 {
        let host = format!("h{n}.test");
        dns.a(&host, OTHER.parse().unwrap());
        dns.mx("many.test", n, &host);
        // Each a second time, as a worse one.
        dns.mx("many.test", 100 + n, &host);
    }
    let plan = planned(&resolver, "many.test").await;
    let preferences: Vec<_> = plan.hosts.iter().map(|host| host.preference).collect();
    let expected: Vec<_> = (0..20).map(Some).collect();
    assert_eq!(preferences, expected);
    assert_eq!(plan.hosts.len(), HOSTS_MAX);
    assert_eq!(
        plan.warnings,
        ["10 of 30 mail exchangers are not tried: they are too many"]
    );
}

#[tokio::test]
async fn both_families_in_turn() {
    let dns = TestDns::start().await;
    for address in ["192.0.2.8", "192.0.2.9", "2001:db8::8"] {
        dns.a("both.test", address.parse().unwrap());
    }
    dns.a("v4.test", "192.0.2.8".parse().unwrap());
    for (family, expected, v4) in [
        (
            AddressFamily::Any,
            "2001:db8::8 192.0.2.8 192.0.2.9",
            "v4.test[192.0.2.8]",
        ),
        (
            AddressFamily::Ipv4,
            "192.0.2.8 192.0.2.9",
            "v4.test[192.0.2.8]",
        ),
        (AddressFamily::Ipv6, "2001:db8::8", "550 5.4.4"),
    ] {
        let resolver = DnsResolver::new(DnsOptions {
            family,
            ..options(&dns)
        })
        .unwrap();
        let host = planned(&resolver, "both.test").await.hosts.remove(0);
        let addresses: Vec<_> = host.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses.join(" "), expected);
        assert_eq!(plan(&resolver, "v4.test").await, v4);
    }
}
