//! The order in which the hosts of a route are tried: pure, given a seed.

use crate::route::Hop;

/// The hosts in the order to try: by preference; among equals by lot, as SRV records are drawn
/// (RFC 2782): a host with twice the weight is first twice as often, and those of weight 0 come
/// behind all others. The same seed gives the same order; what is drawn for one preference does not
/// depend on the hosts of another.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use postroad_routing::{Hop, order_hops};
///
/// let spare = Hop { preference: 10, ..Hop::smtp("spare.example".parse()?, 25) };
/// let hops = [spare, Hop::smtp("a.example".parse()?, 25), Hop::smtp("b.example".parse()?, 25)];
/// let ordered = order_hops(&hops, 7);
/// assert_eq!(ordered[2], &hops[0]);
/// assert_eq!(ordered, order_hops(&hops, 7));
/// # Ok(()) }
/// ```
#[must_use]
pub fn order_hops(hops: &[Hop], seed: u64) -> Vec<&Hop> {
    let mut groups: Vec<&Hop> = hops.iter().collect();
    groups.sort_by_key(|hop| (hop.preference, hop.weight == 0));
    let mut ordered = Vec::with_capacity(groups.len());
    for group in groups.chunk_by(|a, b| a.preference == b.preference) {
        let preference = group.first().map_or(0, |hop| hop.preference);
        let mut numbers = Numbers(seed ^ u64::from(preference) << 48);
        // Weights of 0 are last, so that they are drawn only where nothing else is left.
        let mut left = group.to_vec();
        while let Some(drawn) = draw(&mut left, &mut numbers) {
            ordered.push(drawn);
        }
    }
    ordered
}

/// Takes one out, by lot.
fn draw<'a>(left: &mut Vec<&'a Hop>, numbers: &mut Numbers) -> Option<&'a Hop> {
    let all: u64 = left.iter().map(|hop| u64::from(hop.weight)).sum();
    if all == 0 {
        // As good as each other.
        let count = u64::try_from(left.len()).ok().filter(|&count| count > 0)?;
        let at = usize::try_from(numbers.below(count)).ok()?;
        return Some(left.remove(at));
    }
    let lot = numbers.below(all);
    let mut sum = 0;
    let at = left.iter().position(|hop| {
        sum += u64::from(hop.weight);
        lot < sum
    })?;
    Some(left.remove(at))
}

/// Numbers that look random (SplitMix64): each seed gives its own.
struct Numbers(u64);

impl Numbers {
    /// One below `bound`, which is above 0 and far below 2^64: the bias is not noticed.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::HopAddress;

    fn hop(name: &str, preference: u16, weight: u16) -> Hop {
        Hop {
            preference,
            weight,
            ..Hop::smtp(name.parse().unwrap(), 25)
        }
    }

    fn names(hops: &[&Hop]) -> String {
        hops.iter()
            .map(|hop| match &hop.at {
                HopAddress::Tcp { host, .. } => host.ascii(),
                HopAddress::Unix(_) => panic!("no host"),
            })
            .collect()
    }

    /// How often each is first, of ten thousand.
    fn first(hops: &[Hop], name: &str) -> u32 {
        let hits = (0..10_000).filter(|&seed| names(&order_hops(hops, seed)).starts_with(name));
        u32::try_from(hits.count()).unwrap()
    }

    #[test]
    fn weights_share() {
        let hops = [hop("a", 0, 1), hop("b", 0, 3), hop("c", 0, 6)];
        for (name, share) in [("a", 1_000), ("b", 3_000), ("c", 6_000)] {
            let count = first(&hops, name);
            assert!(count.abs_diff(share) < 250, "{name}: {count}");
        }
        // Of the two that are left, too: a to c as 1 to 6.
        let second = (0..10_000)
            .filter(|&seed| names(&order_hops(&hops, seed)).starts_with("ba"))
            .count();
        assert!(second.abs_diff(3_000 / 7) < 120, "{second}");
    }

    #[test]
    fn weight_0_is_last_among_equals() {
        let hops = [
            hop("z", 0, 0),
            hop("y", 0, 0),
            hop("a", 0, 1),
            hop("p", 1, 65_535),
        ];
        for seed in 0..200 {
            let names = names(&order_hops(&hops, seed));
            assert!(["azyp", "ayzp"].contains(&names.as_str()), "{names}");
        }
        assert!(first(&hops[..2], "z").abs_diff(5_000) < 250);
    }

    #[test]
    fn groups_do_not_disturb_each_other() {
        let few = [hop("a", 5, 1), hop("b", 5, 1), hop("c", 5, 1)];
        let more: Vec<Hop> = [hop("x", 0, 9), hop("y", 0, 1)]
            .into_iter()
            .chain(few.clone())
            .collect();
        for seed in 0..50 {
            let all = names(&order_hops(&more, seed));
            assert!(all.ends_with(&names(&order_hops(&few, seed))), "{all}");
        }
        assert!(order_hops(&[], 1).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn a_permutation_by_preference(
            all in proptest::collection::vec(("[a-h]", 0_u16..3, 0_u16..4), 0..12),
            seed: u64,
        ) {
            let hops: Vec<Hop> = all.iter().map(|(name, p, w)| hop(name, *p, *w)).collect();
            let ordered = order_hops(&hops, seed);
            proptest::prop_assert!(
                ordered.is_sorted_by_key(|hop| (hop.preference, hop.weight == 0))
            );
            let key = |hop: &&Hop| format!("{hop:?}");
            let mut left: Vec<String> = ordered.iter().map(key).collect();
            let mut right: Vec<String> = hops.iter().map(|hop| key(&hop)).collect();
            left.sort();
            right.sort();
            proptest::prop_assert_eq!(left, right);
            proptest::prop_assert_eq!(ordered, order_hops(&hops, seed));
        }
    }
}
