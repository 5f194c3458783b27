//! Who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use super::kit::{START, accept, accept_from, at, claim, defer, deliver, request};
use crate::store::{Claimed, Lane, Store};

/// Messages of the one sender.
const MANY: usize = 20_000;
/// Of those, committed at once.
const TOGETHER: usize = 500;

/// Of one sender's twenty thousand messages to a destination, two go before another's single one
/// at most; and the mail of each goes in its order.
pub async fn senders_take_turns<S: Store>(store: &S) {
    let mut ids = Vec::new();
    for _ in 0..MANY / TOGETHER {
        let some = (0..TOGETHER).map(|_| accept_from(store, START, "<many@a.example>", "x@b.test"));
        ids.extend(join_all(some).await);
    }
    let one = accept_from(store, at(1), "<one@a.example>", "y@b.test").await;
    let claims = store.claim(at(1), &request(2, 1000)).await.unwrap();
    let place = claims.iter().position(|c| c.lease.id == one);
    assert!(place.is_some(), "within two jobs of that lane");
    // Three senders, once all have mail.
    for (n, from) in ["<u@c.example>", "<v@d.example>"].into_iter().enumerate() {
        for _ in 0..=n {
            accept_from(store, at(2), from, "x@b.test").await;
        }
    }
    let claims = store.claim(at(2), &request(6, 1000)).await.unwrap();
    let from = |user: &str| {
        let of = |c: &&Claimed| c.message.envelope.from.to_string().starts_with(user);
        claims.iter().filter(of).count()
    };
    assert_eq!((from("u@"), from("v@"), from("many@")), (1, 2, 3));
    let mut many: Vec<_> = claims.iter().map(|c| c.lease.id).collect();
    many.retain(|id| ids.contains(id));
    assert!(many.is_sorted(), "in order of arrival");
}

/// Mail that was never tried goes before mail that was deferred, and leaves it a quarter; notices
/// count as new, however often they were tried.
pub async fn new_mail_goes_before_deferred<S: Store>(store: &S) {
    for _ in 0..20 {
        accept(store, START, &["bob@b.example"], b"x").await;
    }
    let notice = accept_from(store, START, "<>", "bob@b.example").await;
    for claimed in claim(store, START).await {
        defer(store, START, &claimed, at(10)).await;
    }
    let mut new = Vec::new();
    for _ in 0..20 {
        new.push(accept(store, at(20), &["bob@b.example"], b"x").await);
    }
    let lane = store.lanes().remove(0);
    assert_eq!((lane.waiting, lane.deferred), (41, 20));
    let claims = store.claim(at(20), &request(16, 1000)).await.unwrap();
    let count = |is: &dyn Fn(&Claimed) -> bool| claims.iter().filter(|c| is(c)).count();
    assert_eq!(count(&|c| c.lease.id == notice), 1);
    assert_eq!(count(&|c| new.contains(&c.lease.id)), 11);
    assert_eq!(count(&|c| c.attempts == 1), 5, "four, and the notice");
    let rest = claim(store, at(20)).await;
    assert_eq!(rest.len(), 25, "what is not claimed by one is by the other");
}

/// Lanes that were never tried, and those whose last attempt failed, hold a quarter while others
/// have work, and all when those have none.
pub async fn lanes_in_doubt_have_a_share<S: Store>(store: &S) {
    accept(store, START, &["bob@live.example"], b"x").await;
    for n in 0..40 {
        accept(store, START, &[&format!("x@dead{n}.example")], b"x").await;
    }
    for claimed in claim(store, START).await {
        if claimed.lease.lane.as_str() == "live.example" {
            deliver(store, START, &claimed).await;
        } else {
            defer(store, START, &claimed, at(1)).await;
        }
    }
    // That one is known to be well, though it had no mail for a while.
    for _ in 0..60 {
        accept(store, at(2), &["bob@live.example"], b"x").await;
    }
    for n in 0..40 {
        accept(store, at(2), &[&format!("x@new{n}.example")], b"x").await;
    }
    let doubtful = |c: &&Claimed| c.lease.lane.as_str() != "live.example";
    let (mut taken, mut of_those) = (0, 0);
    for _ in 0..5 {
        let claims = store.claim(at(2), &request(16, 1000)).await.unwrap();
        taken += claims.len();
        of_those += claims.iter().filter(doubtful).count();
        assert!(
            of_those * 4 <= taken && of_those > 0,
            "{of_those} of {taken}"
        );
    }
    let rest = claim(store, at(2)).await;
    assert_eq!(taken + rest.len(), 140, "none is left out");
    // Half of them are under lease for long: who is well has what comes free.
    for claimed in rest.iter().filter(|c| !doubtful(c)) {
        deliver(store, at(2), claimed).await;
    }
    let id = accept(store, at(3), &["bob@live.example"], b"x").await;
    accept(store, at(3), &["x@new99.example"], b"x").await;
    let claims = store.claim(at(3), &request(1, 1000)).await.unwrap();
    assert_eq!(claims[0].lease.id, id);
}

/// A limit on a lane holds from when it is set, whatever is under lease then, and until it is
/// changed; when it is raised, who sleeps is woken.
pub async fn limits_hold<S: Store>(store: &S) {
    let lane = Lane::new("b.example");
    for _ in 0..30 {
        accept(store, START, &["bob@b.example"], b"x").await;
    }
    accept(store, START, &["carol@c.example"], b"x").await;
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    store.on_due(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let of_lane = async || {
        let mut claims = store.claim(START, &request(1000, 10)).await.unwrap();
        claims.retain(|c| c.lease.lane == lane);
        claims
    };

    store.limit(&lane, Some(4));
    let mut under_lease = of_lane().await;
    assert_eq!(under_lease.len(), 4);
    assert_eq!(store.lanes()[0].limit, Some(4));
    assert!(of_lane().await.is_empty());

    // Lower than what is under lease: nothing, until enough of that has ended.
    store.limit(&lane, Some(2));
    for left in [3, 2] {
        let claimed = under_lease.remove(0);
        deliver(store, START, &claimed).await;
        assert_eq!(under_lease.len(), left);
        assert!(of_lane().await.is_empty());
    }
    let claimed = under_lease.remove(0);
    deliver(store, START, &claimed).await;
    let next = of_lane().await;
    assert_eq!(next.len(), 1);
    under_lease.extend(next);

    // None at all, and nothing to wait for in this lane.
    store.limit(&lane, Some(0));
    for claimed in under_lease.drain(..) {
        deliver(store, START, &claimed).await;
    }
    assert!(of_lane().await.is_empty());
    assert_eq!(store.lanes()[0].waiting, 25);

    // Raised, and beyond what a claim allows.
    woken.store(0, Ordering::SeqCst);
    store.limit(&lane, Some(50));
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(store.next_due(START), Some(START));
    assert_eq!(of_lane().await.len(), 10);
    store.limit(&lane, None);
    assert_eq!(woken.load(Ordering::SeqCst), 2);
    assert!(of_lane().await.is_empty());
    assert_eq!(store.lanes()[0].limit, None);

    // What is said while the lane has no jobs may be forgotten; what was said before is not heard
    // again instead.
    store.limit(&lane, Some(1));
    let mut rest = claim(store, at(120_000)).await;
    while !rest.is_empty() {
        for claimed in rest.iter().filter(|c| c.lease.lane == lane) {
            deliver(store, at(120_000), claimed).await;
        }
        rest = claim(store, at(120_000)).await;
    }
    assert!(store.lanes().iter().all(|of| of.lane != lane));
    store.limit(&lane, None);
    for _ in 0..3 {
        accept(store, at(120_000), &["bob@b.example"], b"x").await;
    }
    assert_eq!(store.lanes()[0].limit, None);
    let claims = claim(store, at(120_000)).await;
    assert_eq!(claims.iter().filter(|c| c.lease.lane == lane).count(), 3);
}
