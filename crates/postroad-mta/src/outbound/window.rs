//! How many attempts to one destination may be under way: slow start, growth, back-off.
//!
//! A destination that nothing is known of gets [`INITIAL`]. While it starts, each success adds one,
//! so that the window doubles with every windowful; after the first failure it grows by one per
//! windowful. A failure halves it, but only once for all that were under way together: a hop that
//! restarts with twenty sessions open has failed once, not twenty times. It is never below one.

/// Attempts for a destination that nothing is known of.
pub(crate) const INITIAL: usize = 5;

/// A bound on attempts, which learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    size: usize,
    max: usize,
    starting: bool,
    /// Successes since the window last grew.
    credit: usize,
    /// Counts the failures that have shrunk it: who began before the last one did not meet what
    /// came of it.
    cohort: u32,
}

impl Window {
    pub(crate) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self {
            size: INITIAL.min(max),
            max,
            starting: true,
            credit: 0,
            cohort: 0,
        }
    }

    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    pub(crate) const fn max(&self) -> usize {
        self.max
    }

    /// To be given back with what comes of an attempt that begins now.
    pub(crate) const fn cohort(&self) -> u32 {
        self.cohort
    }

    /// Another bound from outside.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max.max(1);
        self.size = self.size.min(self.max);
    }

    pub(crate) fn succeeded(&mut self) {
        if self.size >= self.max {
            self.credit = 0;
            return;
        }
        self.credit += 1;
        if self.starting || self.credit >= self.size {
            self.size += 1;
            self.credit = 0;
        }
    }

    pub(crate) fn failed(&mut self, cohort: u32) {
        if cohort != self.cohort {
            return;
        }
        self.cohort = self.cohort.wrapping_add(1);
        self.starting = false;
        self.credit = 0;
        self.size = (self.size / 2).max(1);
    }

    /// It has been away, and is found alive: as new.
    pub(crate) fn revived(&mut self) {
        self.starting = true;
        self.credit = 0;
        self.size = self.size.max(INITIAL.min(self.max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_slowly_and_doubles() {
        let mut window = Window::new(20);
        let mut sizes = vec![window.size()];
        for _ in 0..3 {
            for _ in 0..window.size() {
                window.succeeded();
            }
            sizes.push(window.size());
        }
        assert_eq!(sizes, [5, 10, 20, 20]);
        assert_eq!(Window::new(2).size(), 2);
        assert_eq!(Window::new(0).size(), 1);
    }

    #[test]
    fn a_failure_counts_once_for_all_that_were_under_way() {
        let mut window = Window::new(20);
        for _ in 0..15 {
            window.succeeded();
        }
        let together = window.cohort();
        for _ in 0..20 {
            window.failed(together);
        }
        assert_eq!(window.size(), 10);
        // The next windowful fails again.
        for expected in [5, 2, 1, 1] {
            window.failed(window.cohort());
            assert_eq!(window.size(), expected);
        }
        // From now on by one for each windowful.
        let mut successes = 0;
        while window.size() < 4 {
            window.succeeded();
            successes += 1;
        }
        assert_eq!(successes, 1 + 2 + 3);
        window.revived();
        assert_eq!(window.size(), 5);
        window.succeeded();
        assert_eq!(window.size(), 6);
    }

    #[test]
    fn another_bound() {
        let mut window = Window::new(20);
        for _ in 0..15 {
            window.succeeded();
        }
        window.set_max(3);
        window.succeeded();
        assert_eq!((window.size(), window.max()), (3, 3));
        window.set_max(20);
        assert_eq!(window.size(), 3);
        window.revived();
        assert_eq!(window.size(), 5);
    }

    proptest::proptest! {
        #[test]
        fn always_within_its_bounds(max in 0_usize..50, events in proptest::collection::vec(0_u8..4, 0..200)) {
            let mut window = Window::new(max);
            for event in events {
                match event {
                    0 | 1 => window.succeeded(),
                    2 => window.failed(window.cohort()),
                    _ => window.revived(),
                }
                proptest::prop_assert!((1..=max.max(1)).contains(&window.size()));
            }
        }
    }
}
