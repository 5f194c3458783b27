//! What every store promises, as tests: each sentence of the contract of [`Store`] is a function
//! here. They need no runtime of their own; a store's crate calls them from its tests.
//!
//! ```
//! use futures_util::FutureExt as _;
//! use postroad_queue::{MemStore, contract};
//!
//! // A store whose futures never wait can be tested without a runtime.
//! contract::all(async || MemStore::default()).now_or_never().expect("never waits");
//! ```

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "these are tests: they panic where a store fails them"
)]

mod caches;
mod fairness;
mod kit;
mod moved;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::outcome::{Outcome, RecipientState};
use crate::store::{
    AttemptRecord, Change, Claimed, Filter, Lane, Notice, Operation, Store, StoreError,
};

pub use caches::cache;
pub use fairness::{
    lanes_in_doubt_have_a_share, limits_hold, new_mail_goes_before_deferred, senders_take_turns,
};
pub use kit::{
    START, accept, accept_from, at, claim, defer, deliver, draft, evidence, read, request, said,
};
pub use moved::{
    filters_by_reason, good_is_verified, nobody_waits_leaves_nothing, resumes_where_it_stood,
};

/// All of it; each test gets a store of its own from `fresh`.
pub async fn all<S: Store>(fresh: impl AsyncFn() -> S) {
    comes_out_as_it_went_in(&fresh().await).await;
    a_large_body_too(&fresh().await).await;
    dropped_is_gone(&fresh().await).await;
    claimed_once(&fresh().await).await;
    a_lease_ends(&fresh().await).await;
    a_lost_lease_changes_nothing(&fresh().await).await;
    renewed_it_lasts(&fresh().await).await;
    final_is_final(&fresh().await).await;
    recipients_go_their_own_ways(&fresh().await).await;
    nobody_is_without_a_lane(&fresh().await).await;
    in_order_of_due_time(&fresh().await).await;
    lanes_are_limited_and_fair(&fresh().await).await;
    trouble_does_not_starve(&fresh().await).await;
    senders_take_turns(&fresh().await).await;
    new_mail_goes_before_deferred(&fresh().await).await;
    lanes_in_doubt_have_a_share(&fresh().await).await;
    limits_hold(&fresh().await).await;
    parked_lanes_rest(&fresh().await).await;
    jobs_are_hastened(&fresh().await).await;
    given_back_counts_nothing(&fresh().await).await;
    notices_come_with_their_state(&fresh().await).await;
    operators_are_obeyed(&fresh().await).await;
    a_retry_during_an_attempt_counts(&fresh().await).await;
    pages_have_all_once(&fresh().await).await;
    pages_are_bounded(&fresh().await).await;
    filters_choose(&fresh().await).await;
    filters_by_reason(&fresh().await).await;
    resumes_where_it_stood(&fresh().await).await;
    nobody_waits_leaves_nothing(&fresh().await).await;
    good_is_verified(&fresh().await).await;
    sleepers_are_woken(&fresh().await).await;
    closed_is_closed(&fresh().await).await;
}

/// When `commit` returns `Ok`, the message is there: whole, listed and claimed.
pub async fn comes_out_as_it_went_in<S: Store>(store: &S) {
    let mut incoming = store.begin(START).unwrap();
    let named = incoming.id();
    incoming
        .write(Bytes::from_static(b"Hello\r\n"))
        .await
        .unwrap();
    incoming
        .write(Bytes::from_static(b"world\r\n"))
        .await
        .unwrap();
    let draft = draft(&["bob@b.example", "carol@c.example", "bill@b.example"]);
    let id = incoming.commit(START, draft.clone()).await.unwrap();
    assert_eq!(id, named);
    let whole: &[u8] = b"Subject: test\r\n\r\nHello\r\nworld\r\n";
    assert_eq!(read(&*store.content(id).await.unwrap()).await, whole);

    let claims = claim(store, START).await;
    assert_eq!(claims.len(), 2, "one job for each lane");
    for claimed in &claims {
        assert_eq!(claimed.lease.id, id);
        assert_eq!(claimed.message.id, id);
        assert_eq!(claimed.message.envelope, draft.envelope);
        assert_eq!(claimed.message.origin, draft.origin);
        assert_eq!(claimed.message.arrived, START);
        assert_eq!(claimed.message.size, whole.len() as u64);
        assert_eq!((claimed.attempts, claimed.warned), (0, false));
        let want = match claimed.lease.lane.as_str() {
            "b.example" => vec![0, 2],
            _ => vec![1],
        };
        assert_eq!(claimed.recipients, want);
        assert_eq!(read(&*claimed.content).await, whole);
        assert_eq!(claimed.content.read(7, 3).await.unwrap().as_ref(), b": t");
    }
    let listed = store.page(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].envelope, draft.envelope);
    assert_eq!(listed[0].size, whole.len() as u64);
    assert_eq!(store.totals().bytes, whole.len() as u64);
}

/// The same for a body of some megabytes, which no store needs to hold in memory.
pub async fn a_large_body_too<S: Store>(store: &S) {
    let body: Vec<u8> = (0_u32..700_000).flat_map(u32::to_be_bytes).collect();
    let id = accept(store, START, &["bob@b.example"], &body).await;
    let claims = claim(store, START).await;
    let whole = read(&*claims[0].content).await;
    let (head, rest) = whole.split_at(17);
    assert_eq!(head, b"Subject: test\r\n\r\n");
    assert!(rest == body, "the body has changed");
    assert_eq!(claims[0].message.size, whole.len() as u64);
    deliver(store, START, &claims[0]).await;
    assert!(matches!(
        store.content(id).await,
        Err(StoreError::NotFound(of)) if of == id
    ));
}

/// Dropping an `Incoming` leaves nothing behind.
pub async fn dropped_is_gone<S: Store>(store: &S) {
    let mut incoming = store.begin(START).unwrap();
    let chunk = Bytes::from(vec![b'x'; 400_000]);
    incoming.write(chunk).await.unwrap();
    let id = incoming.id();
    drop(incoming);
    assert!(store.content(id).await.is_err());
    assert!(claim(store, START).await.is_empty());
    assert_eq!(store.totals().messages, 0);
    assert_eq!(store.next_due(START), None);
}

/// `claim` never hands a job to two callers before its lease ends.
pub async fn claimed_once<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example"], b"x").await;
    assert_eq!(store.next_due(START), Some(START));
    let first = claim(store, START).await;
    assert_eq!(first.len(), 1);
    assert!(claim(store, at(59)).await.is_empty());
    assert_eq!(store.next_due(START), Some(at(60)), "the end of the lease");
    assert_eq!(store.totals().in_flight, 1);
}

/// A lease that ends without a record makes the job due again, with another token.
pub async fn a_lease_ends<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example"], b"x").await;
    let first = claim(store, START).await;
    let second = claim(store, at(60)).await;
    assert_eq!(second.len(), 1);
    assert_ne!(first[0].lease.token, second[0].lease.token);
    assert_eq!(second[0].attempts, 0);
}

/// `record` and `renew` under a lost lease are errors, and change nothing.
pub async fn a_lost_lease_changes_nothing<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example"], b"x").await;
    let first = claim(store, START).await.remove(0);
    let record = said(&first, None, || Outcome::Delivered(evidence(START)));
    let lost = |result| {
        assert!(
            matches!(result, Err(StoreError::LeaseLost(_))),
            "{result:?}"
        );
    };
    lost(store.record(at(60), &first.lease, record.clone()).await);
    let second = claim(store, at(60)).await.remove(0);
    lost(store.record(at(61), &first.lease, record.clone()).await);
    lost(
        store
            .renew(at(61), &first.lease, Duration::from_secs(9))
            .await,
    );
    assert_eq!(store.totals().messages, 1);
    deliver(store, at(61), &second).await;
    lost(store.record(at(62), &second.lease, record).await);
    assert_eq!(store.totals().messages, 0);
}

/// A renewed lease lasts.
pub async fn renewed_it_lasts<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example"], b"x").await;
    let held = claim(store, START).await.remove(0);
    let lasts = Duration::from_secs(100);
    store.renew(at(50), &held.lease, lasts).await.unwrap();
    assert!(claim(store, at(149)).await.is_empty());
    deliver(store, at(149), &held).await;
    assert!(claim(store, at(1000)).await.is_empty());
}

/// A recipient in a final state is never claimed again.
pub async fn final_is_final<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example", "bill@b.example"], b"x").await;
    let first = claim(store, START).await.remove(0);
    let mut record = said(&first, Some(at(10)), || Outcome::Deferred(evidence(START)));
    record.changes[0].outcome = Outcome::Failed(evidence(START));
    // A recipient that the claim does not cover is none of its business.
    record.changes.push(Change {
        recipient: 17,
        outcome: Outcome::Delivered(evidence(START)),
    });
    store.record(START, &first.lease, record).await.unwrap();

    let listed = store.page(&Filter::default(), None, 10).await.unwrap();
    let states: Vec<_> = listed[0].recipients.iter().map(|r| r.state).collect();
    assert_eq!(states, [RecipientState::Failed, RecipientState::Waiting]);
    assert_eq!(listed[0].recipients[0].due, None);
    assert_eq!(listed[0].recipients[1].due, Some(at(10)));
    assert_eq!(listed[0].recipients[1].last, Some(evidence(START)));

    assert!(claim(store, at(9)).await.is_empty());
    let second = claim(store, at(10)).await.remove(0);
    assert_eq!(
        (second.recipients.as_slice(), second.attempts),
        (&[1][..], 1)
    );
    deliver(store, at(10), &second).await;
    assert!(claim(store, at(100_000)).await.is_empty());
    assert!(store.lanes().is_empty());
    assert_eq!(store.totals(), crate::store::Totals::default());
}

/// Lanes of one message are claimed, recorded and counted apart.
pub async fn recipients_go_their_own_ways<S: Store>(store: &S) {
    let id = accept(store, START, &["bob@b.example", "carol@c.example"], b"x").await;
    let claims = claim(store, START).await;
    for claimed in &claims {
        if claimed.lease.lane.as_str() == "b.example" {
            deliver(store, START, claimed).await;
        } else {
            defer(store, START, claimed, at(5)).await;
        }
    }
    let again = claim(store, at(5)).await.remove(0);
    assert_eq!(again.lease.lane.as_str(), "c.example");
    assert_eq!((again.attempts, again.lease.id), (1, id));
    let mut record = said(&again, Some(at(9)), || Outcome::Deferred(evidence(at(5))));
    record.warned = true;
    store.record(at(5), &again.lease, record).await.unwrap();
    let last = claim(store, at(9)).await.remove(0);
    assert_eq!((last.attempts, last.warned), (2, true));
    deliver(store, at(9), &last).await;
    assert_eq!(store.totals().messages, 0);
}

/// A recipient for whom no lane was given is in that of its domain.
pub async fn nobody_is_without_a_lane<S: Store>(store: &S) {
    let mut draft = draft(&["bob@b.example", "carol@c.example", "dan@d.example"]);
    draft.lanes.truncate(1);
    let incoming = store.begin(START).unwrap();
    incoming.commit(START, draft).await.unwrap();
    let claims = claim(store, START).await;
    let mut lanes: Vec<_> = claims.iter().map(|c| c.lease.lane.as_str()).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, ["b.example", "c.example", "d.example"]);
}

/// `claim` takes what is due in order of due time, and of arrival where that is the same.
pub async fn in_order_of_due_time<S: Store>(store: &S) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(accept(store, START, &["bob@b.example"], b"x").await);
    }
    let claims = claim(store, START).await;
    assert_eq!(claims.iter().map(|c| c.lease.id).collect::<Vec<_>>(), ids);
    for (claimed, due) in claims.iter().zip([30, 10, 20, 10, 40]) {
        defer(store, START, claimed, at(due)).await;
    }
    assert_eq!(store.next_due(START), Some(at(10)));
    let claims = claim(store, at(30)).await;
    let got: Vec<_> = claims.iter().map(|c| c.lease.id).collect();
    assert_eq!(got, [ids[1], ids[3], ids[2], ids[0]]);
}

/// `max` and `per_lane` are kept, and a long lane does not keep a short one waiting.
pub async fn lanes_are_limited_and_fair<S: Store>(store: &S) {
    for _ in 0..50 {
        accept(store, START, &["bob@long.example"], b"x").await;
    }
    accept(store, at(1), &["bob@short.example"], b"x").await;
    let first = store.claim(at(1), &request(6, 20)).await.unwrap();
    assert_eq!(first.len(), 6);
    assert!(
        first
            .iter()
            .any(|c| c.lease.lane.as_str() == "short.example")
    );
    let second = store.claim(at(1), &request(100, 20)).await.unwrap();
    assert_eq!(
        first.len() + second.len(),
        21,
        "20 of the long lane and the other"
    );
    assert!(
        store
            .claim(at(1), &request(100, 20))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        store.next_due(at(1)),
        Some(at(61)),
        "nothing before a lease ends"
    );
    let lanes = store.lanes();
    assert_eq!(lanes[0].lane.as_str(), "long.example");
    assert_eq!((lanes[0].waiting, lanes[0].in_flight), (30, 20));
    for claimed in first.iter().chain(&second) {
        deliver(store, at(1), claimed).await;
    }
    assert_eq!(
        store.claim(at(1), &request(100, 40)).await.unwrap().len(),
        30
    );
}

/// Lanes whose attempts fail leave most turns to those that do not, and get some.
pub async fn trouble_does_not_starve<S: Store>(store: &S) {
    for n in 0..40 {
        accept(store, START, &[&format!("x@dead{n}.example")], b"x").await;
    }
    for claimed in claim(store, START).await {
        defer(store, START, &claimed, at(1)).await;
    }
    for n in 0..4 {
        accept(store, at(2), &[&format!("x@live{n}.example")], b"x").await;
    }
    let claims = store.claim(at(2), &request(8, 1)).await.unwrap();
    let live = |c: &&Claimed| c.lease.lane.as_str().starts_with("live");
    assert_eq!(claims.iter().filter(live).count(), 4);
    assert_eq!(claims.len(), 8);
}

/// Nothing of a parked lane is claimed before the end of its parking.
pub async fn parked_lanes_rest<S: Store>(store: &S) {
    let lane = Lane::new("b.example");
    accept(store, START, &["bob@b.example"], b"x").await;
    store.park(&lane, at(100));
    accept(store, START, &["bob@b.example", "carol@c.example"], b"x").await;
    let claims = claim(store, START).await;
    assert_eq!(claims.len(), 1);
    deliver(store, START, &claims[0]).await;
    assert_eq!(store.next_due(at(1)), Some(at(100)));
    assert_eq!(store.lanes()[0].parked_until, Some(at(100)));
    assert!(claim(store, at(99)).await.is_empty());
    assert_eq!(claim(store, at(100)).await.len(), 2);
}

/// Jobs of one lane are made due, so many and no more, those first that are due first; not those
/// of other lanes, nor those that are held, nor those that are due, nor what is parked.
pub async fn jobs_are_hastened<S: Store>(store: &S) {
    let lane = Lane::new("b.example");
    assert_eq!(store.hasten(&lane, START, 9), 0);
    let mut ids = Vec::new();
    for (n, to) in ["1@b.example", "2@b.example", "3@b.example", "4@c.example"]
        .iter()
        .enumerate()
    {
        ids.push(accept(store, START, &[to], b"x").await);
        let claimed = claim(store, START).await.remove(0);
        let due = at(9000 - 1000 * u64::try_from(n).unwrap());
        defer(store, START, &claimed, due).await;
    }
    let held = Filter {
        ids: vec![ids[2]],
        ..Filter::default()
    };
    store.operate(START, Operation::Hold, &held).await.unwrap();
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&wakes);
    store.on_due(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    assert_eq!(store.hasten(&lane, at(10), 0), 0);
    assert_eq!(wakes.load(Ordering::SeqCst), 0);
    assert_eq!(store.hasten(&lane, at(10), 1), 1);
    assert_eq!(wakes.load(Ordering::SeqCst), 1);
    assert_eq!(store.next_due(at(10)), Some(at(10)));
    let second = claim(store, at(10)).await;
    assert_eq!((second.len(), second[0].lease.id), (1, ids[1]));
    assert_eq!(second[0].attempts, 1);
    // What is under lease is not touched; what is due already does not count.
    store.park(&lane, at(100));
    assert_eq!(store.hasten(&lane, at(10), 9), 1);
    assert_eq!(store.hasten(&lane, at(10), 9), 0);
    deliver(store, at(10), &second[0]).await;
    assert!(claim(store, at(99)).await.is_empty());
    let first = claim(store, at(100)).await;
    assert_eq!((first.len(), first[0].lease.id), (1, ids[0]));
    // A record says anew when it is due.
    defer(store, at(100), &first[0], at(5000)).await;
    assert!(claim(store, at(4999)).await.is_empty());
    let rest = claim(store, at(6000)).await;
    let rest: Vec<_> = rest.iter().map(|x| x.lease.id).collect();
    assert_eq!(rest, [ids[0], ids[3]]);
}

/// A claim given back untouched is due again and counts no attempt.
pub async fn given_back_counts_nothing<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example"], b"x").await;
    let claimed = claim(store, START).await.remove(0);
    store
        .record(at(1), &claimed.lease, AttemptRecord::default())
        .await
        .unwrap();
    let again = claim(store, at(1)).await.remove(0);
    assert_eq!((again.attempts, again.recipients.len()), (0, 1));
}

/// Messages owed for a record are there when it is.
pub async fn notices_come_with_their_state<S: Store>(store: &S) {
    let id = accept(store, START, &["bob@b.example"], b"x").await;
    let claimed = claim(store, START).await.remove(0);
    let mut record = said(&claimed, None, || Outcome::Failed(evidence(START)));
    record.notices.push(Notice {
        draft: draft(&["alice@sender.example"]),
        body: Bytes::from_static(b"it did not arrive"),
    });
    store.record(at(1), &claimed.lease, record).await.unwrap();
    assert!(store.content(id).await.is_err());
    let notice = claim(store, at(1)).await.remove(0);
    assert_ne!(notice.lease.id, id);
    assert_eq!(notice.lease.lane.as_str(), "sender.example");
    assert!(read(&*notice.content).await.ends_with(b"it did not arrive"));
    assert_eq!(store.totals().messages, 1);
}

/// Hold, release, retry and remove do what they say, to what the filter says.
pub async fn operators_are_obeyed<S: Store>(store: &S) {
    let b = accept(store, START, &["bob@b.example"], b"x").await;
    let c = accept(store, START, &["carol@c.example"], b"x").await;
    let only = |id| Filter {
        ids: vec![id],
        ..Filter::default()
    };
    assert_eq!(
        store
            .operate(START, Operation::Hold, &only(b))
            .await
            .unwrap(),
        1
    );
    assert_eq!(store.totals().held, 1);
    let claims = claim(store, START).await;
    assert_eq!(claims.iter().map(|x| x.lease.id).collect::<Vec<_>>(), [c]);
    defer(store, START, &claims[0], at(5000)).await;
    assert_eq!(store.next_due(at(1)), Some(at(5000)));

    assert_eq!(
        store
            .operate(at(1), Operation::Release, &only(b))
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        store
            .operate(at(1), Operation::Retry, &only(c))
            .await
            .unwrap(),
        1
    );
    assert_eq!(store.totals().held, 0);
    let claims = claim(store, at(1)).await;
    assert_eq!(claims.len(), 2);

    // What is held while under lease stays held afterwards.
    assert_eq!(
        store
            .operate(at(1), Operation::Hold, &only(b))
            .await
            .unwrap(),
        1
    );
    for claimed in &claims {
        defer(store, at(1), claimed, at(2)).await;
    }
    let claims = claim(store, at(3)).await;
    assert_eq!(claims.iter().map(|x| x.lease.id).collect::<Vec<_>>(), [c]);

    assert_eq!(
        store
            .operate(at(3), Operation::Remove, &only(c))
            .await
            .unwrap(),
        1
    );
    let record = said(&claims[0], None, || Outcome::Delivered(evidence(at(3))));
    let lost = store.record(at(3), &claims[0].lease, record).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost(_))), "{lost:?}");
    let all = Filter::default();
    assert_eq!(
        store.operate(at(3), Operation::Remove, &all).await.unwrap(),
        1
    );
    assert_eq!(
        store
            .operate(at(3), Operation::Remove, &only(b))
            .await
            .unwrap(),
        0
    );
    assert_eq!(store.totals().messages, 0);
    assert_eq!(store.next_due(at(3)), None);
}

/// A retry that is asked for while an attempt is under way holds for when that has ended.
pub async fn a_retry_during_an_attempt_counts<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example"], b"x").await;
    let claimed = claim(store, START).await.remove(0);
    let all = Filter::default();
    store.operate(at(1), Operation::Retry, &all).await.unwrap();
    assert!(claim(store, at(2)).await.is_empty(), "not before");
    defer(store, at(3), &claimed, at(5000)).await;
    let claimed = claim(store, at(4)).await.remove(0);
    // Once.
    defer(store, at(5), &claimed, at(5000)).await;
    assert!(claim(store, at(6)).await.is_empty());
    assert_eq!(claim(store, at(5000)).await.len(), 1);
}

/// `page` has every message once, by id.
pub async fn pages_have_all_once<S: Store>(store: &S) {
    let mut ids = Vec::new();
    for n in 0..25 {
        ids.push(accept(store, at(n), &["bob@b.example"], b"x").await);
    }
    ids.sort();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.page(&Filter::default(), after, 10).await.unwrap();
        assert!(page.len() <= 10);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|m| m.id));
    }
    assert_eq!(seen, ids);
}

/// A page of messages with many recipients is short, and not the last.
pub async fn pages_are_bounded<S: Store>(store: &S) {
    let to: Vec<String> = (0..3000).map(|n| format!("u{n}@b.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    for n in 0..6 {
        accept(store, at(n), &to, b"x").await;
    }
    let page = store.page(&Filter::default(), None, 10).await.unwrap();
    assert!((1..=4).contains(&page.len()), "{}", page.len());
    let after = page.last().map(|last| last.id);
    let rest = store.page(&Filter::default(), after, 10).await.unwrap();
    assert_eq!(page.len() + rest.len(), 6);
}

/// Each part of a filter restricts.
pub async fn filters_choose<S: Store>(store: &S) {
    let b = accept(store, START, &["bob@b.example"], b"x").await;
    let c = accept(store, at(9), &["carol@c.example", "bob@c.example"], b"x").await;
    store
        .operate(
            at(9),
            Operation::Hold,
            &Filter {
                ids: vec![c],
                ..Filter::default()
            },
        )
        .await
        .unwrap();
    let some = |text: &str| Some(text.to_owned());
    let none = Filter::default;
    for (filter, want) in [
        (
            Filter {
                ids: vec![c],
                ..none()
            },
            vec![c],
        ),
        (
            Filter {
                from: some("ALICE@"),
                ..none()
            },
            vec![b, c],
        ),
        (
            Filter {
                from: some("<>"),
                ..none()
            },
            vec![],
        ),
        (
            Filter {
                to: some("carol"),
                ..none()
            },
            vec![c],
        ),
        (
            Filter {
                to: some("bob"),
                ..none()
            },
            vec![b, c],
        ),
        (
            Filter {
                lane: some("b.example"),
                ..none()
            },
            vec![b],
        ),
        (
            Filter {
                lane: some("example"),
                ..none()
            },
            vec![],
        ),
        (
            Filter {
                domain: some("B.Example"),
                ..none()
            },
            vec![b],
        ),
        (
            Filter {
                domain: some("no domain"),
                ..none()
            },
            vec![],
        ),
        (
            Filter {
                domain: some("example"),
                ..none()
            },
            vec![],
        ),
        (
            Filter {
                arrived_before: Some(at(9)),
                ..none()
            },
            vec![b],
        ),
        (
            Filter {
                held: Some(true),
                ..none()
            },
            vec![c],
        ),
        (
            Filter {
                held: Some(false),
                ids: vec![c],
                ..none()
            },
            vec![],
        ),
    ] {
        let page = store.page(&filter, None, 10).await.unwrap();
        let got: Vec<_> = page.iter().map(|m| m.id).collect();
        assert_eq!(got, want, "{filter:?}");
    }
}

/// `on_due` calls when a job becomes due.
pub async fn sleepers_are_woken<S: Store>(store: &S) {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    store.on_due(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let taken = || woken.swap(0, Ordering::SeqCst);
    accept(store, START, &["bob@b.example"], b"x").await;
    assert!(taken() > 0, "a commit");
    let claimed = claim(store, START).await.remove(0);
    store
        .record(START, &claimed.lease, AttemptRecord::default())
        .await
        .unwrap();
    assert!(taken() > 0, "a claim given back");
    let claimed = claim(store, START).await.remove(0);
    defer(store, START, &claimed, at(99)).await;
    taken();
    store
        .operate(at(1), Operation::Retry, &Filter::default())
        .await
        .unwrap();
    assert!(taken() > 0, "a retry");
}

/// After `close` everything but listings is refused.
pub async fn closed_is_closed<S: Store>(store: &S) {
    accept(store, START, &["bob@b.example"], b"x").await;
    let claimed = claim(store, START).await.remove(0);
    let open = store.begin(START).unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.begin(START), Err(StoreError::Closed)));
    let late = open.commit(START, draft(&["bob@b.example"])).await;
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
    assert!(store.claim(at(60), &request(1, 1)).await.is_err());
    let record = store
        .record(START, &claimed.lease, AttemptRecord::default())
        .await;
    assert!(matches!(record, Err(StoreError::Closed)), "{record:?}");
    let listed = store.page(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(store.totals().messages, 1);
    store.close().await.unwrap();
}
