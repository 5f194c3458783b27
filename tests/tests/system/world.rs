//! A relay in a small world of its own: its DNS, its next hops, a sender who can be told.

use std::net::{IpAddr, SocketAddr};

use postroad_tests::dialogue::Dialogue;
use postroad_tests::dns::TestDns;
use postroad_tests::peers::parse_dsn;
use postroad_tests::process::{Service, free_port, loopback};
use postroad_tests::signed_dns::SignedDns;
use postroad_tests::sink::{Received, Sink};
use postroad_tests::site::{Settings, Site};

/// A name server of a world.
pub(crate) trait Names {
    /// The domain of the sender, in a zone that it has.
    const SENDER: &str;

    fn address(&self) -> SocketAddr;
    fn mx(&self, domain: &str, preference: u16, host: &str);
    fn a(&self, host: &str, address: IpAddr);
    fn txt(&self, owner: &str, text: &str);
}

impl Names for TestDns {
    const SENDER: &str = "sender.test";

    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn mx(&self, domain: &str, preference: u16, host: &str) {
        self.mx(domain, preference, host);
    }

    fn a(&self, host: &str, address: IpAddr) {
        self.a(host, address);
    }

    fn txt(&self, owner: &str, text: &str) {
        self.txt(owner, &[text]);
    }
}

impl Names for SignedDns {
    const SENDER: &str = "sender.insecure";

    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn mx(&self, domain: &str, preference: u16, host: &str) {
        self.mx(domain, preference, host);
    }

    fn a(&self, host: &str, address: IpAddr) {
        self.a(host, address);
    }

    fn txt(&self, owner: &str, text: &str) {
        self.txt(owner, &[text]);
    }
}

/// A relay, and the DNS of a small world: `sender.test`, or what that has in its place, is the
/// sender's own.
pub(crate) struct World<D = TestDns> {
    pub(crate) site: Site,
    pub(crate) dns: D,
    pub(crate) address: SocketAddr,
    pub(crate) sender: Sink,
    pub(crate) relay: Service,
}

impl World {
    pub(crate) async fn new(delivery: &str) -> Self {
        let settings = Settings {
            delivery,
            ..Settings::default()
        };
        Self::with(Site::new(), TestDns::start().await, settings).await
    }

    /// With such tables in its configuration.
    pub(crate) async fn configured(site: Site, more: &str) -> Self {
        let settings = Settings {
            delivery: "retry = [\"1s\"]",
            more,
            ..Settings::default()
        };
        Self::with(site, TestDns::start().await, settings).await
    }
}

impl<D: Names> World<D> {
    /// At that site; the settings say nothing of listeners, ports and name servers.
    pub(crate) async fn with(site: Site, dns: D, settings: Settings<'_>) -> Self {
        // Not at the address of the relay, which would see a loop.
        let sender = Sink::start(free_port(loopback())).await;
        let host = format!("mx.{}", D::SENDER);
        dns.mx(D::SENDER, 10, &host);
        dns.a(&host, sender.address().ip());
        let address = site.port();
        let settings = Settings {
            listeners: vec![("relay", address, "starttls")],
            trusted: &["127.0.0.0/8"],
            nameserver: Some(dns.address()),
            port: sender.address().port(),
            ..settings
        };
        let relay = site
            .start("postroad-relay", "relay", &settings)
            .await
            .unwrap();
        Self {
            site,
            dns,
            address,
            sender,
            relay,
        }
    }

    /// The port on which all next hops of this world listen.
    pub(crate) fn port(&self) -> u16 {
        self.sender.address().port()
    }

    /// A host with that name and a sink.
    pub(crate) async fn host(&self, name: &str) -> Sink {
        let ip = loopback();
        self.dns.a(name, ip);
        Sink::start(SocketAddr::new(ip, self.port())).await
    }

    pub(crate) async fn send(&self, to: &[&str], parameters: &str) {
        let mut dialogue = Dialogue::open(self.address).await.unwrap();
        dialogue
            .say(&format!("MAIL FROM:<me@{}>{parameters}", D::SENDER), "250")
            .await
            .unwrap();
        for to in to {
            dialogue.say(&format!("RCPT TO:{to}"), "250").await.unwrap();
        }
        dialogue.say("DATA", "354").await.unwrap();
        dialogue.say("From: me@sender.test\r\nSubject: test\r\nMessage-ID: <1@sender.test>\r\n\r\nhello\r\n.", "250 2.0.0").await.unwrap();
        dialogue.say("QUIT", "221").await.unwrap();
    }

    /// A domain whose one mail exchanger is a sink.
    pub(crate) async fn domain(&self, name: &str) -> Sink {
        let host = format!("mx.{name}");
        self.dns.mx(name, 10, &host);
        self.host(&host).await
    }

    pub(crate) async fn log(&self, needles: &[&str]) -> String {
        self.relay.log().wait_for(needles).await.unwrap()
    }

    /// The one notice that the sender gets.
    pub(crate) async fn notice(&self) -> (Received, serde_json::Value) {
        let notice = self.sender.wait_for(1).await.remove(0);
        assert_eq!(notice.from, "");
        assert_eq!(notice.to, [format!("me@{}", D::SENDER)]);
        let parsed = parse_dsn(&notice.data).await.unwrap();
        assert_eq!(parsed["type"], "multipart/report");
        assert_eq!(parsed["report_type"], "delivery-status");
        assert_eq!(parsed["defects"], serde_json::json!([]));
        (notice, parsed)
    }
}
