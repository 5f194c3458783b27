//! What must not be said for good, or not be forgotten, since not all hosts were heard.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad_queue::{RecipientState, Store as _};
use postroad_routing::{
    Destination, Hop as Via, Rate, Route, RouteLimits, RouteOptions, SharedRouter,
};

use crate::hop::{Act, Hop};
use crate::kit::World;
use crate::routes::Fixed;

/// That one hop does not exist bounces nothing while the other may only not be called yet.
#[tokio::test]
async fn a_hop_that_does_not_exist_and_one_whose_rate_is_used_up() {
    let hop = Hop::start(0).await;
    let rate = Rate {
        count: 1,
        per: Duration::from_secs(60),
    };
    let limits = RouteLimits {
        name: "few".to_owned(),
        connections: Some(rate),
        ..RouteLimits::default()
    };
    let second = Via {
        preference: 1,
        ..Via::smtp(hop.address.ip().into(), hop.address.port())
    };
    let hops = vec![Via::smtp("no.such.test".parse().unwrap(), 25), second];
    let route = Route {
        options: RouteOptions {
            limits: Some(limits.into()),
            ..RouteOptions::default()
        },
        ..Route::new(Destination::Hops(hops))
    };
    let router = SharedRouter::new(Fixed(route));
    let world = World::with(router, |config| config.idle_timeout = Duration::ZERO).await;
    world.run();
    let first = world.send("me@s.test", &["bob@far.test"]).await;
    assert!(world.settled(first, 1).await.is_none());
    let second = world.send("me@s.test", &["bob@far.test"]).await;
    let parked = || world.store.lanes().first()?.parked_until;
    world.until(async || parked()).await;
    let listed = world.settled(second, 0).await.unwrap();
    assert_eq!(listed.recipients[0].state, RecipientState::Waiting);
    world.advance(Duration::from_secs(60)).await;
    world.empty().await;
    let to: Vec<_> = hop.taken().iter().map(|t| t.to().join(" ")).collect();
    assert_eq!(to, ["bob@far.test"; 2]);
}

/// A host that has just taken mail, and greets one more session with 554, has enough of them.
#[tokio::test]
async fn a_greeting_that_refuses_a_session_too_many_bounces_nothing() {
    let world = World::with(SharedRouter::default(), |config| {
        config.idle_timeout = Duration::ZERO;
    })
    .await;
    let sessions = AtomicUsize::new(0);
    let hop = Hop::scripted(world.port, move |command, _| {
        if command == "GREETING" && sessions.fetch_add(1, Ordering::SeqCst) == 1 {
            Act::Say("554 5.7.1 too many sessions")
        } else {
            Act::Usual
        }
    })
    .await;
    world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
    world.run();
    let first = world.send("me@s.test", &["bob@far.test"]).await;
    assert!(world.settled(first, 1).await.is_none());
    let second = world.send("me@s.test", &["bob@far.test"]).await;
    let said = world.last(second, 1).await;
    assert_eq!(said, "554 5.7.1 too many sessions");
    world.advance(Duration::from_secs(60)).await;
    world.empty().await;
    assert_eq!(hop.taken().len(), 2);
}

/// A host that serves many domains, and has just taken mail for one, is not dead for all since it
/// greets a session for another with 421.
#[tokio::test]
async fn a_host_that_has_enough_of_one_domain_is_not_dead_for_the_others() {
    let world = World::with(SharedRouter::default(), |config| {
        config.idle_timeout = Duration::ZERO;
    })
    .await;
    let sessions = AtomicUsize::new(0);
    let hop = Hop::scripted(world.port, move |command, _| {
        if command == "GREETING" && sessions.fetch_add(1, Ordering::SeqCst) == 1 {
            Act::Say("421 4.7.0 too many sessions")
        } else {
            Act::Usual
        }
    })
    .await;
    for domain in ["one.test", "two.test", "three.test"] {
        world.mx(domain, &[("mx.far.test", &[hop.address.ip()])]);
    }
    world.run();
    let one = world.send("me@s.test", &["bob@one.test"]).await;
    assert!(world.settled(one, 1).await.is_none());
    let two = world.send("me@s.test", &["bob@two.test"]).await;
    let said = world.last(two, 1).await;
    assert_eq!(said, "421 4.7.0 too many sessions");
    let three = world.send("me@s.test", &["bob@three.test"]).await;
    assert!(world.settled(three, 1).await.is_none());
}

/// What the first host says of a recipient is kept, and its retry soon, though the second cannot
/// be reached.
#[tokio::test]
async fn a_host_that_cannot_be_reached_hides_no_answer() {
    let world = World::new().await;
    let first = Hop::scripted(world.port, |command, _| {
        if command.starts_with("RCPT TO:<grey") {
            Act::Say("450 4.7.1 greylisted")
        } else {
            Act::Usual
        }
    })
    .await;
    let second = Hop::scripted(world.port, |command, _| match command {
        "GREETING" => Act::Close,
        _ => Act::Usual,
    })
    .await;
    let hosts = [
        ("mx1.far.test", &[first.address.ip()][..]),
        ("mx2.far.test", &[second.address.ip()][..]),
    ];
    world.mx("far.test", &hosts);
    let id = world.send("me@s.test", &["grey@far.test"]).await;
    world.run();
    assert_eq!(world.last(id, 1).await, "450 4.7.1 greylisted");
    assert_eq!(second.connections(), 1);
}
