#![allow(clippy::unwrap_used, missing_docs)]
use std::time::Duration;
use postroad_routing::*;
use postroad_tests::signed_dns::SignedDns;

#[tokio::test]
async fn probe() {
    let dns = SignedDns::start().await;
    let options = DnsOptions {
        nameservers: vec![dns.address().into()],
        timeout: Duration::from_millis(300),
        attempts: 0,
        ..DnsOptions::default()
    };
    let anchor = TrustAnchor::Text(dns.trust_anchor_text());
    let secure = SecureDns::new(&options, &anchor).unwrap();
    let plain = DnsResolver::new(options).unwrap();
    for name in ["localhost", "x.localhost", "filter", "mail.local", "mail.internal", "x.invalid", "x.onion"] {
        println!("{name}: {:?} plain {:?}", secure.addresses_secure(name).await, plain.host(&name.parse().unwrap(), 25).await);
    }
}
