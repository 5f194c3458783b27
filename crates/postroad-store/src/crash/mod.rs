//! The store on a disk that loses power, fills up and fails: what it does to its files is written
//! down, and from that is made what a disk may have at any moment.
//!
//! `world.rs` does things to a store and to the plain lists of `model.rs` alike; `disk.rs` makes
//! what a power cut leaves; `survival.rs` looks whether what was promised is there, and uses it.
//! What holds which promise (tests elsewhere with their file):
//!
//! | promise | held by |
//! |---|---|
//! | what was acknowledged is there, whole and once, after a kill or a power cut at any point | `what_is_promised_survives_the_loss_of_all_else`, `what_is_promised_survives_whatever_the_disk_has`, `any_history_is_that_of_plain_lists` |
//! | the acknowledgement comes after the sync that covers it | the same; `the_disk_comes_before_the_acknowledgement` (`tests.rs`), `one_sync_for_all_who_wait` (`promises.rs`) |
//! | a failed write or sync, or a full disk, gives no acknowledgement, and the store goes on by itself | `a_call_fails`, `there_is_no_room_for_a_moment`, `the_disk_is_full_from_then_on`, `syncs_fail_from_then_on`, `the_disk_is_dead_from_then_on`, and around a restart `a_call_fails_around_a_restart`, `the_disk_is_full_around_a_restart`; what cannot be read: `reads_fail_for_a_while` |
//! | what a start finds after a kill at any point is on disk soon, too | `a_kill_at_each_call_and_then_a_power_cut` |
//! | what is refused, or removed, turns up whole or not at all | `what_is_refused_turns_up_whole_or_not_at_all`, `a_sync_that_failed_before_a_restart_costs_no_body` |
//! | reading the log gives what the process had, and the index follows, after any history | `any_history_is_that_of_plain_lists`; `the_index_follows_and_never_leads` (`tests.rs`) |
//! | the queue is the same whatever becomes of the index | the same (here there is none at all); `the_index_is_kept_after_a_clean_stop_and_made_anew_after_another` (`checkpoint.rs`) |
//! | a record torn or flipped anywhere costs that record alone, and no panic | `torn_anywhere_the_rest_is_there`, `a_flipped_bit_costs_one_record` (`tests.rs`), `a_queue_gone_bad_opens` (`promises.rs`), `a_journal_gone_bad_costs_no_message` |
//! | what was removed, and synced, does not come back | the two power cuts and the histories above |
//! | a recipient that is done with is not tried again after a clean stop | `any_history_is_that_of_plain_lists`; `a_clean_stop_needs_no_reading` (`checkpoint.rs`) |
//! | space comes back where few messages are left | `a_few_survivors_keep_no_segments`, `space_is_bounded_after_any_history`, `an_old_segment_need_not_be_as_empty` (`compaction_tests.rs`) |
//! | compaction cut off at each step neither loses nor doubles, and undoes nothing | the two power cuts, the failing calls and the histories, which all compact; `a_retry_outlives_compaction_and_a_notice`; `what_is_finished_meanwhile_is_gone` (`compaction_tests.rs`) |
//! | a notice is there with what it settles, or neither | the same: `Model::crashed` looks for both |
//! | of the index's library neither `flush_async` nor `apply_batch` | `disallowed-methods` in `clippy.toml` |
//! | records of another log, in a file used before, are not read | `what_another_epoch_has_left_is_not_read` |

mod acts;
mod cuts;
mod disk;
mod faults;
mod model;
mod property;
mod survival;
mod trouble;
mod world;

pub(crate) use faults::{Fault, Faults, calls};

/// Numbers that are the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// Less than `n`; 0 where that is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap().max(1);
        usize::try_from(self.next() % n).unwrap()
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.below(2) == 1
    }
}
