//! What an attempt did, for the history; nothing at all where none is kept.

use postroad_mail::{Timestamp, escape_peer_text};
use postroad_queue::history::Step;

/// Steps of an attempt that are kept, at most.
const STEPS_MAX: usize = 64;
/// Octets of a step, at most.
const STEP_MAX: usize = 512;

/// The steps of one attempt.
#[derive(Debug)]
pub(crate) struct Trail(Option<Vec<Step>>);

impl Trail {
    pub(crate) const fn new(is_kept: bool) -> Self {
        Self(if is_kept { Some(Vec::new()) } else { None })
    }

    /// Adds a step: with whom, and what. Not asked for where it would not be kept.
    pub(crate) fn note(&mut self, at: Timestamp, step: impl FnOnce() -> (Option<String>, String)) {
        let Some(steps) = &mut self.0 else {
            return;
        };
        if steps.len() + 1 < STEPS_MAX {
            let (hop, what) = step();
            let mut what = escape_peer_text(&what);
            what.truncate(what.floor_char_boundary(STEP_MAX));
            steps.push(Step { at, hop, what });
        } else if steps.len() < STEPS_MAX {
            let what = "… and more".to_owned();
            steps.push(Step {
                at,
                hop: None,
                what,
            });
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Step> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_escaped() {
        let mut trail = Trail::new(true);
        for _ in 0..1000 {
            trail.note(Timestamp::default(), || (None, "a\r\nb".repeat(500)));
        }
        let steps = trail.take();
        assert_eq!(steps.len(), STEPS_MAX);
        assert!(steps.iter().all(|step| step.what.len() <= STEP_MAX));
        assert!(!steps[0].what.contains('\n'));
        assert_eq!(steps[STEPS_MAX - 1].what, "… and more");
    }

    #[test]
    fn nothing_is_made_where_nothing_is_kept() {
        let mut trail = Trail::new(false);
        trail.note(Timestamp::default(), || panic!());
        assert!(trail.take().is_empty());
    }
}
