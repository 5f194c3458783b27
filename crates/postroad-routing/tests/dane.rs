//! What DANE asks of hosts, by a signed root on loopback, a validating resolver, and
//! [`SecurityPolicies`] on it.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::sync::Arc;
use std::time::Duration;

use postroad_mail::{Domain, Timestamp};
use postroad_routing::{
    DnsOptions, Host, HostSecurity, PolicyKind, PolicyMode, Requirement, SecureDns,
    SecurityLookup as _, SecurityPolicies, TrustAnchor,
};
use postroad_tests::signed_dns::SignedDns;

fn policies(dns: &SignedDns, mode: PolicyMode) -> SecurityPolicies {
    let options = DnsOptions {
        nameservers: vec![dns.address().into()],
        timeout: Duration::from_millis(300),
        attempts: 0,
        ..DnsOptions::default()
    };
    let anchor = TrustAnchor::Text(dns.trust_anchor_text());
    let secure = SecureDns::new(&options, &anchor).unwrap();
    let now = Timestamp::from_millis(1);
    SecurityPolicies::new(mode, Some(Arc::new(secure)), None, Arc::new(move || now))
}

async fn ask(policies: &SecurityPolicies, domain: &str, host: &str) -> HostSecurity {
    let domain: Option<Domain> = (!domain.is_empty()).then(|| domain.parse().unwrap());
    let host = Host {
        name: host.parse().unwrap(),
        preference: None,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        ttl: None,
    };
    policies.security(domain.as_ref(), &host, 25).await
}

/// `dane 3 1 1, 2 0 1: names`, `none`, `encrypted` or `unusable`.
fn shown(security: &HostSecurity) -> String {
    match &security.requirement {
        Requirement::None => {
            assert_eq!(security.policy, PolicyKind::NoPolicyFound);
            "none".to_owned()
        }
        Requirement::Encrypted => "encrypted".to_owned(),
        Requirement::Valid => "valid".to_owned(),
        Requirement::Unusable(reply) => {
            assert_eq!(security.policy_failure.as_deref(), Some("dnssec-invalid"));
            assert!(
                reply.to_string().starts_with("451 4.7.5 DANE cannot be"),
                "{reply}"
            );
            "unusable".to_owned()
        }
        Requirement::Dane { records, names } => {
            assert_eq!(security.policy, PolicyKind::Tlsa);
            let records: Vec<_> = records
                .iter()
                .map(|r| format!("{}{}{}", r.usage, r.selector, r.matching))
                .collect();
            format!("dane {}: {}", records.join(","), names.join(" "))
        }
    }
}

/// Hosts of all kinds, named by the MX records of a domain in each zone.
fn fill(dns: &SignedDns) {
    let address = "192.0.2.1".parse().unwrap();
    for host in [
        "mx.secure",
        "plain.secure",
        "old.secure",
        "failing.secure",
        "silent.secure",
        "real.secure",
        "alone.secure",
        "mx.insecure",
        "real.insecure",
        "mx.bogus",
    ] {
        dns.a(host, address);
    }
    for host in [
        "mx.secure",
        "real.secure",
        "alone.secure",
        "failing.secure",
        "silent.secure",
        "mx.insecure",
        "out.secure",
        "mx.bogus",
        "hidden.secure",
    ] {
        dns.tlsa(host, 25, 3, 1, 1, vec![7; 32]);
    }
    dns.tlsa("mx.secure", 25, 2, 0, 1, vec![7; 32]);
    dns.tlsa("mx.secure", 25, 1, 1, 1, vec![7; 32]);
    dns.tlsa("old.secure", 25, 0, 1, 1, vec![7; 32]);
    dns.tlsa("old.secure", 25, 3, 1, 1, vec![7; 31]);
    dns.cname("alias.secure", "real.secure");
    dns.cname("self.secure", "real.secure");
    dns.cname("out.secure", "real.insecure");
    dns.servfail("_25._tcp.failing.secure");
    dns.silent("_25._tcp.silent.secure");
    for domain in ["d.secure", "d.insecure", "d.bogus"] {
        for host in [
            "mx.secure",
            "plain.secure",
            "old.secure",
            "failing.secure",
            "silent.secure",
            "alias.secure",
            "out.secure",
            "mx.insecure",
            "mx.bogus",
            "hidden.secure",
            "localhost",
        ] {
            dns.mx(domain, 10, host);
        }
    }
}

#[tokio::test]
async fn as_rfc_7672_has_it() {
    let dns = SignedDns::start().await;
    fill(&dns);
    let policies = policies(&dns, PolicyMode::Enforce);
    for (domain, host, expected) in [
        ("d.secure", "mx.secure", "dane 311,201: mx.secure d.secure"),
        // No records; none that are usable; some that cannot be had.
        ("d.secure", "plain.secure", "none"),
        ("d.secure", "old.secure", "encrypted"),
        ("d.secure", "failing.secure", "unusable"),
        ("d.secure", "silent.secure", "unusable"),
        // An alias, with records at the other name.
        ("d.secure", "alias.secure", "dane 311: real.secure d.secure"),
        // An alias out of the signed world, with records at its own name.
        ("d.secure", "out.secure", "dane 311: out.secure d.secure"),
        // A host that nobody has signed: its records do not count.
        ("d.secure", "mx.insecure", "none"),
        ("d.secure", "mx.bogus", "unusable"),
        // The same hosts, named by records that nobody has signed, or the wrong one has.
        ("d.insecure", "mx.secure", "none"),
        ("d.insecure", "mx.bogus", "none"),
        ("d.bogus", "mx.secure", "unusable"),
        // A host that the signed records do not name: somebody has forged the others.
        ("d.secure", "real.secure", "unusable"),
        ("alone.secure", "mx.secure", "unusable"),
        // The domain is its own host.
        ("alone.secure", "alone.secure", "dane 311: alone.secure"),
        // A route names the host.
        ("", "mx.secure", "dane 311,201: mx.secure"),
        ("", "mx.insecure", "none"),
        ("", "mx.bogus", "unusable"),
        ("", "alias.secure", "dane 311: real.secure alias.secure"),
        // One that is in no DNS, but in a hosts file, or is this machine: nobody can vouch for it.
        ("", "nowhere.secure", "none"),
        ("", "localhost", "none"),
        ("", "filter.localhost", "none"),
        ("", "relay.internal", "none"),
        ("", "relay.Local", "none"),
        ("", "box.home.arpa", "none"),
        ("d.secure", "localhost", "unusable"),
        // In no DNS by its address, but with records: they hold.
        ("", "hidden.secure", "dane 311: hidden.secure"),
        ("d.secure", "hidden.secure", "unusable"),
        // The domain is its own host, by an alias.
        (
            "self.secure",
            "self.secure",
            "dane 311: real.secure self.secure",
        ),
        ("", "[192.0.2.1]", "none"),
    ] {
        let security = ask(&policies, domain, host).await;
        let came = shown(&security);
        assert_eq!(came, expected, "{domain}, {host}: {security:?}");
        assert!(security.enforced && !security.reasons.is_empty());
    }
}

#[tokio::test]
async fn reasons_and_what_reports_quote() {
    let dns = SignedDns::start().await;
    dns.mx("d.secure", 10, "mx.secure");
    dns.a("mx.secure", "192.0.2.1".parse().unwrap());
    dns.tlsa("mx.secure", 25, 3, 1, 1, vec![0xab; 32]);
    dns.tlsa("mx.secure", 25, 0, 0, 1, vec![0xab; 32]);
    let security = ask(
        &policies(&dns, PolicyMode::Enforce),
        "d.secure",
        "mx.secure",
    )
    .await;
    assert_eq!(
        security.reasons,
        ["DANE: 2 TLSA records at _25._tcp.mx.secure, 1 of them usable"]
    );
    let mut quoted = security.policy_strings;
    quoted.sort();
    let data = "ab".repeat(32);
    assert_eq!(quoted, [format!("0 0 1 {data}"), format!("3 1 1 {data}")]);
}

#[tokio::test]
async fn observed_and_off() {
    let dns = SignedDns::start().await;
    dns.mx("d.secure", 10, "mx.secure");
    dns.a("mx.secure", "192.0.2.1".parse().unwrap());
    dns.tlsa("mx.secure", 25, 3, 1, 1, vec![7; 32]);
    let security = ask(
        &policies(&dns, PolicyMode::Observe),
        "d.secure",
        "mx.secure",
    )
    .await;
    assert_eq!(shown(&security), "dane 311: mx.secure d.secure");
    assert!(!security.enforced);
    let off = policies(&dns, PolicyMode::Off);
    assert_eq!(
        ask(&off, "d.secure", "mx.secure").await,
        HostSecurity::none()
    );
}
