//! Delivery on virtual time: ten thousand destinations, and what each does to the others.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test stops at the first thing that is not as it must be, and nobody else uses its parts"
)]

mod odds;
mod world;

use std::ops::Range;
use std::time::Duration;

use postroad_queue::{RetrySchedule, Store as _};
use postroad_routing::{Rate, RouteLimits, RouteOptions, RouteRule, SharedRouter, StaticRouter};

use world::{Temper, WELL, World};

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

const DESTINATIONS: u32 = 10_000;
/// Messages to each at the start.
const EACH: usize = 3;
const CONCURRENCY: usize = 1000;
const PER_DESTINATION: usize = 20;

/// A third is dead, a third slow, a third well.
fn kind(n: u32) -> Temper {
    match n % 3 {
        0 => Temper::Dead,
        1 => Temper::Takes(2 * S),
        _ => WELL,
    }
}

fn those(all: Range<u32>, of: Temper) -> impl Iterator<Item = u32> {
    all.filter(move |&n| kind(n) == of)
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_destinations_a_third_dead_a_third_slow() {
    let world = World::new(SharedRouter::default(), |config| {
        config.concurrency = CONCURRENCY;
        config.per_destination = PER_DESTINATION;
    });
    let all = 1..DESTINATIONS + 1;
    for n in all.clone() {
        world.net.set(n, kind(n));
        for m in 0..EACH {
            world.send(&format!("s{m}@s.test"), n).await;
        }
    }
    world.run();
    let taken = |kind, count: usize| {
        let (net, all) = (&world.net, all.clone());
        move || net.all_have(those(all.clone(), kind), count)
    };

    // All at once, and nothing is known of any.
    let well = world.until(10 * MINUTE, taken(WELL, EACH)).await;
    let slow = world.until(20 * MINUTE, taken(kind(1), EACH)).await;
    println!("cold: well {well:?}, slow {slow:?} later");

    // One more to each, once all is known: the dead and the slow hold up nobody.
    world
        .until(20 * MINUTE, || world.store.totals().in_flight == 0)
        .await;
    let began = world.clock.elapsed();
    for n in all.clone() {
        world.send("late@s.test", n).await;
    }
    world.until(5 * MINUTE, taken(WELL, EACH + 1)).await;
    let last = those(all.clone(), WELL)
        .filter_map(|n| world.net.seen(n).taken.last().map(|(at, _)| *at))
        .max();
    let warm = last.unwrap() - began;
    println!("warm: well {warm:?}");
    assert!(warm <= 10 * S, "{warm:?}");
    world.until(10 * MINUTE, taken(kind(1), EACH + 1)).await;

    // Nobody got a message twice, and bounds were kept.
    for n in all.clone() {
        let seen = world.net.seen(n);
        let messages = if seen.temper == Temper::Dead {
            0
        } else {
            EACH + 1
        };
        assert_eq!(seen.taken.len(), messages, "{n}");
        assert!(seen.most_open <= PER_DESTINATION, "{n}: {}", seen.most_open);
    }
    let most = world.net.most_open();
    assert!(most <= CONCURRENCY, "{most}");

    // A dead destination is called by each of its first messages, which came together, and then
    // by one probe after 30 s, 1 min, 2 min, …; not by each message each time.
    let minutes = world.clock.elapsed().as_secs() / 60;
    let probes = usize::try_from((minutes * 2 + 1).ilog2() + 1).unwrap();
    let connects = those(all.clone(), Temper::Dead).map(|n| world.net.seen(n).connects);
    let most = connects.max().unwrap();
    println!("dead: {most} connects within {minutes} min");
    assert!(most <= EACH + probes, "{most} within {minutes} min");

    // What is known of each destination is all that is kept.
    let known = world.outbound.destinations();
    assert!(known.len() <= all.len(), "{}", known.len());
    let in_flight: usize = known.iter().map(|one| one.in_flight).sum();
    assert_eq!(in_flight as u64, world.store.totals().in_flight);
}

/// A sender's flood to a destination, and another's one message to the same.
#[tokio::test(start_paused = true)]
async fn a_flood_delays_another_senders_message_by_no_more_than_its_share() {
    const FLOOD: usize = 5000;
    let world = World::new(SharedRouter::default(), |_| ());
    let pace = Duration::from_millis(50);
    world.net.set(1, Temper::Takes(pace));
    world.run();
    for _ in 0..FLOOD {
        world.send("flood@s.test", 1).await;
    }
    // The flood is under way, and has all that the destination bears.
    tokio::time::sleep(5 * S).await;
    let began = world.clock.elapsed();
    let before = world.net.seen(1).taken.len();
    assert!((100..FLOOD - 1000).contains(&before), "{before}");
    world.send("single@s.test", 1).await;
    let taken = || world.net.seen(1).taken;
    let is_single = |(_, from): &(Duration, String)| from == "single@s.test";
    world.until(MINUTE, || taken().iter().any(is_single)).await;
    let single = taken().iter().position(is_single).unwrap();
    let (at, _) = taken()[single].clone();
    let waited = at - began;
    // Senders take turns: at most those that were under way, or about to be, are before it.
    assert!(single - before <= 2 * PER_DESTINATION, "{before} {single}");
    assert!(waited <= 10 * pace, "{waited:?}");
    world
        .until(10 * MINUTE, || taken().len() == FLOOD + 1)
        .await;
    assert!(world.net.most_open() <= PER_DESTINATION);
}

/// What waits for a dead host does not wait for hours once it lives: the first that finds it alive
/// brings the others with it.
#[tokio::test(start_paused = true)]
async fn a_backlog_goes_as_soon_as_its_host_is_found_alive() {
    const BACKLOG: usize = 500;
    let hours = 4 * 60 * MINUTE;
    let world = World::new(SharedRouter::default(), |config| {
        let delays = vec![10 * S, hours];
        config.schedule = RetrySchedule::new(delays, 30 * hours, None).unwrap();
    });
    world.net.set(1, Temper::Dead);
    world.run();
    for _ in 0..BACKLOG {
        world.send("a@s.test", 1).await;
    }
    tokio::time::sleep(40 * MINUTE).await;
    let lane = &world.store.lanes()[0];
    assert_eq!((lane.waiting, lane.in_flight), (BACKLOG as u64, 0));
    // Five at once; all others were put off without a connection.
    assert_eq!(world.net.seen(1).connects, 5);
    let known = world.outbound.destination(&lane.lane).unwrap();
    assert_eq!(known.window, 2, "{known:?}");
    assert_eq!(known.dead_hosts.len(), 1, "{known:?}");

    world.net.set(1, Temper::Takes(Duration::from_millis(100)));
    world.send("b@s.test", 1).await;
    let taken = || world.net.seen(1).taken.len();
    let took = world.until(MINUTE, || taken() == BACKLOG + 1).await;
    println!("a backlog of {BACKLOG} took {took:?}");
    assert!(world.net.seen(1).most_open <= PER_DESTINATION);
    let known = world.outbound.destination(&lane.lane).unwrap();
    assert!(known.dead_hosts.is_empty() && known.window > 5, "{known:?}");
}

fn limited(limits: RouteLimits) -> SharedRouter {
    let rule = RouteRule {
        options: RouteOptions {
            limits: Some(limits.into()),
            ..RouteOptions::default()
        },
        ..RouteRule::new("mx".parse().unwrap())
    };
    SharedRouter::new(StaticRouter::new(vec![rule]))
}

/// The rates of a route hold over all its destinations together, and nothing spins meanwhile: on
/// this clock, time passes only while nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn rates_of_a_route() {
    let rate = |count| Some(Rate { count, per: 10 * S });
    for (messages, connections) in [(rate(10), None), (None, rate(10))] {
        let world = World::new(
            limited(RouteLimits {
                name: "slow".to_owned(),
                messages,
                connections,
                ..RouteLimits::default()
            }),
            |config| config.messages_per_connection = 1,
        );
        const ALL: Range<u32> = 1..41;
        for n in ALL {
            world.net.set(n, WELL);
            for _ in 0..3 {
                world.send("a@s.test", n).await;
            }
        }
        world.run();
        let all = || {
            let mut all: Vec<_> = ALL.flat_map(|n| world.net.seen(n).taken).collect();
            all.sort();
            all
        };
        let took = world.until(10 * MINUTE, || all().len() == 120).await;
        // Ten at once, the others one a second.
        assert!((109 * S..125 * S).contains(&took), "{took:?}");
        for window in all().windows(12) {
            let (first, last) = (window[0].0, window[11].0);
            assert!(last - first >= S, "{first:?} {last:?}");
        }
        // That they waited is no attempt, and no failure.
        let known = world.outbound.destinations();
        assert!(known.iter().all(|one| one.last_error.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_says_how_many_at_once() {
    let world = World::new(
        limited(RouteLimits {
            name: "narrow".to_owned(),
            per_destination: Some(2),
            ..RouteLimits::default()
        }),
        |_| (),
    );
    world.net.set(1, Temper::Takes(S));
    for _ in 0..40 {
        world.send("a@s.test", 1).await;
    }
    world.run();
    let taken = || world.net.seen(1).taken.len();
    world.until(10 * MINUTE, || taken() == 40).await;
    assert_eq!(world.net.seen(1).most_open, 2);
    assert_eq!(world.net.seen(1).connects, 2);
}

/// How old a connection may become, how many messages it carries, how long it is kept.
#[tokio::test(start_paused = true)]
async fn connections_are_used_again_within_limits() {
    for (messages, lifetime, idle, connects) in [
        (100, 300 * S, 5 * S, 1),
        (10, 300 * S, 5 * S, 3),
        (100, 6 * S, 5 * S, 5),
        (100, 300 * S, Duration::ZERO, 30),
        (100, 300 * S, S / 2, 30),
    ] {
        let world = World::new(SharedRouter::default(), |config| {
            config.messages_per_connection = messages;
            config.connection_lifetime = lifetime;
            config.idle_timeout = idle;
        });
        world.net.set(1, WELL);
        world.run();
        for _ in 0..30 {
            world.send("a@s.test", 1).await;
            tokio::time::sleep(S).await;
        }
        let seen = world.net.seen(1);
        assert_eq!(seen.taken.len(), 30);
        assert_eq!(seen.connects, connects, "{messages} {lifetime:?} {idle:?}");
        tokio::time::sleep(idle + 2 * S).await;
        assert_eq!(world.net.seen(1).open, 0);
    }
}

/// The same on several threads and in real time: nothing is sent twice, nothing stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_on_several_threads() {
    const ALL: Range<u32> = 1..21;
    const EACH: usize = 100;
    let world = World::new(SharedRouter::default(), |config| config.concurrency = 50);
    for n in ALL {
        world.net.set(n, WELL);
    }
    world.run();
    for m in 0..EACH {
        for n in ALL {
            world.send(&format!("s{m}@s.test"), n).await;
        }
    }
    let done = || world.store.totals().messages == 0;
    world.until(MINUTE, done).await;
    for n in ALL {
        let seen = world.net.seen(n);
        assert_eq!(seen.taken.len(), EACH, "{n}");
        assert!(seen.most_open <= PER_DESTINATION);
    }
    assert!(world.net.most_open() <= 50);
    let known = world.outbound.destinations();
    let idle = || {
        world
            .outbound
            .destinations()
            .iter()
            .all(|one| one.in_flight == 0)
    };
    world.until(MINUTE, idle).await;
    assert!(
        known.iter().all(|one| one.window == PER_DESTINATION),
        "{known:?}"
    );
}

/// However many destinations nobody answers at, some places are left for those that do well.
#[tokio::test(start_paused = true)]
async fn places_are_kept_for_destinations_that_do_well() {
    const DEAD: Range<u32> = 2..200;
    let world = World::new(SharedRouter::default(), |config| config.concurrency = 16);
    world.net.set(1, WELL);
    world.run();
    world.send("a@s.test", 1).await;
    world.until(S, || world.net.all_have(1..2, 1)).await;
    tokio::time::sleep(10 * S).await;
    for n in DEAD {
        world.net.set(n, Temper::Dead);
        world.send("a@s.test", n).await;
    }
    for second in 0..60 {
        tokio::time::sleep(S).await;
        let began = world.clock.elapsed();
        world.send("a@s.test", 1).await;
        let all = || world.net.all_have(1..2, second + 2);
        assert!(world.until(S, all).await <= S, "{began:?}");
        // The idle connection to the one that does well is the fifteenth.
        let connecting: usize = DEAD.map(|n| world.net.seen(n).open).sum();
        assert!(connecting <= 14, "{connecting}");
        assert!(second > 25 || connecting == 14, "{second}: {connecting}");
    }
    // All others have their turn.
    let tried = || DEAD.into_iter().all(|n| world.net.seen(n).connects > 0);
    world.until(10 * MINUTE, tried).await;
}
