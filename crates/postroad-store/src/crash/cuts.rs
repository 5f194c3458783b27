//! The power is cut after every single thing that the store does to its files.

use postroad_queue::Operation;

use super::disk::Cut;
use super::survival::survives;
use super::world::{How, Step, World};

/// All that a store does, in its order.
fn history() -> Vec<Step> {
    use Step::*;
    vec![
        Accept(0, false, false),
        Accept(2, true, false),
        Accept(3, false, false),
        Claim(10, 10),
        Record(0, How::Deliver),
        Record(0, How::Defer(30)),
        Record(0, How::FailAndTell),
        Operate(1, Operation::Hold),
        Tick,
        Accept(1, true, false),
        Accept(1, false, false),
        Record(0, How::Partly(20)),
        Claim(2, 1),
        Record(0, How::DeferAndTell(50)),
        Operate(1, Operation::Retry),
        Operate(1, Operation::Release),
        Advance(40),
        Compact(false),
        Accept(3, false, false),
        Operate(2, Operation::Remove),
        Claim(20, 20),
        Record(0, How::Deliver),
        Record(0, How::Deliver),
        Record(1, How::GiveBack),
        Tick,
        Kill,
        Accept(0, true, false),
        Claim(20, 20),
        Record(0, How::Deliver),
        Record(0, How::Fail),
        Record(0, How::Deliver),
        Compact(true),
        Tick,
        Reopen,
        Accept(3, true, false),
        Advance(100),
        Claim(20, 20),
        Record(0, How::Deliver),
        Record(0, How::Defer(10)),
        Record(0, How::Deliver),
        Kill,
        Tick,
        Accept(0, false, false),
        Advance(100),
        Claim(20, 20),
        Record(0, How::Deliver),
        Record(0, How::Deliver),
        Record(0, How::Deliver),
        Record(0, How::FailAndTell),
        Compact(true),
        Tick,
        Reopen,
    ]
}

fn cut_everywhere(cuts: &[Cut]) {
    let mut world = World::new(false);
    world.run(&history());
    let ops = world.io.0.ops();
    let mut wrong = Vec::new();
    for k in 0..=ops.len() {
        for (n, cut) in cuts.iter().enumerate() {
            let cut = match cut {
                Cut::Some(seed) => Cut::Some(seed + 1000 * k as u64 + n as u64),
                other => *other,
            };
            if let Err(error) = survives(&ops[..k], &world.marks, cut) {
                let last: Vec<_> = ops[..k].iter().rev().take(6).collect();
                wrong.push(format!("{cut:?} after call {k}: {error}\nlast {last:?}"));
            }
        }
    }
    if !wrong.is_empty() {
        panic!("{} times: {}", wrong.len(), wrong.join("\n\n"));
    }
}

#[test]
fn what_is_promised_survives_the_loss_of_all_else() {
    cut_everywhere(&[Cut::Lost, Cut::Kept]);
}

#[test]
fn what_is_promised_survives_whatever_the_disk_has() {
    cut_everywhere(&[Cut::Some(1), Cut::Some(2), Cut::Some(3)]);
}
