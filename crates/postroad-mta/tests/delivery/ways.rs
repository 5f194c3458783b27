//! How a route talks to its hosts: protocol, login, name, TLS policy; and when those who have to
//! wait are tried again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::{EnhancedCode, Protocol, Reply, Secret};
use postroad_queue::{Lane, RecipientState, RetrySchedule};
use postroad_routing::{
    Destination, HopAddress, Host, HostSecurity, PlanError, PolicyKind, Requirement, Route,
    RouteCredentials, RouteOptions, SecurityLookup, SharedRouter, TlsMode,
};

use crate::hop::{Act, Hop, Tls};
use crate::kit::World;
use crate::routes::Fixed;

fn to(hop: postroad_routing::Hop, options: RouteOptions) -> SharedRouter {
    SharedRouter::new(Fixed(Route {
        options,
        ..Route::new(Destination::Hops(vec![hop]))
    }))
}

fn smtp(hop: &Hop) -> postroad_routing::Hop {
    postroad_routing::Hop::smtp(hop.address.ip().into(), hop.address.port())
}

fn lmtp(at: HopAddress) -> postroad_routing::Hop {
    postroad_routing::Hop {
        at,
        protocol: Protocol::Lmtp,
        ..postroad_routing::Hop::smtp("unused.test".parse().unwrap(), 24)
    }
}

/// RFC 2033: each recipient has a reply of its own, over TCP and over a Unix socket.
#[tokio::test]
async fn lmtp_answers_for_each_recipient() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let script = |command: &str, _| match command {
        "END RCPT TO:<full@far.test>" => Act::Say("452 4.2.2 full"),
        "END RCPT TO:<never@far.test>" => Act::Say("550 5.1.1 nobody"),
        _ => Act::Usual,
    };
    let tcp = Hop::scripted(0, script).await;
    let unix = Hop::unix(&path, script).await;
    let at_tcp = HopAddress::Tcp {
        host: tcp.address.ip().into(),
        port: tcp.address.port(),
    };
    let at_unix = HopAddress::Unix(path.clone());
    for (hop, at, shown) in [
        (tcp, at_tcp, "127."),
        (unix, at_unix, path.to_str().unwrap()),
    ] {
        let world = World::routed(to(lmtp(at), RouteOptions::default())).await;
        let all = ["full@far.test", "yes@far.test", "never@far.test"];
        let id = world.send_with("", &all, "A: b\r\n\r\nx\r\n", |_| ()).await;
        world.run();
        let listed = world.settled(id, 1).await.unwrap();
        use RecipientState::{Delivered, Failed, Waiting};
        let states: Vec<_> = listed.recipients.iter().map(|r| r.state).collect();
        assert_eq!(states, [Waiting, Delivered, Failed]);
        assert_eq!(hop.taken()[0].to(), ["yes@far.test"]);
        assert_eq!((hop.count("LHLO"), hop.count("EHLO")), (1, 0));
        let evidence = listed.recipients[1].last.clone().unwrap();
        assert!(evidence.hop.unwrap().contains(shown));
        assert!(listed.recipients[0].lane.as_str().starts_with("lmtp"));
    }
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_a_dead_host() {
    let at = HopAddress::Unix(Path::new("/nonexistent/postroad").to_owned());
    let world = World::routed(to(lmtp(at), RouteOptions::default())).await;
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    let said = world.last(id, 1).await;
    assert!(said.starts_with("451 4.4.1"), "{said}");
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    assert!(world.last(id, 1).await.contains("was not tried"));
}

/// A login is sent under TLS only, and mail waits where it is refused: nobody's message is at
/// fault.
#[tokio::test]
async fn a_smarthost_that_wants_a_login() {
    const OFFERED: &[&str] = &["PIPELINING", "AUTH PLAIN LOGIN"];
    const LOGIN_ONLY: &[&str] = &["PIPELINING", "AUTH LOGIN"];
    for (extensions, tls, refusal, expected) in [
        (OFFERED, Tls::Works, "235 2.7.0 ok", "taken"),
        (OFFERED, Tls::Works, "535 5.7.8 no", "535 5.7.8"),
        (OFFERED, Tls::Works, "454 4.7.0 later", "454 4.7.0"),
        (OFFERED, Tls::None, "235 2.7.0 ok", "454 4.7.4"),
        (OFFERED, Tls::Broken, "235 2.7.0 ok", "454 4.7.5"),
        (LOGIN_ONLY, Tls::Works, "535 5.7.8 no", "535 5.7.8"),
        (&["PIPELINING"], Tls::Works, "235 2.7.0 ok", "454 4.7.0"),
    ] {
        let hop = Hop::with(0, extensions, tls, move |command, _| {
            if command.starts_with("AUTH") {
                Act::Say(refusal)
            } else {
                Act::Usual
            }
        })
        .await;
        let options = RouteOptions {
            auth: Some(Arc::new(RouteCredentials {
                user: "me".to_owned(),
                secret: Secret::new("secret".to_owned()),
            })),
            helo: Some("relay.s.test".parse().unwrap()),
            ..RouteOptions::default()
        };
        let world = World::routed(to(smtp(&hop), options)).await;
        let id = world.send("me@s.test", &["bob@far.test"]).await;
        world.run();
        let came = match world.settled(id, 1).await {
            Some(_) => world.last(id, 1).await,
            None => "taken".to_owned(),
        };
        assert!(came.starts_with(expected), "{tls:?} {refusal}: {came}");
        let clear = tls == Tls::None || tls == Tls::Broken;
        let lines = hop.count("AUTH");
        assert_eq!(
            lines > 0,
            !clear && extensions.len() > 1,
            "{tls:?} {refusal}"
        );
        assert!(hop.count("EHLO relay.s.test") > 0);
        if extensions == OFFERED && !clear {
            // NUL, user, NUL, password in base64.
            assert_eq!(hop.count("AUTH PLAIN AG1lAHNlY3JldA=="), 1);
        }
        if expected == "535 5.7.8" {
            // It is not tried again and again, which would lock the account.
            let lane = world.queue().await[0].recipients[0].lane.clone();
            let known = world.outbound.destination(&lane).unwrap();
            assert_eq!(known.throttled.unwrap().why, "the login fails");
        }
    }
}

/// RFC 5321 section 3.9.2: what a list expands to goes in the list's name, and so apart.
#[tokio::test]
async fn each_reverse_path_is_a_transaction() {
    let hop = Hop::start(0).await;
    let world = World::routed(to(smtp(&hop), RouteOptions::default())).await;
    let all = ["a@far.test", "b@far.test", "c@far.test"];
    world
        .send_with("me@s.test", &all, "A: b\r\n\r\nx\r\n", |envelope| {
            for recipient in &mut envelope.recipients_mut()[1..] {
                recipient.from = Some("<list-owner@s.test>".parse().unwrap());
            }
        })
        .await;
    world.run();
    world.empty().await;
    let taken: Vec<_> = hop
        .taken()
        .iter()
        .map(|t| format!("{} {}", t.mail, t.to().join(" ")))
        .collect();
    assert_eq!(
        taken,
        [
            "MAIL FROM:<me@s.test> a@far.test",
            "MAIL FROM:<list-owner@s.test> b@far.test c@far.test"
        ]
    );
}

/// Greylisting is over within minutes, a full mailbox is not.
#[tokio::test]
async fn when_those_who_wait_are_tried_again() {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    for (says, first, second) in [
        ("451 4.7.1 Greylisted, come back", 5, 5),
        ("450 4.2.0 you are greylisted", 5, 5),
        ("451 4.3.0 broken", 15, 30),
        ("452 4.2.2 mailbox full", 60, 60),
    ] {
        let world = World::with(SharedRouter::default(), |config| {
            let delays = [15, 30, 240].map(minutes).to_vec();
            config.schedule = RetrySchedule::new(delays, minutes(6000), None).unwrap();
        })
        .await;
        let hop = Hop::scripted(world.port, move |command, _| match command.get(..4) {
            Some("RCPT") => Act::Say(says),
            _ => Act::Usual,
        })
        .await;
        world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
        let id = world.send("me@s.test", &["bob@far.test"]).await;
        world.run();
        for (attempt, expected) in [(1, first), (2, second)] {
            let listed = world.settled(id, attempt).await.unwrap();
            let one = &listed.recipients[0];
            let waits = one.due.unwrap().since(one.last.as_ref().unwrap().at);
            // The schedule spreads by up to an eighth.
            let range = minutes(expected)..=minutes(expected) * 9 / 8;
            assert!(range.contains(&waits), "{says} {attempt}: {waits:?}");
            world.advance(minutes(60)).await;
        }
    }
}

/// What DANE and MTA-STS would say.
struct Says(fn(&str) -> HostSecurity);

impl SecurityLookup for Says {
    fn security<'a>(
        &'a self,
        _domain: Option<&'a postroad_mail::Domain>,
        host: &'a Host,
        _port: u16,
    ) -> postroad_routing::BoxFuture<'a, HostSecurity> {
        Box::pin(std::future::ready(self.0(host.name.ascii())))
    }
}

const NOT_LISTED: Reply = Reply::row(
    451,
    EnhancedCode::transient(7, 5),
    "the MTA-STS policy does not list it",
);

fn policy(requirement: Requirement, enforced: bool) -> HostSecurity {
    HostSecurity {
        requirement,
        policy: PolicyKind::Sts,
        enforced,
        ..HostSecurity::none()
    }
}

/// Of two hosts the first has a certificate that nobody vouches for, the second none at all.
#[tokio::test]
async fn what_a_policy_asks_for_is_done_or_observed() {
    let none: fn(&str) -> HostSecurity = |_| HostSecurity::none();
    let unlisted: fn(&str) -> HostSecurity = |host| match host {
        "mx1.far.test" => policy(Requirement::Unusable(NOT_LISTED), true),
        _ => HostSecurity::none(),
    };
    let unlisted_observed: fn(&str) -> HostSecurity =
        |_| policy(Requirement::Unusable(NOT_LISTED), false);
    let valid: fn(&str) -> HostSecurity = |_| policy(Requirement::Valid, true);
    let valid_observed: fn(&str) -> HostSecurity = |_| policy(Requirement::Valid, false);
    let encrypted: fn(&str) -> HostSecurity = |_| policy(Requirement::Encrypted, true);
    for (says, expected) in [
        (none, "mx1 over TLS"),
        (unlisted, "mx2 in plaintext"),
        (unlisted_observed, "mx1 over TLS"),
        (valid, "454 4.7.4"),
        (valid_observed, "mx1 over TLS"),
        (encrypted, "mx1 over TLS"),
    ] {
        let world = World::tuned(SharedRouter::default(), |outbound| {
            outbound.with_security(Arc::new(Says(says)))
        })
        .await;
        let usual = |_: &str, _| Act::Usual;
        let first = Hop::with(world.port, &[], Tls::Works, usual).await;
        let second = Hop::with(world.port, &[], Tls::None, usual).await;
        world.mx(
            "far.test",
            &[
                ("mx1.far.test", &[first.address.ip()]),
                ("mx2.far.test", &[second.address.ip()]),
            ],
        );
        let id = world.send("me@s.test", &["bob@far.test"]).await;
        world.run();
        let came = if world.settled(id, 1).await.is_some() {
            world.last(id, 1).await
        } else if let Some(taken) = first.taken().first() {
            format!(
                "mx1 {}",
                if taken.tls {
                    "over TLS"
                } else {
                    "in plaintext"
                }
            )
        } else {
            "mx2 in plaintext".to_owned()
        };
        assert!(came.starts_with(expected), "{came}, not {expected}");
    }
}

/// MX hosts are called on the port that the route says.
#[tokio::test]
async fn a_port_for_the_hosts_of_a_domain() {
    let hop = Hop::start(0).await;
    let route = Route {
        options: RouteOptions {
            port: Some(hop.address.port()),
            ..RouteOptions::default()
        },
        ..Route::new(Destination::Mx(None))
    };
    let world = World::routed(SharedRouter::new(Fixed(route))).await;
    world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
    world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    world.empty().await;
    assert_eq!(hop.taken().len(), 1);
}

/// RFC 8689 section 4.2.1: a verified way, or none.
#[tokio::test]
async fn a_message_that_demands_tls() {
    let world = World::new().await;
    let usual = |_: &str, _| Act::Usual;
    let hop = Hop::with(world.port, &["REQUIRETLS"], Tls::Works, usual).await;
    world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
    // Another recipient keeps the message in the queue.
    world.broken_mx("held.test", PlanError::Temporary(NOT_LISTED));
    let id = world
        .send_with(
            "me@held.test",
            &["bob@far.test", "x@held.test"],
            "A: b\r\n\r\nx\r\n",
            |envelope| {
                envelope.require_tls = true;
            },
        )
        .await;
    world.run();
    let listed = world.settled(id, 1).await.unwrap();
    let failed = &listed.recipients[0];
    assert_eq!(failed.state, RecipientState::Failed);
    let said = failed.last.as_ref().unwrap().reply.to_string();
    assert!(said.starts_with("550 5.7.30"), "{said}");
    assert_eq!(hop.connections(), 0);
}

/// A socket of this machine is the end of the way, not a part of it.
#[tokio::test]
async fn a_message_that_demands_tls_may_end_here() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let hop = Hop::unix(&path, |_, _| Act::Usual).await;
    let route = to(lmtp(HopAddress::Unix(path)), RouteOptions::default());
    let world = World::routed(route).await;
    let demanding = |envelope: &mut postroad_mail::Envelope| envelope.require_tls = true;
    world
        .send_with(
            "me@s.test",
            &["bob@far.test"],
            "A: b\r\n\r\nx\r\n",
            demanding,
        )
        .await;
    world.run();
    world.empty().await;
    // Not a bounce, which would come here too.
    assert_eq!(hop.taken()[0].to(), ["bob@far.test"]);
}

/// A route without a source address of a host's family does not call it over that.
#[tokio::test]
async fn only_from_the_addresses_that_a_route_names() {
    let hop = Hop::start(0).await;
    let options = RouteOptions {
        source: vec!["::1".parse().unwrap()],
        tls: TlsMode::None,
        ..RouteOptions::default()
    };
    let world = World::routed(to(smtp(&hop), options)).await;
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    let said = world.last(id, 1).await;
    assert!(said.contains("no source address of the family"), "{said}");
    assert_eq!(hop.connections(), 0);
    let lane = world.queue().await[0].recipients[0].lane.clone();
    assert!(lane.as_str().ends_with(" tls=none source=::1"), "{lane}");
    assert_ne!(lane, Lane::new("far.test"));
}
