//! The power is cut after every single thing that the store does to its files.

use std::path::Path;

use postroad_queue::Operation;

use super::disk::{Cut, power_cut};
use super::model::Model;
use super::survival::{directory, keeps, survives};
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

/// What a kill leaves of a small queue, and what is promised of that.
fn small() -> (tempfile::TempDir, Model) {
    let mut world = World::new(false);
    world.run(&[
        Step::Accept(0, false, false),
        Step::Accept(2, false, false),
        Step::Claim(9, 9),
        Step::Record(0, How::Defer(10)),
        Step::Record(0, How::Deliver),
        Step::Operate(0, Operation::Hold),
        Step::Operate(1, Operation::Retry),
    ]);
    let dir = directory();
    power_cut(&world.io.0.ops(), Cut::Kept, dir.path());
    world.kill();
    (dir, world.marks.pop().unwrap())
}

fn with(from: &Path, name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let dir = directory();
    for name in ["FORMAT", "seg-00000001.log", "seg-00000001.st"] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join(name), bytes).unwrap();
    dir
}

/// A bit flipped anywhere in a journal, or its end torn off anywhere, may undo what it says there,
/// and costs no message.
#[test]
fn a_journal_gone_bad_costs_no_message() {
    let (dir, model) = small();
    let name = "seg-00000001.st";
    let whole = std::fs::read(dir.path().join(name)).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        let bad = with(dir.path(), name, &flipped);
        assert_eq!(keeps(bad.path(), model.clone()), Ok(()), "flipped at {at}");
        let torn = with(dir.path(), name, &whole[..at]);
        assert_eq!(keeps(torn.path(), model.clone()), Ok(()), "torn at {at}");
    }
}

/// Records of another log, in a file that has been used before, are none.
#[test]
fn what_another_epoch_has_left_is_not_read() {
    let (dir, model) = small();
    let (other, _) = small();
    for name in ["seg-00000001.log", "seg-00000001.st"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        let (mut bytes, stale) = (read(dir.path()), read(other.path()));
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes.truncate(end.next_multiple_of(8));
        bytes.extend_from_slice(&stale[if name.ends_with("log") { 32 } else { 0 }..]);
        let mixed = with(dir.path(), name, &bytes);
        assert_eq!(keeps(mixed.path(), model.clone()), Ok(()), "{name}");
    }
}
