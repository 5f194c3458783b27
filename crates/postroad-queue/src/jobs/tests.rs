//! The table with many destinations, most of them dead.

use std::time::Duration;

use postroad_mail::{Timestamp, replies};

use crate::id::{Mint, QueueId};
use crate::jobs::{Flow, Jobs};
use crate::outcome::{Evidence, Outcome};
use crate::store::{AttemptRecord, Change, ClaimRequest, Lane};

pub(super) const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const FLOW: Flow = Flow::from_bits(1);
const DEAD: usize = 10_000;
const EACH: usize = 10;

pub(super) fn request(max: usize) -> ClaimRequest {
    ClaimRequest {
        max,
        per_lane: 20,
        lease: Duration::from_secs(600),
    }
}

pub(super) fn said(outcome: fn(Evidence) -> Outcome, due: Option<Timestamp>) -> AttemptRecord {
    let evidence = Evidence {
        at: START,
        hop: None,
        remote_mta: None,
        reply: replies::OK,
        remote: false,
        tls: None,
    };
    AttemptRecord {
        changes: vec![Change {
            recipient: 0,
            outcome: outcome(evidence),
        }],
        next_due: due,
        counts: true,
        ..AttemptRecord::default()
    }
}

/// Ten thousand destinations that take nothing, each with messages that wait.
fn with_dead(mint: &mut Mint, due: Timestamp) -> Jobs<()> {
    let mut jobs = Jobs::default();
    for n in 0..DEAD {
        let lane = [Lane::new(&format!("dead{n}.example"))];
        for _ in 0..EACH {
            jobs.insert(mint.next(START), (), 4096, START, FLOW, &lane);
        }
    }
    // All fail once, and so are known to be in trouble.
    loop {
        let tickets = jobs.claim(START, &request(1000));
        if tickets.is_empty() {
            return jobs;
        }
        for ticket in tickets {
            let record = said(Outcome::Deferred, Some(due));
            let settlement = jobs.settlement(START, &ticket.lease, &record).unwrap();
            assert!(jobs.settle(&ticket.lease, &settlement, &record).is_none());
        }
    }
}

/// While nothing is due nothing is to be done: the next moment is known, and a claim before it
/// looks at no job.
#[test]
fn nothing_due_is_nothing_to_do() {
    let due = START + Duration::from_secs(600);
    let mut jobs = with_dead(&mut Mint::new(1), due);
    assert_eq!(jobs.len(), DEAD * EACH);
    assert_eq!(jobs.next_due(START), Some(due));
    assert!(jobs.claim(START, &request(1000)).is_empty());
    assert_eq!(jobs.next_due(START), Some(due), "and no sooner after that");
}

/// What comes for a live destination is claimed at once, though a hundred thousand others are due,
/// and gets three turns of four as long as it lasts; in order of arrival.
#[test]
fn a_live_destination_does_not_wait_for_dead_ones() {
    let (mut mint, due) = (Mint::new(1), START + Duration::from_secs(600));
    let mut jobs = with_dead(&mut mint, due);
    let lane = Lane::new("live.example");
    let live: Vec<QueueId> = (0..100).map(|_| mint.next(due)).collect();
    for &id in &live {
        jobs.insert(id, (), 4096, due, FLOW, std::slice::from_ref(&lane));
    }
    let (mut got, mut claimed) = (Vec::new(), 0);
    while got.len() < live.len() {
        let tickets = jobs.claim(due, &request(16));
        assert!(!tickets.is_empty());
        claimed += tickets.len();
        for ticket in tickets {
            if ticket.lease.lane != lane {
                continue; // it takes its time
            }
            got.push(ticket.lease.id);
            jobs.cover(&ticket.lease, std::slice::from_ref(&lane))
                .unwrap();
            let record = said(Outcome::Delivered, None);
            let settlement = jobs.settlement(due, &ticket.lease, &record).unwrap();
            assert!(jobs.settle(&ticket.lease, &settlement, &record).is_some());
        }
    }
    assert_eq!(got, live, "in order of arrival");
    assert!(
        claimed <= 2 * live.len(),
        "{claimed} claims for {}",
        live.len()
    );
}

/// Of a hundred attempts at a time those for dead destinations, which never end, hold a quarter,
/// though there are ten thousand and nobody knows yet that they are dead; a live one has the rest.
#[test]
fn destinations_that_were_never_tried_hold_a_quarter() {
    const SLOTS: usize = 100;
    let (mut mint, mut jobs) = (Mint::new(1), Jobs::default());
    let live = Lane::new("live.example");
    let mut insert = |jobs: &mut Jobs<()>, lane: &Lane| {
        jobs.insert(
            mint.next(START),
            (),
            4096,
            START,
            FLOW,
            std::slice::from_ref(lane),
        );
    };
    let deliver = |jobs: &mut Jobs<()>, lease: &crate::store::Lease| {
        jobs.cover(lease, std::slice::from_ref(&live)).unwrap();
        let record = said(Outcome::Delivered, None);
        let settlement = jobs.settlement(START, lease, &record).unwrap();
        jobs.settle(lease, &settlement, &record);
    };
    let request = |max| ClaimRequest {
        per_lane: SLOTS,
        ..request(max)
    };
    insert(&mut jobs, &live);
    for ticket in jobs.claim(START, &request(1)) {
        deliver(&mut jobs, &ticket.lease);
    }
    // Gone and back: it is remembered that it was well.
    for _ in 0..1000 {
        insert(&mut jobs, &live);
    }
    for n in 0..DEAD {
        insert(&mut jobs, &Lane::new(&format!("dead{n}.example")));
    }
    let (mut delivered, mut held, mut rounds) = (0, 0, 0);
    while delivered < 1000 {
        let tickets = jobs.claim(START, &request(SLOTS - held));
        assert_eq!(tickets.len(), SLOTS - held, "all is used");
        for ticket in tickets {
            if ticket.lease.lane == live {
                deliver(&mut jobs, &ticket.lease);
                delivered += 1;
            } else {
                held += 1;
            }
        }
        rounds += 1;
        assert!(
            held <= SLOTS / 4 || delivered == 1000,
            "{held} in round {rounds}"
        );
    }
    assert!(rounds <= 14, "{rounds}");
    // Nothing is kept for it when it has no work, and what comes free is its own then.
    let rest = jobs.claim(START, &request(SLOTS - held));
    held += rest.len();
    assert_eq!(held, SLOTS);
    insert(&mut jobs, &live);
    insert(&mut jobs, &Lane::new("dead.example"));
    jobs.give_back(&rest[0].lease, None);
    assert_eq!(jobs.claim(START, &request(1))[0].lease.lane, live);
}

/// However many lanes a message has, and in whatever order its recipients are, each lane is one
/// job with all of them.
#[test]
fn a_lane_of_a_message_is_one_job() {
    let (mut mint, mut jobs) = (Mint::new(1), Jobs::default());
    let name = |n: usize| Lane::new(&format!("d{n}.example"));
    let lanes: Vec<_> = (0..100).map(|n| name(n * 7 % 25)).collect();
    let id = mint.next(START);
    jobs.insert(id, (), 4096, START, FLOW, &lanes);
    let saved = jobs.save(id).unwrap();
    let found: Vec<_> = saved.jobs.iter().map(|j| (&j.lane, j.waiting)).collect();
    let expected: Vec<_> = lanes.iter().take(25).map(|lane| (lane, 4)).collect();
    assert_eq!(found, expected);
}

/// Those in doubt whose attempts end at once have a quarter of the turns, not all that come free.
#[test]
fn destinations_in_doubt_have_every_fourth_turn() {
    let (mut mint, mut jobs) = (Mint::new(1), Jobs::default());
    let live = Lane::new("live.example");
    let insert = |jobs: &mut Jobs<()>, id, lane: &Lane| {
        jobs.insert(id, (), 4096, START, FLOW, std::slice::from_ref(lane));
    };
    insert(&mut jobs, mint.next(START), &live);
    for n in 0..100 {
        let lane = Lane::new(&format!("dead{n}.example"));
        insert(&mut jobs, mint.next(START), &lane);
    }
    let mut turns = Vec::new();
    while turns.len() < 41 {
        let ticket = jobs.claim(START, &request(1)).remove(0);
        let well = ticket.lease.lane == live;
        let lanes = [ticket.lease.lane.clone()];
        jobs.cover(&ticket.lease, &lanes).unwrap();
        let record = if well {
            said(Outcome::Delivered, None)
        } else {
            said(Outcome::Deferred, Some(START + Duration::from_secs(60)))
        };
        let settlement = jobs.settlement(START, &ticket.lease, &record).unwrap();
        jobs.settle(&ticket.lease, &settlement, &record);
        if well {
            insert(&mut jobs, mint.next(START), &live);
        }
        turns.push(well);
    }
    // The first one was not known to be well.
    let doubtful = turns[1..].iter().filter(|well| !**well).count();
    assert_eq!(doubtful, 10, "{turns:?}");
}
