//! Name servers that do it wrong, over real sockets: the mail waits, and is never bounced.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

mod kit;

use std::sync::Arc;
use std::time::Duration;

use kit::{options, plan, shown};
use postroad_routing::{DnsOptions, DnsResolver, MxLookup as _, NameServer, NoAnswer};
use postroad_tests::dns::{Fault, RecordType, TestDns};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

const LATER: &str = "451 4.4.3";
const GOOD: &str = "good.test[192.0.2.1]";

/// Each fault, and whether the answer is had all the same.
fn faults() -> [(Fault, bool); 9] {
    let other = || "other.test".to_owned();
    [
        (Fault::ServFail, false),
        (Fault::Refused, false),
        (Fault::Referral, false),
        (Fault::Silent, false),
        (Fault::TruncatedUdp, true),
        (Fault::Truncated, false),
        (Fault::OtherOwner(other()), false),
        (Fault::OtherQuestion(other()), false),
        (Fault::Garbage, false),
    ]
}

/// Tries all faults at the same time: some are only seen by waiting.
async fn each(test: impl AsyncFn(Fault, bool)) {
    let tests = faults().map(|(fault, had)| test(fault, had));
    futures_util::future::join_all(tests).await;
}

async fn world() -> TestDns {
    let dns = TestDns::start().await;
    dns.a("good.test", "192.0.2.1".parse().unwrap());
    dns.a("host.test", "192.0.2.2".parse().unwrap());
    dns.mx("domain.test", 10, "good.test");
    dns.mx("part.test", 10, "host.test");
    dns.mx("part.test", 20, "good.test");
    dns.mx("only.test", 10, "host.test");
    dns.a("implicit.test", "192.0.2.3".parse().unwrap());
    dns.cname("alias.test", "domain.test");
    dns.txt("_mta-sts.domain.test", &["v=STSv1; ", "id=1;"]);
    dns
}

#[tokio::test]
async fn of_the_domain() {
    each(async |fault, had| {
        let dns = world().await;
        let resolver = DnsResolver::new(options(&dns)).unwrap();
        for name in ["domain.test", "implicit.test", "_mta-sts.domain.test"] {
            dns.fault(name, fault.clone());
        }
        let expected = |answer: &'static str| if had { answer } else { LATER };
        assert_eq!(
            plan(&resolver, "domain.test").await,
            expected(GOOD),
            "{fault:?}"
        );
        assert_eq!(
            plan(&resolver, "alias.test").await,
            expected(GOOD),
            "{fault:?}"
        );
        assert_eq!(
            plan(&resolver, "implicit.test").await,
            expected("implicit.test[192.0.2.3]"),
            "{fault:?}"
        );
        let txt = resolver.txt("_mta-sts.domain.test").await;
        assert_eq!(txt.is_ok(), had, "{fault:?}: {txt:?}");
        assert!(had || matches!(txt, Err(NoAnswer::Failed(_))), "{txt:?}");
        // Nothing of that is kept.
        dns.heal("domain.test");
        assert_eq!(plan(&resolver, "domain.test").await, GOOD, "{fault:?}");
    })
    .await;
}

/// A name that does not exist is bounced, but not where the server does it wrong.
#[tokio::test]
async fn of_a_name_that_is_not_there() {
    each(async |fault, had| {
        let dns = world().await;
        let resolver = DnsResolver::new(options(&dns)).unwrap();
        assert_eq!(plan(&resolver, "gone.test").await, "550 5.1.2");
        // There is no record whose owner could be another.
        if !matches!(fault, Fault::OtherOwner(_)) {
            dns.fault("gone.test", fault.clone());
            let expected = if had { "550 5.1.2" } else { LATER };
            assert_eq!(plan(&resolver, "gone.test").await, expected, "{fault:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn of_a_host() {
    each(async |fault, had| {
        let dns = world().await;
        dns.fault("host.test", fault.clone());
        let resolver = DnsResolver::new(options(&dns)).unwrap();
        let host = "host.test[192.0.2.2]";
        let (part, only) = if had {
            (format!("{host} {GOOD}"), host)
        } else {
            // The mail goes where it can.
            (GOOD.to_owned(), LATER)
        };
        assert_eq!(plan(&resolver, "part.test").await, part, "{fault:?}");
        assert_eq!(plan(&resolver, "only.test").await, only, "{fault:?}");
        let named = resolver.host(&"host.test".parse().unwrap(), 25).await;
        assert_eq!(shown(named), only, "{fault:?}");
    })
    .await;
}

/// The addresses of one family are not known.
#[tokio::test]
async fn of_a_family() {
    each(async |fault, _| {
        let dns = world().await;
        dns.a("both.test", "192.0.2.4".parse().unwrap());
        dns.a("both.test", "2001:db8::4".parse().unwrap());
        dns.fault_for("both.test", RecordType::A, fault.clone());
        dns.fault_for("good.test", RecordType::AAAA, fault.clone());
        let resolver = DnsResolver::new(options(&dns)).unwrap();
        assert_eq!(plan(&resolver, "good.test").await, GOOD, "{fault:?}");
        let both = plan(&resolver, "both.test").await;
        assert!(
            both.starts_with("both.test[2001:db8::4]"),
            "{fault:?}: {both}"
        );
        // Only IPv6 is called, and of that nothing is known: there may be some.
        let v6 = DnsOptions {
            family: postroad_routing::AddressFamily::Ipv6,
            ..options(&dns)
        };
        let v6 = DnsResolver::new(v6).unwrap();
        if matches!(fault, Fault::TruncatedUdp | Fault::OtherOwner(_)) {
            assert_eq!(plan(&v6, "good.test").await, "550 5.4.4", "{fault:?}");
        } else {
            assert_eq!(plan(&v6, "good.test").await, LATER, "{fault:?}");
        }
    })
    .await;
}

/// One of two name servers does it wrong: the other is asked.
#[tokio::test]
async fn of_one_server_of_two() {
    each(async |fault, _| {
        let (bad, good) = (world().await, world().await);
        for name in ["domain.test", "good.test"] {
            bad.fault(name, fault.clone());
        }
        let mut options = options(&bad);
        options.nameservers.push(good.address().into());
        let resolver = DnsResolver::new(options).unwrap();
        assert_eq!(plan(&resolver, "domain.test").await, GOOD, "{fault:?}");
    })
    .await;
}

#[tokio::test]
async fn nobody_listens() {
    let dns = world().await;
    let mut options = options(&dns);
    options.nameservers = vec!["127.0.0.1:9".parse().unwrap()];
    let resolver = DnsResolver::new(options).unwrap();
    assert_eq!(plan(&resolver, "domain.test").await, LATER);
}

#[tokio::test]
async fn aliases_without_end() {
    let dns = world().await;
    dns.cname("a.loop.test", "b.loop.test");
    dns.cname("b.loop.test", "a.loop.test");
    let resolver = DnsResolver::new(options(&dns)).unwrap();
    assert_eq!(plan(&resolver, "a.loop.test").await, LATER);
}

#[tokio::test]
async fn it_is_asked_again() {
    let dns = world().await;
    dns.servfail("domain.test");
    let resolver = DnsResolver::new(DnsOptions {
        attempts: 2,
        ..options(&dns)
    })
    .unwrap();
    assert_eq!(plan(&resolver, "domain.test").await, LATER);
    assert!(dns.asked("domain.test", RecordType::MX) >= 3);
}

/// A server for TLS whose certificate is for `name`, and the roots to trust it.
fn tls(name: &str) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server.into(), client.into())
}

#[tokio::test]
async fn over_tls() {
    let dns = world().await;
    let (server, client) = tls("dns.test");
    let address = dns.over_tls(server).await;
    let resolver = |server: String, tls: Option<&Arc<ClientConfig>>| {
        DnsResolver::new(DnsOptions {
            nameservers: vec![server.parse::<NameServer>().unwrap()],
            tls: tls.map(Arc::clone),
            ..options(&dns)
        })
        .unwrap()
    };
    let good = resolver(format!("tls://{address}#dns.test"), Some(&client));
    assert_eq!(plan(&good, "domain.test").await, GOOD);
    assert_eq!(plan(&good, "gone.test").await, "550 5.1.2");
    dns.servfail("failing.test");
    assert_eq!(plan(&good, "failing.test").await, LATER);
    // Another name, roots that do not know it, and no TLS at all: nobody is believed.
    let plain = dns.address();
    for (server, tls) in [
        (format!("tls://{address}#other.test"), Some(&client)),
        (format!("tls://{address}#dns.test"), None),
        (format!("tls://{plain}#dns.test"), Some(&client)),
    ] {
        let resolver = resolver(server.clone(), tls);
        assert_eq!(plan(&resolver, "domain.test").await, LATER, "{server}");
    }
}

#[tokio::test]
async fn what_is_kept() {
    let dns = world().await;
    let kept = DnsResolver::new(options(&dns)).unwrap();
    let bounded = DnsResolver::new(DnsOptions {
        ttl_max: Duration::from_secs(60),
        ..options(&dns)
    })
    .unwrap();
    let longer = DnsResolver::new(DnsOptions {
        ttl_min: Duration::from_secs(60),
        ..options(&dns)
    })
    .unwrap();
    let asked = || dns.asked("domain.test", RecordType::MX);
    let ttls = async |resolver: &DnsResolver| {
        let plan = resolver
            .mx(&"domain.test".parse().unwrap(), 1)
            .await
            .unwrap();
        (
            plan.ttl.unwrap().as_secs(),
            plan.hosts[0].ttl.unwrap().as_secs(),
        )
    };
    // Whether the answer that was there before is used again.
    let is_kept = async |resolver: &DnsResolver| {
        let before = asked();
        ttls(resolver).await;
        asked() == before
    };
    // The records say that they are not to be kept.
    assert_eq!(ttls(&kept).await, (0, 0));
    assert!(!is_kept(&kept).await);
    // But at least for that long.
    assert_eq!(ttls(&longer).await, (60, 60));
    assert!(is_kept(&longer).await);

    dns.ttl(300);
    assert_eq!(ttls(&kept).await, (300, 300));
    assert!(is_kept(&kept).await);
    assert_eq!(ttls(&bounded).await, (60, 60));
    assert!(is_kept(&bounded).await);
}

/// That there is nothing is kept, too.
#[tokio::test]
async fn that_nothing_is_there_is_kept() {
    let dns = world().await;
    let kept = DnsResolver::new(options(&dns)).unwrap();
    let longer = DnsResolver::new(DnsOptions {
        ttl_min: Duration::from_secs(60),
        ..options(&dns)
    })
    .unwrap();
    let gone = async |resolver: &DnsResolver, name: &str| {
        assert_eq!(plan(resolver, name).await, "550 5.1.2");
        let before = dns.asked(name, RecordType::MX);
        assert_eq!(plan(resolver, name).await, "550 5.1.2");
        dns.asked(name, RecordType::MX) == before
    };
    assert!(!gone(&kept, "a.test").await);
    assert!(gone(&longer, "b.test").await);
    dns.ttl(300);
    assert!(gone(&kept, "c.test").await);
    let none = DnsResolver::new(DnsOptions {
        ttl_max: Duration::ZERO,
        ..options(&dns)
    })
    .unwrap();
    assert!(!gone(&none, "d.test").await);
}

#[tokio::test]
async fn texts() {
    let dns = world().await;
    dns.txt("two.test", &["one"]);
    dns.txt("two.test", &["two"]);
    dns.cname("alias-of-text.test", "two.test");
    let resolver = DnsResolver::new(options(&dns)).unwrap();
    let found = resolver.txt("_mta-sts.domain.test").await;
    assert_eq!(found.unwrap(), ["v=STSv1; id=1;"]);
    let found = resolver.txt("alias-of-text.test").await;
    assert_eq!(found.unwrap(), ["one", "two"]);
    assert_eq!(resolver.txt("gone.test").await, Err(NoAnswer::NoName));
    assert_eq!(resolver.txt("good.test").await, Err(NoAnswer::NoData));
}
