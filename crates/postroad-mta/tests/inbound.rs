//! The inbound role's answers to a session's questions.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::sync::Arc;

use postroad_mail::{Domain, replies};
use postroad_mta::{DomainPatterns, Inbound, InboundConfig, Outbound, OutboundConfig};
use postroad_net::Networks;
use postroad_net::client::Connector;
use postroad_net::server::{Handler as _, Role as _};
use postroad_proto::server::{Answer, Info, Mail, Peer, Question, Rcpt};
use postroad_queue::{MemStore, Store};
use postroad_routing::{DnsOptions, DnsResolver, RouteRule, SharedRouter, StaticRouter};

fn routes(rules: &[(&str, &str)]) -> SharedRouter {
    let rule = |(recipient, via): &(&str, &str)| RouteRule {
        recipient: Some(recipient.parse().unwrap()),
        ..RouteRule::new(via.parse().unwrap())
    };
    SharedRouter::new(StaticRouter::new(rules.iter().map(rule).collect()))
}

fn resolver() -> Arc<DnsResolver> {
    let options = DnsOptions {
        nameservers: vec!["127.0.0.1:9".parse().unwrap()],
        ..DnsOptions::default()
    };
    Arc::new(DnsResolver::new(options).unwrap())
}

fn rcpt(to: &str) -> Question {
    Question::Rcpt(Rcpt {
        to: to.parse().unwrap(),
        notify: None,
        original: None,
    })
}

#[tokio::test]
async fn a_route_that_rejects_does_so_at_rcpt_and_follows_reloads() {
    let hostname: Domain = "mx.test".parse().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemStore::new(1 << 20));
    let connector = || Connector::new(&[]).unwrap();
    let outbound = Arc::new(Outbound::new(
        OutboundConfig::new(hostname.clone()),
        Arc::clone(&store),
        routes(&[
            ("gone@our.test", "reject 5.1.1 No such user here"),
            ("later@our.test", "defer 4.2.0 Later"),
            ("*@mx.test", "reject"),
        ]),
        resolver(),
        connector(),
    ));
    let config = InboundConfig {
        session: Arc::new(postroad_proto::server::Config::new(hostname.clone())),
        intake: Arc::new(postroad_intake::Config::new(hostname.clone(), "relay")),
        domains: DomainPatterns::parse(["our.test", "mx.test"]).unwrap(),
        trusted: Networks::default(),
    };
    let inbound = Inbound::new(config, store).with_routes(Arc::<Outbound>::clone(&outbound));
    let peer = Peer {
        address: [192, 0, 2, 1].into(),
        trusted: false,
        tls: None,
    };
    let info = Info {
        peer,
        hello: None,
        identity: None,
    };
    let (_, mut handler) = inbound.open([192, 0, 2, 1].into());
    let mail = Mail {
        from: "<a@b.test>".parse().unwrap(),
        size: None,
        body: postroad_mail::BodyKind::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        auth: None,
    };
    handler.ask(&info, Question::Mail(mail)).await;
    let gone = replies::UNKNOWN_RECIPIENT.with_text("No such user here");
    for (to, answer) in [
        ("<gone@our.test>", Answer::Reject(gone)),
        ("<bob@our.test>", Answer::Accept),
        ("<later@our.test>", Answer::Accept),
        (
            "<bob@elsewhere.test>",
            Answer::Reject(replies::RELAY_DENIED),
        ),
        ("<postmaster>", Answer::Accept),
        ("<postmaster@mx.test>", Answer::Accept),
    ] {
        assert_eq!(handler.ask(&info, rcpt(to)).await, answer, "{to}");
    }
    let settings = OutboundConfig::new(hostname);
    outbound.reload(settings, routes(&[]), resolver(), connector());
    assert_eq!(
        handler.ask(&info, rcpt("<gone@our.test>")).await,
        Answer::Accept
    );
}
