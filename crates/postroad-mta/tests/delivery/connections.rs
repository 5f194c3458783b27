//! Connections: which are tried, for how long, and which are used again.

use std::net::IpAddr;

use postroad_queue::Lane;
use postroad_routing::{RouteOptions, RouteRule, SharedRouter, StaticRouter, TlsMode};

use crate::hop::{ALL, Act, Hop, Tls};
use crate::kit::World;

fn with_tls(rules: &[(&str, TlsMode)]) -> SharedRouter {
    let rule = |(domain, tls): &(&str, TlsMode)| RouteRule {
        recipient: Some(domain.parse().unwrap()),
        options: RouteOptions {
            tls: *tls,
            ..RouteOptions::default()
        },
        ..RouteRule::new("mx".parse().unwrap())
    };
    SharedRouter::new(StaticRouter::new(rules.iter().map(rule).collect()))
}

async fn usual(port: u16, tls: Tls) -> Hop {
    Hop::with(port, ALL, tls, |_, _| Act::Usual).await
}

#[tokio::test]
async fn a_failed_handshake_is_followed_by_plaintext_over_a_new_connection() {
    let world = World::new().await;
    let hop = usual(world.port, Tls::Broken).await;
    world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
    world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    world.empty().await;
    let taken = hop.taken().remove(0);
    assert_eq!((taken.connection, taken.tls), (1, false));
    assert_eq!((hop.connections(), hop.count("STARTTLS")), (2, 1));
}

#[tokio::test]
async fn how_much_tls_a_route_asks_for() {
    use TlsMode::{None, Opportunistic, Require, Verify};
    for (mode, tls, expected) in [
        (Opportunistic, Tls::Works, "tls"),
        (Opportunistic, Tls::None, "plain"),
        (Require, Tls::Works, "tls"),
        (Require, Tls::None, "454 4.7.4"),
        (Require, Tls::Broken, "454 4.7.5"),
        // Nobody has signed the hop's certificate.
        (Verify, Tls::Works, "454 4.7.5"),
        (Verify, Tls::None, "454 4.7.4"),
        (None, Tls::Works, "plain"),
    ] {
        let world = World::routed(with_tls(&[("far.test", mode)])).await;
        let hop = usual(world.port, tls).await;
        world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
        let id = world.send("me@s.test", &["bob@far.test"]).await;
        world.run();
        let came = match world.settled(id, 1).await {
            Some(_) => world.last(id, 1).await,
            Option::None if hop.taken()[0].tls => "tls".to_owned(),
            Option::None => "plain".to_owned(),
        };
        assert!(came.starts_with(expected), "{mode:?} {tls:?}: {came}");
        // Refused TLS is not followed by plaintext.
        assert_eq!(hop.connections(), 1, "{mode:?} {tls:?}");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_but_never_under_other_terms() {
    let rules = [("strict.test", TlsMode::Require)];
    let world = World::routed(with_tls(&rules)).await;
    let hop = usual(world.port, Tls::Works).await;
    for domain in ["one.test", "two.test", "strict.test"] {
        world.mx(domain, &[("mx.far.test", &[hop.address.ip()])]);
    }
    // Another name: SNI and certificates are a host's own.
    world.mx("other.test", &[("mx.other.test", &[hop.address.ip()])]);
    world.run();
    for (n, (to, connection)) in [
        ("a@one.test", 0),
        ("b@one.test", 0),
        ("c@two.test", 0),
        ("d@strict.test", 1),
        ("e@strict.test", 1),
        ("f@other.test", 2),
        ("g@one.test", 0),
    ]
    .into_iter()
    .enumerate()
    {
        world.send("me@s.test", &[to]).await;
        world.empty().await;
        assert_eq!(hop.taken()[n].connection, connection, "{to}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_has_gone_is_followed_by_a_new_one() {
    // It says 421 at the second MAIL, or closes there.
    for how in ["421 4.3.2 restarting", ""] {
        let world = World::new().await;
        let hop = Hop::scripted(world.port, move |command, at| {
            match (command.get(..4), how, at.messages) {
                (Some("MAIL"), "", 1) => Act::Close,
                (Some("MAIL"), "421 4.3.2 restarting", 1) => Act::Say("421 4.3.2 restarting"),
                _ => Act::Usual,
            }
        })
        .await;
        world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
        world.run();
        for n in 0..3 {
            let id = world.send("me@s.test", &["bob@far.test"]).await;
            assert!(world.settled(id, 1).await.is_none(), "{how} {n}");
        }
        let connections: Vec<_> = hop.taken().iter().map(|t| t.connection).collect();
        assert_eq!(connections, [0, 1, 2], "{how}");
    }
}

#[tokio::test]
async fn a_new_connection_that_is_lost_is_not_tried_for_ever() {
    let world = World::new().await;
    let hop = Hop::scripted(world.port, |command, _| match command.get(..4) {
        Some("MAIL") => Act::Say("421 4.3.2 not now"),
        _ => Act::Usual,
    })
    .await;
    world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    assert!(world.last(id, 1).await.starts_with("421 4.3.2"));
    assert_eq!(hop.connections(), 1);
}

/// However many addresses of better hosts are dead, the one host that lives is found.
#[tokio::test]
async fn a_live_host_is_found_behind_dead_ones() {
    let world = World::new().await;
    let mut dead: Vec<IpAddr> = Vec::new();
    for _ in 0..8 {
        let hop = Hop::scripted(world.port, |command, _| match command {
            "GREETING" => Act::Say("421 4.3.2 dead"),
            _ => Act::Usual,
        });
        dead.push(hop.await.address.ip());
    }
    let alive = Hop::with(world.port, &[], Tls::None, |_, _| Act::Usual).await;
    let (first, second) = dead.split_at(4);
    let last = [alive.address.ip()];
    world.mx(
        "far.test",
        &[
            ("mx1.far.test", first),
            ("mx2.far.test", second),
            ("mx3.far.test", &last),
        ],
    );
    world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    world.empty().await;
    assert_eq!(alive.taken().len(), 1);
}

#[tokio::test]
async fn many_dead_hosts_cost_a_few_connections() {
    let world = World::new().await;
    let mut hops = Vec::new();
    for _ in 0..9 {
        let hop = Hop::scripted(world.port, |command, _| match command {
            "GREETING" => Act::Say("421 4.3.2 dead"),
            _ => Act::Usual,
        });
        hops.push(hop.await);
    }
    let ips: Vec<IpAddr> = hops.iter().map(|hop| hop.address.ip()).collect();
    let (first, second) = ips.split_at(4);
    world.mx(
        "far.test",
        &[("mx1.far.test", first), ("mx2.far.test", second)],
    );
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    world.settled(id, 1).await;
    // Three of the first host, five in all.
    let tried: Vec<_> = hops.iter().map(Hop::connections).collect();
    assert_eq!(tried, [1, 1, 1, 0, 1, 1, 0, 0, 0]);
    let known = world.outbound.destination(&Lane::new("far.test")).unwrap();
    assert_eq!(known.dead_hosts.len(), 5, "{known:?}");
    assert!(known.last_error.unwrap().what.contains("421 4.3.2 dead"));
    // The next message does not wait for those again, and finds out about the others.
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.settled(id, 1).await;
    let tried: Vec<_> = hops.iter().map(Hop::connections).collect();
    assert_eq!(tried, [1; 9]);
    // Nor does any other, before their time has come; that is an attempt all the same.
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    let said = world.last(id, 1).await;
    assert!(
        said.starts_with("451 4.4.1 mx2.far.test") && said.contains("was not tried"),
        "{said}"
    );
    let tried: Vec<_> = hops.iter().map(Hop::connections).collect();
    assert_eq!(tried, [1; 9]);
}

/// Three messages to a hop that keeps each waiting: no more connections than transactions allowed,
/// over one lane or in all.
#[tokio::test]
async fn no_more_at_a_time_than_the_settings_allow() {
    const ONE: [&str; 3] = ["a@one.test", "b@one.test", "c@one.test"];
    const THREE: [&str; 3] = ["a@one.test", "b@two.test", "c@three.test"];
    for (per_destination, concurrency, to, expected) in [
        (1, 1000, ONE, 1),
        (2, 1000, ONE, 2),
        (20, 1, THREE, 1),
        (20, 2, THREE, 2),
        (1, 1000, THREE, 3),
    ] {
        let world = World::with(SharedRouter::default(), |config| {
            config.per_destination = per_destination;
            config.concurrency = concurrency;
        })
        .await;
        let hop = Hop::scripted(world.port, |command, _| match command {
            "END" => Act::Hold,
            _ => Act::Usual,
        })
        .await;
        for domain in ["one.test", "two.test", "three.test"] {
            world.mx(domain, &[("mx.far.test", &[hop.address.ip()])]);
        }
        for to in to {
            world.send("me@s.test", &[to]).await;
        }
        world.run();
        let full = async || (hop.held() >= expected).then_some(());
        world.until(full).await;
        hop.release(3);
        world.empty().await;
        // Whoever came later has used a connection again.
        assert_eq!(
            (hop.connections(), hop.taken().len()),
            (expected, 3),
            "{per_destination} {concurrency}"
        );
    }
}
