//! Who vouches for a next hop: DANE, MTA-STS, REQUIRETLS, with signed zones, a policy server and
//! certificates of the test's own.

use std::net::SocketAddr;
use std::sync::Arc;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::dns::TestDns;
use postroad_tests::hop::{Authority, Hop, Identity, Language, Script};
use postroad_tests::policies::PolicyServer;
use postroad_tests::process::loopback;
use postroad_tests::signed_dns::SignedDns;
use postroad_tests::site::{Settings, Site};

use crate::world::{Names, World};

/// A world whose next hops have certificates of one authority.
struct Vouched<D> {
    world: World<D>,
    authority: Authority,
}

impl Vouched<SignedDns> {
    /// With a DNS that is signed, from a root that the relay trusts.
    async fn signed(delivery: &str) -> Self {
        let dns = SignedDns::start().await;
        let site = Site::new();
        std::fs::write(site.path("root.key"), dns.trust_anchor_text()).unwrap();
        Self::with(site, dns, delivery, "trust_anchor = \"root.key\"").await
    }
}

impl Vouched<TestDns> {
    async fn unsigned(delivery: &str) -> Self {
        let dns = TestDns::start().await;
        Self::with(Site::new(), dns, delivery, "dnssec = \"off\"").await
    }
}

impl<D: Names> Vouched<D> {
    async fn with(site: Site, dns: D, delivery: &str, resolver: &str) -> Self {
        let authority = Authority::new().unwrap();
        authority.write(&site.path("root.pem")).unwrap();
        let delivery = format!("retry = [\"1s\"]\nauthorities = [\"root.pem\"]\n{delivery}");
        let settings = Settings {
            delivery: &delivery,
            dns: resolver,
            ..Settings::default()
        };
        let world = World::with(site, dns, settings).await;
        Self { world, authority }
    }

    /// A domain with a policy, its one host, and the server of the policy.
    async fn policy(&self, domain: &str, mode: &str, script: &str) -> (Hop, PolicyServer) {
        let server = self.serve_policy(domain, mode).await;
        (self.host(domain, script).await.0, server)
    }

    /// A policy for a domain (RFC 8461), and its server.
    async fn serve_policy(&self, domain: &str, mode: &str) -> PolicyServer {
        let dns = &self.world.dns;
        let server = format!("mta-sts.{domain}");
        let address = loopback();
        dns.a(&server, address);
        dns.txt(&format!("_mta-sts.{domain}"), "v=STSv1; id=20240101;");
        let policy =
            format!("version: STSv1\r\nmode: {mode}\r\nmx: mx.{domain}\r\nmax_age: 86400\r\n");
        let (tls, _) = self.authority.acceptor(&server).unwrap();
        PolicyServer::start(address, &server, tls, policy).await
    }

    /// A domain with one host: a hop, and its good certificate.
    async fn host(&self, domain: &str, script: &str) -> (Hop, Vec<u8>) {
        self.host_as(&format!("mx.{domain}"), domain, script).await
    }

    /// The same with a certificate for that name.
    async fn host_as(&self, name: &str, domain: &str, script: &str) -> (Hop, Vec<u8>) {
        let host = format!("mx.{domain}");
        let identity = Identity::new(name, &self.authority).unwrap();
        let certificate = identity.certificate().to_vec();
        let address = SocketAddr::new(loopback(), self.world.port());
        self.world.dns.mx(domain, 10, &host);
        self.world.dns.a(&host, address.ip());
        let script: Script = script.parse().unwrap();
        let hop = Hop::start(address, Language::Smtp, script, Arc::new(identity)).await;
        (hop, certificate)
    }

    async fn send(&self, domain: &str) {
        self.world.send(&[&format!("<bob@{domain}>")], "").await;
    }

    async fn deferred(&self, domain: &str) -> String {
        self.world
            .log(&["deferred", &format!("bob@{domain}")])
            .await
    }

    async fn delivered(&self, domain: &str) -> String {
        self.world
            .log(&["delivered", &format!("bob@{domain}")])
            .await
    }

    /// Sends one with REQUIRETLS, which is offered under TLS only.
    async fn send_requiring(&self, domain: &str) {
        let mut dialogue = Dialogue::open(self.world.address).await.unwrap();
        dialogue.say("STARTTLS", "220").await.unwrap();
        let mut dialogue = dialogue.tls().await.unwrap();
        let offered = dialogue.say("EHLO client.test", "250").await.unwrap();
        assert!(offered.contains("REQUIRETLS"), "{offered}");
        for (line, reply) in [
            (
                format!("MAIL FROM:<me@{}> REQUIRETLS", D::SENDER),
                "250 2.1.0",
            ),
            (format!("RCPT TO:<bob@{domain}>"), "250 2.1.5"),
            ("DATA".to_owned(), "354"),
            ("Subject: secret\r\n\r\nhello\r\n.".to_owned(), "250 2.0.0"),
            ("QUIT".to_owned(), "221"),
        ] {
            dialogue.say(&line, reply).await.unwrap();
        }
    }
}

/// DANE-EE, the whole certificate.
const DANE_EE: (u8, u8, u8) = (3, 0, 0);

impl Vouched<SignedDns> {
    fn tlsa(&self, domain: &str, certificate: Vec<u8>) {
        let (usage, selector, matching) = DANE_EE;
        let host = format!("mx.{domain}");
        let port = self.world.port();
        self.world
            .dns
            .tlsa(&host, port, usage, selector, matching, certificate);
    }
}

/// Records that match, that do not, that cannot be trusted, and that nobody has signed.
#[tokio::test]
async fn dane() {
    let vouched = Vouched::signed("").await;
    // A name that is not the host's, and an authority that is not known, are nothing to DANE-EE.
    let (good, certificate) = vouched.host("good.secure", "EHLO: with STARTTLS").await;
    vouched.tlsa("good.secure", certificate);
    let (wrong, _) = vouched.host("wrong.secure", "EHLO: with STARTTLS").await;
    vouched.tlsa("wrong.secure", b"another certificate".to_vec());
    let (plain, certificate) = vouched.host("plain.secure", "EHLO: usual").await;
    vouched.tlsa("plain.secure", certificate);
    let (unsigned, _) = vouched
        .host("unsigned.insecure", "EHLO: with STARTTLS; TLS: unknown")
        .await;
    vouched.tlsa("unsigned.insecure", b"another certificate".to_vec());
    let (mute, _) = vouched.host("mute.secure", "EHLO: with STARTTLS").await;
    let asked = format!("_{}._tcp.mx.mute.secure", vouched.world.port());
    vouched.world.dns.servfail(&asked);
    let (bogus, certificate) = vouched.host("x.bogus", "EHLO: with STARTTLS").await;
    vouched.tlsa("x.bogus", certificate);
    for domain in [
        "good.secure",
        "wrong.secure",
        "plain.secure",
        "mute.secure",
        "unsigned.insecure",
        "x.bogus",
    ] {
        vouched.send(domain).await;
    }
    assert!(vouched.delivered("good.secure").await.contains("TLS1."));
    assert!(good.kept()[0].tls);
    let line = vouched.deferred("wrong.secure").await;
    assert!(line.contains(" 4.7."), "{line}");
    let line = vouched.deferred("plain.secure").await;
    assert!(line.contains(" 4.7."), "{line}");
    // Nor is it known that there are no records.
    vouched.deferred("mute.secure").await;
    // An answer that is not signed by whom its parent says may be an attacker's.
    vouched.deferred("x.bogus").await;
    // Records in a zone that is not signed are nobody's word: any certificate will do.
    vouched.delivered("unsigned.insecure").await;
    assert!(unsigned.kept()[0].tls);
    for hop in [wrong, plain, mute, bogus] {
        assert_eq!((hop.seen("MAIL"), hop.kept().len()), (0, 0));
    }
    assert!(vouched.world.sender.received().is_empty(), "a bounce");
}

/// Records that match are enough, whatever a policy says (RFC 8461 section 2): who has both is
/// judged by DANE.
#[tokio::test]
async fn dane_outranks_mta_sts() {
    let vouched = Vouched::signed("").await;
    let starttls = "EHLO: with STARTTLS";
    let name = "another.test";
    let (hop, certificate) = vouched.host_as(name, "both.secure", starttls).await;
    vouched.tlsa("both.secure", certificate);
    let _served = vouched.serve_policy("both.secure", "enforce").await;
    vouched.send("both.secure").await;
    vouched.delivered("both.secure").await;
    assert!(hop.kept()[0].tls);
    // Without records it is the policy that counts, and the name.
    let (hop, _) = vouched.host_as(name, "one.secure", starttls).await;
    let _served = vouched.serve_policy("one.secure", "enforce").await;
    vouched.send("one.secure").await;
    let line = vouched.deferred("one.secure").await;
    assert!(line.contains(" 4.7."), "{line}");
    assert_eq!(hop.seen("MAIL"), 0);
}

/// `enforce` waits where the certificate is not valid, `testing` does not; it is seen either way.
#[tokio::test]
async fn mta_sts() {
    let vouched = Vouched::unsigned("").await;
    let starttls = "EHLO: with STARTTLS";
    let wrong_name = "EHLO: with STARTTLS; TLS: wrong-name";
    let (good, _a) = vouched.policy("good.test", "enforce", starttls).await;
    let (wrong, served) = vouched.policy("wrong.test", "enforce", wrong_name).await;
    let (plain, _b) = vouched.policy("plain.test", "enforce", "EHLO: usual").await;
    let (tested, _c) = vouched.policy("tested.test", "testing", wrong_name).await;
    let domains = ["good.test", "wrong.test", "plain.test", "tested.test"];
    for domain in domains {
        vouched.send(domain).await;
    }
    vouched.delivered("good.test").await;
    assert!(good.kept()[0].tls);
    for domain in ["wrong.test", "plain.test"] {
        let line = vouched.deferred(domain).await;
        assert!(line.contains(" 4.7."), "{line}");
    }
    vouched.delivered("tested.test").await;
    assert!(tested.kept()[0].tls);
    // Attempts that follow find the policy where it is kept.
    let log = vouched.world.relay.log();
    log.wait_for_many(3, &["deferred", "bob@wrong.test"])
        .await
        .unwrap();
    assert_eq!(served.fetched(), 1);
    for hop in [wrong, plain] {
        assert_eq!((hop.seen("MAIL"), hop.kept().len()), (0, 0));
    }
    let report = vouched
        .world
        .site
        .postroad("relay", &["tls", "report", "--json"])
        .await;
    let report: serde_json::Value =
        serde_json::from_str(&report.unwrap().succeeded().output).unwrap();
    let about = |domain: &str| {
        let all = report["domains"].as_array().unwrap();
        all.iter()
            .find(|d| d["domain"] == domain)
            .unwrap_or_else(|| panic!("{report}"))
            .clone()
    };
    assert_eq!(
        (
            &about("good.test")["sessions_ok"],
            &about("good.test")["would_fail"]
        ),
        (&1.into(), &0.into())
    );
    assert_eq!(about("wrong.test")["policy"], "sts");
    assert!(
        about("wrong.test")["would_fail"].as_u64() >= Some(3),
        "{report}"
    );
    assert_eq!(about("tested.test")["would_fail"], 1);
    assert_eq!(about("tested.test")["enforced"], false);
}

/// Policies are looked at, and mail goes all the same: the report tells what would wait.
#[tokio::test]
async fn observed_before_it_is_enforced() {
    let vouched = Vouched::unsigned("tls_policy = \"observe\"").await;
    let wrong_name = "EHLO: with STARTTLS; TLS: wrong-name";
    let (wrong, _a) = vouched.policy("wrong.test", "enforce", wrong_name).await;
    let (plain, _b) = vouched.policy("plain.test", "enforce", "EHLO: usual").await;
    let (good, _c) = vouched
        .policy("good.test", "enforce", "EHLO: with STARTTLS")
        .await;
    for domain in ["wrong.test", "plain.test", "good.test"] {
        vouched.send(domain).await;
        vouched.delivered(domain).await;
    }
    assert!(wrong.kept()[0].tls && good.kept()[0].tls && !plain.kept()[0].tls);
    let site = &vouched.world.site;
    let report = site
        .postroad("relay", &["tls", "report", "--json"])
        .await
        .unwrap()
        .succeeded();
    let report: serde_json::Value = serde_json::from_str(&report.output).unwrap();
    assert_eq!(report["tls_policy"], "observe");
    for domain in report["domains"].as_array().unwrap() {
        let fails = u64::from(domain["domain"] != "good.test");
        assert_eq!(domain["would_fail"], fails, "{domain}");
        assert_eq!(domain["enforced"], false);
        assert_eq!(domain["last_reason"].is_string(), fails == 1, "{domain}");
    }
    assert_eq!(report["domains"].as_array().unwrap().len(), 3, "{report}");
    let said = site
        .postroad("relay", &["tls", "report"])
        .await
        .unwrap()
        .succeeded()
        .output;
    assert!(
        said.contains("wrong.test") && said.contains("plain.test"),
        "{said}"
    );
}

/// RFC 8689: a verified way to a server that promises the same, or none.
#[tokio::test]
async fn requiretls() {
    let vouched = Vouched::signed("").await;
    let promises = "EHLO: with STARTTLS, REQUIRETLS; MAIL REQUIRETLS: usual";
    let (good, certificate) = vouched.host("good.secure", promises).await;
    vouched.tlsa("good.secure", certificate);
    let (lacks, certificate) = vouched.host("lacks.secure", "EHLO: with STARTTLS").await;
    vouched.tlsa("lacks.secure", certificate);
    let (unvouched, _) = vouched
        .host("unvouched.insecure", "EHLO: with STARTTLS, REQUIRETLS")
        .await;
    vouched.send_requiring("good.secure").await;
    vouched.delivered("good.secure").await;
    let kept = good.kept();
    assert!(
        kept[0].tls && kept[0].mail.contains("REQUIRETLS"),
        "{kept:?}"
    );
    for domain in ["lacks.secure", "unvouched.insecure"] {
        vouched.send_requiring(domain).await;
        let line = vouched
            .world
            .log(&["failed", &format!("bob@{domain}")])
            .await;
        assert!(line.contains("550 5.7.30"), "{line}");
    }
    for hop in [lacks, unvouched] {
        assert_eq!((hop.seen("MAIL"), hop.kept().len()), (0, 0));
    }
}
