//! What DNSSEC vouches for, from a signed root on loopback.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::time::Duration;

use postroad_mail::{Domain, Tlsa};
use postroad_routing::{
    AddressFamily, DnsOptions, SecureDns, SecureError, Secured, TlsaAnswer, TrustAnchor,
};
use postroad_tests::dns::{Fault, TestDns};
use postroad_tests::signed_dns::SignedDns;

fn options(address: std::net::SocketAddr) -> DnsOptions {
    DnsOptions {
        nameservers: vec![address.into()],
        timeout: Duration::from_secs(1),
        attempts: 0,
        ..DnsOptions::default()
    }
}

fn resolver(dns: &SignedDns) -> SecureDns {
    SecureDns::new(
        &options(dns.address()),
        &TrustAnchor::Text(dns.trust_anchor_text()),
    )
    .unwrap()
}

fn word<T>(answer: &Result<Secured<T>, SecureError>) -> &'static str {
    match answer {
        Ok(found) if found.secure => "secure",
        Ok(_) => "insecure",
        Err(SecureError::Nothing { secure: true }) => "nothing, secure",
        Err(SecureError::Nothing { secure: false }) => "nothing, insecure",
        Err(_) => "failed",
    }
}

fn tlsa_word(answer: &TlsaAnswer) -> &'static str {
    match answer {
        TlsaAnswer::Secure(_) => "secure",
        TlsaAnswer::None { secure: true } => "nothing, secure",
        TlsaAnswer::None { secure: false } => "nothing, insecure",
        TlsaAnswer::Failed(_) => "failed",
    }
}

/// A zone; what its MX, addresses and TLSA records are; what a name without any is.
const ZONES: [(&str, &str, &str); 3] = [
    ("secure", "secure", "nothing, secure"),
    ("insecure", "insecure", "nothing, insecure"),
    ("bogus", "failed", "failed"),
];

#[tokio::test]
async fn zones() {
    let dns = SignedDns::start().await;
    for (zone, _, _) in ZONES {
        dns.mx(&format!("example.{zone}"), 10, &format!("mail.{zone}"));
        dns.a(&format!("mail.{zone}"), "192.0.2.1".parse().unwrap());
        dns.a(&format!("mail.{zone}"), "2001:db8::1".parse().unwrap());
        dns.tlsa(&format!("mail.{zone}"), 25, 3, 1, 1, vec![7; 32]);
    }
    let resolver = resolver(&dns);
    resolver.self_check().await.unwrap();
    for (zone, there, not_there) in ZONES {
        let domain: Domain = format!("example.{zone}").parse().unwrap();
        let host = format!("mail.{zone}");
        // Twice: the cache says the same.
        for _ in 0..2 {
            let mx = resolver.mx_secure(&domain).await;
            assert_eq!(word(&mx), there, "{mx:?}");
            let addresses = resolver.addresses_secure(&host).await;
            assert_eq!(word(&addresses), there, "{addresses:?}");
            let tlsa = resolver.tlsa(&format!("_25._tcp.{host}")).await;
            let expected = if zone == "insecure" { not_there } else { there };
            assert_eq!(tlsa_word(&tlsa), expected, "{tlsa:?}");
            // A name that does not exist, and one that has other records.
            for name in [format!("gone.{zone}"), host.clone()] {
                let mx = resolver.mx_secure(&name.parse().unwrap()).await;
                assert_eq!(word(&mx), not_there, "{name}: {mx:?}");
                let tlsa = resolver.tlsa(&name).await;
                assert_eq!(tlsa_word(&tlsa), not_there, "{name}: {tlsa:?}");
            }
            for name in [
                format!("_26._tcp.{host}"),
                format!("_tcp.{host}"),
                format!("_25._tcp.example.{zone}"),
                format!("_25._tcp.gone.{zone}"),
                format!("a.b.c.gone.{zone}"),
            ] {
                let tlsa = resolver.tlsa(&name).await;
                assert_eq!(tlsa_word(&tlsa), not_there, "{name}: {tlsa:?}");
            }
            let gone = resolver.addresses_secure(&format!("gone.{zone}")).await;
            assert_eq!(word(&gone), not_there, "{gone:?}");
        }
    }
}

#[tokio::test]
async fn what_is_found() {
    let dns = SignedDns::start().await;
    dns.mx("example.secure", 10, "Mail.secure");
    dns.mx("example.secure", 20, "other.secure");
    dns.mx("null.secure", 0, ".");
    dns.a("mail.secure", "192.0.2.1".parse().unwrap());
    dns.a("mail.secure", "2001:db8::1".parse().unwrap());
    dns.tlsa("mail.secure", 25, 3, 1, 1, vec![7; 32]);
    dns.tlsa("mail.secure", 25, 2, 0, 2, vec![9; 64]);
    let resolver = resolver(&dns);

    let mx = resolver
        .mx_secure(&"example.secure".parse().unwrap())
        .await
        .unwrap();
    let mut hosts = mx.value;
    hosts.sort();
    assert_eq!(
        hosts,
        [(10, "mail.secure".into()), (20, "other.secure".into())]
    );
    assert_eq!(mx.ttl, Duration::from_secs(300));
    let null = resolver
        .mx_secure(&"null.secure".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(null.value, [(0, String::new())]);

    let addresses = resolver.addresses_secure("mail.secure").await.unwrap();
    let shown: Vec<_> = addresses.value.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["2001:db8::1", "192.0.2.1"]);
    assert_eq!(
        (addresses.name.as_str(), addresses.origin_secure),
        ("mail.secure", true)
    );
    let v4 = SecureDns::new(
        &DnsOptions {
            family: AddressFamily::Ipv4,
            ..options(dns.address())
        },
        &TrustAnchor::Text(dns.trust_anchor_text()),
    )
    .unwrap();
    let addresses = v4.addresses_secure("mail.secure").await.unwrap();
    assert_eq!(addresses.value.len(), 1);

    let TlsaAnswer::Secure(mut records) = resolver.tlsa("_25._tcp.mail.secure").await else {
        panic!("no records");
    };
    records.sort_by_key(|record| record.usage);
    let record = |usage, selector, matching, data| Tlsa {
        usage,
        selector,
        matching,
        data,
    };
    assert_eq!(
        records,
        [record(2, 0, 2, vec![9; 64]), record(3, 1, 1, vec![7; 32])]
    );
    let endless = format!("_25._tcp.{}", "a.".repeat(130));
    assert_eq!(
        resolver.tlsa(&endless).await,
        TlsaAnswer::None { secure: false }
    );
}

/// RFC 7672 section 2.2.3: where aliases lead, and which names may have TLSA records.
#[tokio::test]
async fn aliases() {
    let dns = SignedDns::start().await;
    for zone in ["secure", "insecure", "bogus"] {
        dns.a(&format!("real.{zone}"), "192.0.2.1".parse().unwrap());
        for to in ["secure", "insecure", "bogus"] {
            dns.cname(&format!("to-{to}.{zone}"), &format!("real.{to}"));
        }
    }
    dns.cname("twice.secure", "to-secure.secure");
    dns.tlsa("real.secure", 25, 3, 1, 1, vec![7; 32]);
    dns.cname("_25._tcp.alias.secure", "_25._tcp.real.secure");
    dns.cname("_25._tcp.away.secure", "_25._tcp.real.insecure");
    dns.tlsa("real.insecure", 25, 3, 1, 1, vec![7; 32]);
    let resolver = resolver(&dns);
    for (alias, expected, name, origin) in [
        ("to-secure.secure", "secure", "real.secure", true),
        ("twice.secure", "secure", "real.secure", true),
        ("to-insecure.secure", "insecure", "real.insecure", true),
        ("to-secure.insecure", "insecure", "real.secure", false),
        ("to-insecure.insecure", "insecure", "real.insecure", false),
    ] {
        let found = resolver.addresses_secure(alias).await;
        assert_eq!(word(&found), expected, "{alias}: {found:?}");
        let found = found.unwrap();
        assert_eq!(
            (found.name.as_str(), found.origin_secure),
            (name, origin),
            "{alias}"
        );
    }
    for alias in ["to-bogus.secure", "to-bogus.insecure", "to-secure.bogus"] {
        let found = resolver.addresses_secure(alias).await;
        assert_eq!(word(&found), "failed", "{alias}: {found:?}");
    }
    let tlsa = resolver.tlsa("_25._tcp.alias.secure").await;
    assert_eq!(tlsa_word(&tlsa), "secure", "{tlsa:?}");
    // Records that are not signed do not count, wherever the alias is.
    let tlsa = resolver.tlsa("_25._tcp.away.secure").await;
    assert_eq!(tlsa, TlsaAnswer::None { secure: false });
}

/// Whoever can drop packets cannot switch DANE off.
#[tokio::test]
async fn what_is_not_known_is_no_no() {
    let dns = SignedDns::start().await;
    dns.a("mail.secure", "192.0.2.1".parse().unwrap());
    dns.tlsa("mail.secure", 25, 3, 1, 1, vec![7; 32]);
    dns.a("later.secure", "192.0.2.1".parse().unwrap());
    dns.tlsa("later.secure", 25, 3, 1, 1, vec![7; 32]);
    dns.a("mail.insecure", "192.0.2.1".parse().unwrap());
    dns.servfail("_25._tcp.mail.secure");
    dns.silent("_25._tcp.later.secure");
    let resolver = resolver(&dns);
    for host in ["mail.secure", "later.secure"] {
        let addresses = resolver.addresses_secure(host).await;
        assert_eq!(word(&addresses), "secure", "{addresses:?}");
        let tlsa = resolver.tlsa(&format!("_25._tcp.{host}")).await;
        assert_eq!(tlsa_word(&tlsa), "failed", "{tlsa:?}");
    }
}

/// Whoever can change packets cannot, either.
#[tokio::test]
async fn what_is_changed_on_the_way() {
    for fault in [
        Fault::Unsigned,
        Fault::Denied,
        // A zone that need not sign its denial, and is not the one that was asked.
        Fault::DeniedBy("insecure".to_owned(), false),
        Fault::DeniedBy("insecure".to_owned(), true),
        Fault::DeniedBy("secure".to_owned(), false),
        Fault::AliasOf("nothing.insecure".to_owned(), "insecure".to_owned()),
        Fault::OtherOwner("mail.insecure".to_owned()),
        Fault::Truncated,
        Fault::Referral,
    ] {
        let dns = SignedDns::start().await;
        for zone in ["secure", "insecure"] {
            dns.mx(&format!("example.{zone}"), 10, &format!("mail.{zone}"));
            dns.a(&format!("mail.{zone}"), "192.0.2.1".parse().unwrap());
        }
        dns.tlsa("mail.secure", 25, 3, 1, 1, vec![7; 32]);
        for name in ["example.secure", "mail.secure", "_25._tcp.mail.secure"] {
            dns.fault(name, fault.clone());
        }
        let resolver = resolver(&dns);
        let domain = "example.secure".parse().unwrap();
        let mx = resolver.mx_secure(&domain).await;
        assert_eq!(word(&mx), "failed", "{fault:?}: {mx:?}");
        let addresses = resolver.addresses_secure("mail.secure").await;
        assert_eq!(word(&addresses), "failed", "{fault:?}: {addresses:?}");
        let tlsa = resolver.tlsa("_25._tcp.mail.secure").await;
        assert_eq!(tlsa_word(&tlsa), "failed", "{fault:?}: {tlsa:?}");
        // Where there are no signatures, none are missed.
        dns.fault("mail.insecure", Fault::Unsigned);
        let addresses = resolver.addresses_secure("mail.insecure").await;
        assert_eq!(word(&addresses), "insecure", "{addresses:?}");
        // And all is well again.
        dns.heal("_25._tcp.mail.secure");
        let tlsa = resolver.tlsa("_25._tcp.mail.secure").await;
        assert_eq!(tlsa_word(&tlsa), "secure", "{fault:?}: {tlsa:?}");
    }
}

/// An alias with a signature says nothing of what is behind it.
#[tokio::test]
async fn behind_an_alias_nothing_can_be_hidden() {
    let dns = SignedDns::start().await;
    dns.cname("_25._tcp.mail.secure", "_25._tcp.dane.secure");
    dns.tlsa("dane.secure", 25, 3, 1, 1, vec![7; 32]);
    dns.fault("_25._tcp.mail.secure", Fault::AliasAlone);
    let tlsa = resolver(&dns).tlsa("_25._tcp.mail.secure").await;
    assert_eq!(tlsa_word(&tlsa), "secure", "{tlsa:?}");
    let denied = Fault::DeniedBy("insecure".to_owned(), false);
    dns.fault("_25._tcp.dane.secure", denied);
    let tlsa = resolver(&dns).tlsa("_25._tcp.mail.secure").await;
    assert_eq!(tlsa_word(&tlsa), "failed", "{tlsa:?}");
}

/// That a zone is not signed must be signed by the zone above it.
#[tokio::test]
async fn a_zone_is_not_taken_for_unsigned() {
    for fault in [Fault::Unsigned, Fault::Denied, Fault::ServFail] {
        let dns = SignedDns::start().await;
        dns.a("mail.secure", "192.0.2.1".parse().unwrap());
        dns.tlsa("mail.secure", 25, 3, 1, 1, vec![7; 32]);
        // Its keys, and that there is a DS record; and what is at the names themselves.
        for name in ["secure", "mail.secure", "_25._tcp.mail.secure"] {
            dns.fault(name, fault.clone());
        }
        let resolver = resolver(&dns);
        let addresses = resolver.addresses_secure("mail.secure").await;
        assert_eq!(word(&addresses), "failed", "{fault:?}: {addresses:?}");
        let tlsa = resolver.tlsa("_25._tcp.mail.secure").await;
        assert_eq!(tlsa_word(&tlsa), "failed", "{fault:?}: {tlsa:?}");
    }
}

/// The keys of a zone, or that it has none, cannot be had.
#[tokio::test]
async fn keys_that_are_missing() {
    let worlds = ["secure", "insecure", ""].map(async |silent| {
        let dns = SignedDns::start().await;
        for zone in ["secure", "insecure"] {
            dns.a(&format!("mail.{zone}"), "192.0.2.1".parse().unwrap());
            dns.tlsa(&format!("mail.{zone}"), 25, 3, 1, 1, vec![7; 32]);
        }
        dns.silent(silent);
        let resolver = resolver(&dns);
        for zone in ["secure", "insecure"] {
            if silent == zone || silent.is_empty() {
                let addresses = resolver.addresses_secure(&format!("mail.{zone}")).await;
                assert_eq!(word(&addresses), "failed", "{silent}: {addresses:?}");
                let tlsa = resolver.tlsa(&format!("_25._tcp.mail.{zone}")).await;
                assert_eq!(tlsa_word(&tlsa), "failed", "{silent}: {tlsa:?}");
            }
        }
    });
    futures_util::future::join_all(worlds).await;
}

#[tokio::test]
async fn behind_a_server_that_knows_no_signatures() {
    let dns = TestDns::start().await;
    dns.a("mail.secure", "192.0.2.1".parse().unwrap());
    let signed = SignedDns::start().await;
    let anchor = TrustAnchor::Text(signed.trust_anchor_text());
    let resolver = SecureDns::new(&options(dns.address()), &anchor).unwrap();
    let error = resolver.self_check().await.unwrap_err().to_string();
    assert!(error.contains("SOA of .:"), "{error}");
    let addresses = resolver.addresses_secure("mail.secure").await;
    assert_eq!(word(&addresses), "failed", "{addresses:?}");
}

/// Another root than the one that is trusted.
#[tokio::test]
async fn another_root() {
    let (dns, other) = (SignedDns::start().await, SignedDns::start().await);
    dns.a("mail.secure", "192.0.2.1".parse().unwrap());
    let anchor = TrustAnchor::Text(other.trust_anchor_text());
    for anchor in [anchor, TrustAnchor::Root] {
        let resolver = SecureDns::new(&options(dns.address()), &anchor).unwrap();
        resolver.self_check().await.unwrap_err();
        let addresses = resolver.addresses_secure("mail.secure").await;
        assert_eq!(word(&addresses), "failed", "{addresses:?}");
    }
}

#[tokio::test]
async fn anchors() {
    let dns = SignedDns::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root.key");
    std::fs::write(&path, dns.trust_anchor_text()).unwrap();
    let resolver = SecureDns::new(&options(dns.address()), &TrustAnchor::File(path)).unwrap();
    resolver.self_check().await.unwrap();

    let gone = directory.path().join("gone");
    for anchor in [
        TrustAnchor::File(gone),
        TrustAnchor::Text(String::new()),
        TrustAnchor::Text("example. IN DNSKEY nonsense".to_owned()),
    ] {
        let error = SecureDns::new(&options(dns.address()), &anchor).unwrap_err();
        assert!(error.to_string().contains("trust anchor"), "{error}");
    }
}
