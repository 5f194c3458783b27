//! Every single call fails, once or from then on: nothing is promised that is not kept, and once
//! the disk is well again the store goes on by itself.

use nix::errno::Errno;
use postroad_queue::Operation;

use super::Dice;
use super::disk::Cut;
use super::faults::{Fault, calls};
use super::survival::survives;
use super::world::{How, Step, World};

/// Power cuts after each trouble.
const SEEDS: u64 = 12;

/// A day of a store that is not stopped meanwhile.
fn history() -> Vec<Step> {
    use Step::*;
    vec![
        Accept(0, false, false),
        Accept(2, true, false),
        Claim(10, 10),
        Record(0, How::Deliver),
        Record(0, How::FailAndTell),
        Tick,
        Accept(3, false, false),
        Accept(1, true, false),
        Operate(1, Operation::Hold),
        Claim(10, 10),
        Record(1, How::DeferAndTell(20)),
        Record(0, How::Partly(10)),
        Record(0, How::Deliver),
        Compact(false),
        Tick,
        Accept(0, true, false),
        Accept(3, false, false),
        Advance(30),
        Operate(0, Operation::Remove),
        Claim(10, 10),
        Record(0, How::Deliver),
        Record(0, How::Deliver),
        Record(0, How::Deliver),
        Compact(true),
        Tick,
    ]
}

/// One that is stopped, and killed.
fn restarts() -> Vec<Step> {
    use Step::*;
    vec![
        Accept(2, true, false),
        Accept(3, false, true),
        Claim(10, 10),
        Record(0, How::Deliver),
        Operate(0, Operation::Hold),
        Record(0, How::DeferAndTell(20)),
        Reopen,
        Accept(0, false, false),
        Operate(0, Operation::Release),
        Compact(true),
        Record(0, How::Defer(10)),
        Kill,
        Accept(0, true, false),
        Claim(10, 10),
        Record(0, How::Deliver),
        Record(0, How::FailAndTell),
        Compact(true),
        Reopen,
        Advance(30),
        Claim(10, 10),
        Record(0, How::Deliver),
        Tick,
    ]
}

/// How it ends when the n-th of these calls fails, for each n there is.
fn each_call_fails(fault: fn(u64) -> Fault, steps: &[Step]) {
    let mut wrong = Vec::new();
    for n in 1.. {
        let mut world = World::new(true);
        world.io.0.inject(fault(n));
        world.run(steps);
        let fired = world.io.0.fired();
        if fired == 0 {
            break;
        }
        world.heal();
        // It goes on by itself.
        world.step(Step::Accept(3, true, false));
        world.step(Step::Accept(0, false, false));
        // What could not be synced is first brought elsewhere.
        assert!((0..4).any(|_| world.tick()), "{:?}", fault(n));
        world.step(Step::Tick);
        world.look();
        let ops = world.io.0.ops();
        world.kill();
        let mut cuts = vec![(ops.len(), Cut::Lost), (ops.len(), Cut::Kept)];
        let mut dice = Dice::new(n);
        cuts.extend((0..SEEDS).map(|seed| {
            let failed = world.failed.min(ops.len());
            let k = failed + dice.below(ops.len() - failed + 1);
            (k, Cut::Some(1000 * seed + n))
        }));
        for (k, cut) in cuts {
            if let Err(error) = survives(&ops[..k], &world.marks, cut) {
                wrong.push(format!("{:?}: {cut:?} after call {k}: {error}", fault(n)));
            }
        }
    }
    if !wrong.is_empty() {
        panic!("{} times: {}", wrong.len(), wrong.join("\n\n"));
    }
}

/// A kill in the middle of anything; and soon after the next start, the power is cut. What the new
/// process has found it may have found in the kernel's memory alone.
#[test]
fn a_kill_at_each_call_and_then_a_power_cut() {
    let mut wrong = Vec::new();
    let steps = history();
    for n in 1.. {
        let mut world = World::new(true);
        world.found_is_kept = true;
        world.io.0.kill_at(n);
        let killed = steps.iter().position(|step| {
            world.step(*step);
            world.io.0.is_dead()
        });
        let Some(killed) = killed else {
            break;
        };
        world.kill();
        let before = world.io.0.len();
        world.heal();
        world.step(Step::Tick);
        world.run(&steps[killed + 1..]);
        let ops = world.io.0.ops();
        world.kill();
        let mut dice = Dice::new(n);
        let mut cuts = vec![(ops.len(), Cut::Lost)];
        cuts.extend((0..SEEDS).map(|seed| {
            let k = before + dice.below(ops.len() - before + 1);
            let lost = seed % 2 == 0;
            (
                k,
                if lost {
                    Cut::Lost
                } else {
                    Cut::Some(1000 * seed + n)
                },
            )
        }));
        for (k, cut) in cuts {
            if let Err(error) = survives(&ops[..k], &world.marks, cut) {
                wrong.push(format!("killed at {n}, {cut:?} after call {k}: {error}"));
            }
        }
    }
    if !wrong.is_empty() {
        panic!("{} times: {}", wrong.len(), wrong.join("\n\n"));
    }
}

#[test]
fn a_call_fails_around_a_restart() {
    each_call_fails(|n| Fault::once(calls::CHANGE, n, Errno::EIO), &restarts());
}

#[test]
fn the_disk_is_full_around_a_restart() {
    let full = |n| Fault {
        times: 20,
        ..Fault::once(calls::GROW, n, Errno::ENOSPC)
    };
    each_call_fails(full, &restarts());
}

#[test]
fn a_call_fails() {
    each_call_fails(|n| Fault::once(calls::CHANGE, n, Errno::EIO), &history());
}

#[test]
fn there_is_no_room_for_a_moment() {
    each_call_fails(|n| Fault::once(calls::GROW, n, Errno::ENOSPC), &history());
}

#[test]
fn the_disk_is_full_from_then_on() {
    each_call_fails(|n| Fault::from(calls::GROW, n, Errno::ENOSPC), &history());
}

#[test]
fn syncs_fail_from_then_on() {
    let syncs = |n| Fault::from(calls::SYNC | calls::SYNC_DIR, n, Errno::EIO);
    each_call_fails(syncs, &history());
}

#[test]
fn the_disk_is_dead_from_then_on() {
    each_call_fails(|n| Fault::from(calls::CHANGE, n, Errno::EIO), &history());
}

/// What cannot be read for a while is neither lost nor taken for damaged for good.
#[test]
fn reads_fail_for_a_while() {
    let steps = [
        Step::Accept(0, true, false),
        Step::Accept(3, false, false),
        Step::Operate(1, Operation::Hold),
        Step::Reopen,
        Step::Accept(1, false, false),
        Step::Claim(10, 10),
        Step::Record(0, How::Deliver),
        Step::Compact(true),
        Step::Kill,
        Step::Claim(10, 10),
        Step::Record(0, How::Defer(10)),
        Step::Tick,
    ];
    for times in [1, 5, 40] {
        for n in 1.. {
            let mut world = World::new(true);
            world.io.0.inject(Fault {
                times,
                ..Fault::once(calls::READ, n, Errno::EIO)
            });
            world.run(&steps);
            let fired = world.io.0.fired();
            world.heal();
            world.step(Step::Accept(0, false, false));
            world.step(Step::Tick);
            let ops = world.io.0.ops();
            world.kill();
            for cut in [Cut::Lost, Cut::Kept] {
                let survived = survives(&ops, &world.marks, cut);
                assert_eq!(survived, Ok(()), "{cut:?}, {times} reads from {n} on");
            }
            if fired == 0 {
                break;
            }
        }
    }
}

/// A message that was refused may turn up all the same, but never without its body.
#[test]
fn what_is_refused_turns_up_whole_or_not_at_all() {
    let mut wrong = Vec::new();
    for n in 1..=3 {
        let mut world = World::new(true);
        world.run(&[Step::Accept(0, false, false), Step::Accept(0, false, false)]);
        let log = |path: &std::path::Path| path.extension().is_some_and(|e| e == "log");
        world.io.0.inject(Fault {
            only: Some(log),
            ..Fault::once(calls::SYNC | calls::WRITE, n, Errno::EIO)
        });
        world.step(Step::Accept(0, true, false));
        world.heal();
        world.step(Step::Tick);
        let ops = world.io.0.ops();
        world.kill();
        for seed in 0..100 {
            if let Err(error) = survives(&ops, &world.marks, Cut::Some(seed)) {
                wrong.push(format!("{seed} after call {n}: {error}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} times; first {}",
        wrong.len(),
        wrong[0]
    );
}

/// A sync that has failed is not made good by the next process: what its files say may never have
/// come to the disk, and is no reason to remove a body.
#[test]
fn a_sync_that_failed_before_a_restart_costs_no_body() {
    let mut world = World::new(true);
    world.run(&[
        Step::Accept(0, true, false),
        Step::Claim(9, 9),
        Step::Accept(1, false, false),
        Step::Record(0, How::Deliver),
    ]);
    let journal = |path: &std::path::Path| path.extension().is_some_and(|e| e == "st");
    world.io.0.inject(Fault {
        only: Some(journal),
        ..Fault::once(calls::SYNC, 1, Errno::EIO)
    });
    world.step(Step::Reopen);
    world.heal();
    let ops = world.io.0.ops();
    world.kill();
    let wrong = (0..100).find_map(|seed| survives(&ops, &world.marks, Cut::Some(seed)).err());
    assert_eq!(wrong, None);
}
