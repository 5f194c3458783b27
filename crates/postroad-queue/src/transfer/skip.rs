use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Which messages of an export are in the queue already: the first so many, and a few behind
/// them, by their number in the export from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skip {
    first: u64,
    also: BTreeSet<u64>,
}

/// Not such a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected how many messages to skip from the start, as in `1000`, and the numbers of others behind them, as in `1000,1003`"
)]
pub struct SkipError;

/// Messages behind the first, at most.
const ALSO_MAX: usize = 10_000;

impl Skip {
    /// The first `first`.
    #[must_use]
    pub const fn first(first: u64) -> Self {
        Self {
            first,
            also: BTreeSet::new(),
        }
    }

    /// Whether that is one of them.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        number <= self.first || self.also.contains(&number)
    }

    /// It is one of them from now on.
    pub(super) fn insert(&mut self, number: u64) {
        if number > self.first {
            self.also.insert(number);
        }
        while self.also.remove(&self.first.saturating_add(1)) {
            self.first += 1;
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.also
            .iter()
            .try_for_each(|number| write!(f, ",{number}"))
    }
}

impl FromStr for Skip {
    type Err = SkipError;

    fn from_str(text: &str) -> Result<Self, SkipError> {
        let mut numbers = text.split(',').map(str::parse::<u64>);
        let mut skip = Self::first(numbers.next().and_then(Result::ok).ok_or(SkipError)?);
        for number in numbers {
            if skip.also.len() == ALSO_MAX {
                return Err(SkipError);
            }
            skip.insert(number.map_err(|_| SkipError)?);
        }
        Ok(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (text, same) in [
            ("0", "0"),
            ("3", "3"),
            ("3,5,9", "3,5,9"),
            ("3,4,6", "4,6"),
            ("3,1", "3"),
        ] {
            let skip: Skip = text.parse().unwrap();
            assert_eq!(skip.to_string(), same, "{text}");
        }
        for text in ["", "x", "-1", "1,", "1,,2", "1 2"] {
            assert_eq!(text.parse::<Skip>(), Err(SkipError), "{text}");
        }
        let skip: Skip = "3,5".parse().unwrap();
        assert_eq!(
            (1..7).filter(|n| skip.contains(*n)).collect::<Vec<_>>(),
            [1, 2, 3, 5]
        );
    }

    #[test]
    fn what_is_done_in_any_order() {
        let mut skip = Skip::default();
        for (number, text) in [
            (2, "0,2"),
            (1, "2"),
            (2, "2"),
            (5, "2,5"),
            (4, "2,4,5"),
            (3, "5"),
        ] {
            skip.insert(number);
            assert_eq!(skip.to_string(), text);
        }
    }
}
