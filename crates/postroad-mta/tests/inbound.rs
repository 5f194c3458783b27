//! The inbound role's answers to a session's questions.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::future::ready;
use std::sync::Arc;

use postroad_intake::{AliasPreview, Expansion, Member};
use postroad_mail::{Address, Domain, Envelope, Recipient, replies};
use postroad_mta::{DomainPatterns, Inbound, InboundConfig, Outbound, OutboundConfig};
use postroad_net::Networks;
use postroad_net::client::Connector;
use postroad_net::server::{Handler as _, Role as _};
use postroad_proto::server::{Answer, Info, Mail, Peer, Question, Rcpt};
use postroad_queue::{BoxFuture, Filter, MemStore, Store};
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
        require_tls: false,
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

/// A virtual alias domain, `lists.test`; and an alias in a domain of our own.
#[derive(Debug)]
struct Aliases;

impl AliasPreview for Aliases {
    fn expand<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Expansion> {
        let members = |all: &[&str]| {
            let each = all.iter().map(|address| Member {
                address: address.parse().unwrap(),
                from: Some("<owner@lists.test>".parse().unwrap()),
            });
            Expansion::Members(each.collect())
        };
        Box::pin(ready(match address.to_string().as_str() {
            "staff@lists.test" => members(&["carol@far.test", "dan@far.test"]),
            "gone@our.test" => Expansion::Unavailable,
            "root@our.test" => members(&["erin@far.test"]),
            _ if self.is_alias_domain(address.domain()) => Expansion::Unknown,
            _ => Expansion::Itself,
        }))
    }

    fn is_alias_domain(&self, domain: &Domain) -> bool {
        domain.ascii() == "lists.test"
    }
}

#[tokio::test]
async fn mail_for_alias_domains_is_taken_as_far_as_its_addresses_are_known() {
    let hostname: Domain = "mx.test".parse().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemStore::new(1 << 20));
    let mut intake = postroad_intake::Config::new(hostname.clone(), "relay");
    intake.aliases = Arc::new(Aliases);
    intake.postmaster = Some("root@our.test".parse().unwrap());
    let config = InboundConfig {
        session: Arc::new(postroad_proto::server::Config::new(hostname)),
        intake: Arc::new(intake),
        domains: DomainPatterns::parse(["our.test"]).unwrap(),
        trusted: Networks::default(),
    };
    let inbound = Inbound::new(config, Arc::clone(&store));
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
    for (to, answer) in [
        (
            "<nobody@lists.test>",
            Answer::Reject(replies::UNKNOWN_RECIPIENT),
        ),
        (
            "<gone@our.test>",
            Answer::Reject(replies::ALIAS_UNAVAILABLE),
        ),
        ("<a@far.test>", Answer::Reject(replies::RELAY_DENIED)),
        ("<staff@lists.test>", Answer::Accept),
        ("<postmaster>", Answer::Accept),
    ] {
        assert_eq!(handler.ask(&info, rcpt(to)).await, answer, "{to}");
    }
    let recipient = |to: &str| Recipient::new(to.parse().unwrap());
    let from = "<a@b.test>".parse().unwrap();
    let mut envelope = Envelope::new(from, recipient("staff@lists.test"));
    envelope.push(recipient("postmaster@mx.test"));
    handler.ask(&info, Question::Data(Box::new(envelope))).await;
    handler.body("Subject: x\r\n\r\nx\r\n".into()).await;
    let answer = handler.ask(&info, Question::Commit).await;
    assert!(matches!(answer, Answer::Queued(_)), "{answer:?}");
    let listed = store.page(&Filter::default(), None, 1).await.unwrap();
    let to = listed.iter().flat_map(|m| m.envelope.recipients());
    let to: Vec<_> = to
        .map(|r| {
            (
                r.address.to_string(),
                r.from.as_ref().map(ToString::to_string),
            )
        })
        .collect();
    let owner = Some("owner@lists.test".to_owned());
    assert_eq!(
        to,
        [
            ("carol@far.test".to_owned(), owner.clone()),
            ("dan@far.test".to_owned(), owner.clone()),
            ("erin@far.test".to_owned(), owner),
        ]
    );
}
