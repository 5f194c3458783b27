//! What must come to nothing: jobs that are cut off, hosts that come and go, rates with dead
//! destinations behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad_queue::{Filter, RetrySchedule, Store as _};
use postroad_routing::{Rate, RouteLimits, SharedRouter};

use crate::world::{Temper, WELL, World};
use crate::{MINUTE, PER_DESTINATION, S, limited};

fn messages(count: u32, per: Duration) -> SharedRouter {
    limited(RouteLimits {
        name: "slow".to_owned(),
        messages: Some(Rate { count, per }),
        ..RouteLimits::default()
    })
}

/// A probe that is cut off with its job, since somebody has removed the message, keeps nobody from
/// trying the host; nor does the job leave anything else behind.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cut_off_is_followed_by_another() {
    let world = World::new(SharedRouter::default(), |config| {
        config.connect_timeout = 400 * S;
    });
    world.net.set(1, Temper::Dead);
    world.run();
    let id = world.send("a@s.test", 1).await;
    tokio::time::sleep(405 * S).await;
    world.remove(vec![id]).await;
    assert_eq!(world.net.seen(1).connects, 1);
    // Dead for 30 s: then comes the probe.
    tokio::time::sleep(40 * S).await;
    let probe = world.send("a@s.test", 1).await;
    tokio::time::sleep(S).await;
    assert_eq!((world.net.seen(1).connects, world.net.seen(1).open), (2, 1));
    world.remove(vec![probe]).await;
    // It is cut off when its lease is to be renewed.
    tokio::time::sleep(210 * S).await;
    assert_eq!(world.net.seen(1).open, 0);
    assert!(
        world
            .outbound
            .destinations()
            .iter()
            .all(|d| d.in_flight == 0)
    );
    world.net.set(1, WELL);
    world.send("a@s.test", 1).await;
    world.until(5 * S, || world.net.all_have(1..2, 1)).await;
}

/// While messages are tried that the queue has no more, others of their destination are not
/// claimed and given back over and over.
#[tokio::test(start_paused = true)]
async fn removed_messages_under_way_make_nothing_spin() {
    const WAKES_MAX: usize = 5000;
    let world = World::new(SharedRouter::default(), |_| ());
    world.net.set(1, Temper::Dead);
    world.run();
    let mut first = Vec::new();
    for _ in 0..5 {
        first.push(world.send("a@s.test", 1).await);
    }
    tokio::time::sleep(S).await;
    assert_eq!(world.net.seen(1).open, 5);
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&wakes);
    world.store.on_due(Arc::new(move || {
        let wakes = count.fetch_add(1, Ordering::SeqCst);
        assert!(wakes <= WAKES_MAX, "it spins");
    }));
    for _ in 0..20 {
        world.send("b@s.test", 1).await;
    }
    world.remove(first).await;
    tokio::time::sleep(20 * S).await;
    let wakes = wakes.load(Ordering::SeqCst);
    println!("{wakes} wakes in 20 s");
    assert!(wakes <= WAKES_MAX);
    world.net.set(1, WELL);
    world
        .until(5 * MINUTE, || world.net.all_have(1..2, 20))
        .await;
}

/// That we know no way to a host does not make it live again.
#[tokio::test(start_paused = true)]
async fn no_way_to_a_host_says_nothing_of_it() {
    let world = World::new(SharedRouter::default(), |_| ());
    world.net.set(1, Temper::Dead);
    world.run();
    world.send("a@s.test", 1).await;
    tokio::time::sleep(70 * S).await;
    world.net.set(1, Temper::NoWay);
    let connects = world.net.seen(1).connects;
    for _ in 0..3 {
        world.send("a@s.test", 1).await;
        tokio::time::sleep(S).await;
    }
    assert_eq!(world.net.seen(1).connects, connects + 3);
    let known = world.outbound.destinations().remove(0);
    assert_eq!(known.dead_hosts.len(), 1, "{known:?}");
}

/// Of a host that comes and goes, only so much of a backlog is tried as has got through.
#[tokio::test(start_paused = true)]
async fn a_host_that_lives_for_a_moment_does_not_stir_up_a_backlog() {
    const BACKLOG: usize = 2000;
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
    let attempts = async || {
        let all = world.store.page(&Filter::default(), None, BACKLOG).await;
        let all = all.unwrap();
        all.iter().map(|m| m.recipients[0].attempts).sum::<u32>()
    };
    let before = attempts().await;
    world.net.set(1, Temper::Takes(Duration::from_secs(2)));
    world.send("b@s.test", 1).await;
    tokio::time::sleep(9 * S).await;
    world.net.set(1, Temper::Dead);
    tokio::time::sleep(5 * MINUTE).await;
    let taken = world.net.seen(1).taken.len();
    let stirred = attempts().await - before;
    println!("{taken} taken, {stirred} tried");
    assert!((1..100).contains(&taken), "{taken}");
    assert!(stirred as usize <= taken * PER_DESTINATION, "{stirred}");
}

/// One destination behind a rate gets all of it.
#[tokio::test(start_paused = true)]
async fn a_rate_is_used_up() {
    const ALL: usize = 30;
    let world = World::new(messages(1, S), |_| ());
    world.net.set(1, WELL);
    for _ in 0..ALL {
        world.send("a@s.test", 1).await;
    }
    world.run();
    let took = world
        .until(5 * MINUTE, || world.net.all_have(1..2, ALL))
        .await;
    assert!((29 * S..33 * S).contains(&took), "{took:?}");
}

/// Who was claimed before there was a token for it does not go to the end of the line.
#[tokio::test(start_paused = true)]
async fn a_rate_keeps_the_order() {
    let world = World::new(messages(1, S), |_| ());
    world.net.set(1, WELL);
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(world.send("a@s.test", 1).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.run();
    for _ in 0..10 {
        tokio::time::sleep(2 * S).await;
        let left = world.store.page(&Filter::default(), None, 30).await;
        let left: Vec<_> = left.unwrap().iter().map(|m| m.id).collect();
        let gone = ids.len() - left.len();
        assert_eq!(left, ids[gone..]);
    }
}

/// What goes by a dead host takes nothing of a rate.
#[tokio::test(start_paused = true)]
async fn dead_destinations_take_no_others_rate() {
    const LIVE: usize = 8;
    let world = World::new(messages(10, 100 * S), |_| ());
    world.net.set(1, Temper::Dead);
    world.net.set(2, WELL);
    world.run();
    world.send("a@s.test", 1).await;
    tokio::time::sleep(31 * S).await;
    for _ in 0..200 {
        world.send("a@s.test", 1).await;
    }
    tokio::time::sleep(S).await;
    for _ in 0..LIVE {
        world.send("a@s.test", 2).await;
    }
    world.until(5 * S, || world.net.all_have(2..3, LIVE)).await;
}

/// A route may allow more at once than is usual.
#[tokio::test(start_paused = true)]
async fn a_route_widens_what_is_usual() {
    const WIDE: usize = 2 * PER_DESTINATION;
    let world = World::new(
        limited(RouteLimits {
            name: "wide".to_owned(),
            per_destination: Some(WIDE),
            ..RouteLimits::default()
        }),
        |_| (),
    );
    world.net.set(1, Temper::Takes(S));
    for _ in 0..400 {
        world.send("a@s.test", 1).await;
    }
    world.run();
    world
        .until(10 * MINUTE, || world.net.all_have(1..2, 400))
        .await;
    assert_eq!(world.net.seen(1).most_open, WIDE);
}

/// What has not come to its end when the time to finish is over is not sent after all, by a process
/// that can no longer write that down.
#[tokio::test(start_paused = true)]
async fn attempts_are_cut_off_at_the_end() {
    let world = World::new(SharedRouter::default(), |_| ());
    world.net.set(1, Temper::Takes(2 * S));
    world.send("a@s.test", 1).await;
    world.run();
    tokio::time::sleep(3 * S).await;
    assert_eq!(world.net.seen(1).open, 1);
    world.stop();
    tokio::time::sleep(MINUTE).await;
    let seen = world.net.seen(1);
    assert_eq!((seen.open, seen.taken.len()), (0, 0));
    // It is due for the next process, and the attempt did not count.
    let left = world.store.page(&Filter::default(), None, 9).await.unwrap();
    assert_eq!(left[0].recipients[0].attempts, 0);
    assert!(left[0].recipients[0].due.is_some());
}
