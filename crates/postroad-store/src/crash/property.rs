//! Any history at all, against the plain lists of the model.

use postroad_queue::Operation;
use proptest::prelude::*;

use super::disk::Cut;
use super::survival::survives;
use super::world::{How, Step, World};

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Deliver),
        2 => (1_u64..60).prop_map(How::Defer),
        1 => Just(How::Fail),
        1 => Just(How::FailAndTell),
        1 => (1_u64..60).prop_map(How::Partly),
        1 => (1_u64..60).prop_map(How::DeferAndTell),
        1 => Just(How::GiveBack),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        Just(Operation::Hold),
        Just(Operation::Release),
        Just(Operation::Retry),
        Just(Operation::Remove),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let resumes = prop_oneof![4 => Just(false), 1 => Just(true)];
    let big = prop_oneof![3 => Just(false), 1 => Just(true)];
    prop_oneof![
        8 => (0_usize..4, big, resumes).prop_map(|(to, big, resumes)| Step::Accept(to, big, resumes)),
        6 => (1_usize..9, 1_usize..4).prop_map(|(max, per_lane)| Step::Claim(max, per_lane)),
        12 => (any::<usize>(), how()).prop_map(|(pick, how)| Step::Record(pick, how)),
        4 => (any::<usize>(), operation()).prop_map(|(pick, what)| Step::Operate(pick, what)),
        4 => (1_u64..70).prop_map(Step::Advance),
        3 => Just(Step::Tick),
        2 => any::<bool>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::Crash(Cut::Lost)),
        1 => Just(Step::Crash(Cut::Kept)),
        1 => any::<u64>().prop_map(|seed| Step::Crash(Cut::Some(seed))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is listed, what is due and in which order, is what plain lists say: while it runs,
    /// after each restart and at the end. A crash may cost what was not synced, and no more.
    #[test]
    fn any_history_is_that_of_plain_lists(
        steps in proptest::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(false);
        assert!(world.open());
        for step in steps {
            world.step(step);
            world.look();
        }
        let ops = world.io.0.ops();
        world.kill();
        for cut in [Cut::Lost, Cut::Kept, Cut::Some(seed)] {
            let survived = survives(&ops, &world.marks, cut);
            prop_assert!(survived.is_ok(), "{:?}: {}", cut, survived.unwrap_err());
        }
    }
}

/// What is due first comes first, be it in memory or on disk.
#[test]
fn claims_come_in_the_order_in_which_they_are_due() {
    let mut world = World::new(false);
    world.run(&[Step::Accept(0, false, false), Step::Reopen]);
    world.run(&[Step::Advance(1), Step::Accept(0, false, false)]);
    world.step(Step::Claim(9, 9));
}

/// A retry that was asked for during an attempt that came to nothing is not one more after the
/// next.
#[test]
fn a_retry_is_asked_for_once() {
    let mut world = World::new(false);
    world.run(&[
        Step::Accept(0, false, false),
        Step::Claim(1, 1),
        Step::Operate(0, Operation::Retry),
        Step::Advance(60),
        Step::Claim(1, 1),
        Step::Record(0, How::Defer(1)),
    ]);
    world.look();
}

/// What a notice settled does not undo what an operator said later, also where the message has been
/// written anew since.
#[test]
fn a_retry_outlives_compaction_and_a_notice() {
    let mut world = World::new(false);
    world.run(&[
        Step::Accept(0, false, false),
        Step::Claim(1, 1),
        Step::Record(0, How::DeferAndTell(50)),
        Step::Advance(1),
        Step::Operate(0, Operation::Retry),
        Step::Reopen,
        Step::Compact(true),
        Step::Kill,
    ]);
}
