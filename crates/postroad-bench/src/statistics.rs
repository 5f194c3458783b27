//! The few statistics that the tables show.

use std::time::Duration;

/// The middle of a number of rounds, with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these figures; none where there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|f| f.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let high = *sorted.get(sorted.len() / 2)?;
        let low = *sorted.get((sorted.len() - 1) / 2)?;
        let median = f64::midpoint(low, high);
        Some(Self { median, min, max })
    }
}

/// The duration below which `percent` of these, which are in order, lie.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

/// A count or a number of octets as a figure: none that is measured here is so large that it
/// would not fit.
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
pub(crate) fn figure(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        for (figures, want) in [
            (&[][..], None),
            (&[f64::NAN], None),
            (&[2.0], Some((2.0, 2.0, 2.0))),
            (&[3.0, 1.0], Some((2.0, 1.0, 3.0))),
            (&[5.0, 1.0, 2.0], Some((2.0, 1.0, 5.0))),
            (&[4.0, 1.0, 2.0, 3.0], Some((2.5, 1.0, 4.0))),
        ] {
            let spread = Spread::of(figures.iter().copied());
            assert_eq!(spread.map(|s| (s.median, s.min, s.max)), want);
        }
    }

    #[test]
    fn percentiles() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        for (percent, want) in [(0, 1), (1, 2), (50, 100), (99, 198), (100, 200)] {
            let want = Some(Duration::from_millis(want));
            assert_eq!(percentile(&sorted, percent), want, "{percent}");
        }
        assert_eq!(percentile(&[], 50), None);
    }
}
