//! The order in which mail exchangers are tried (RFC 5321 section 5.1): pure, given the records.

use std::net::IpAddr;

/// Hosts of a plan, at most; those of the highest preference numbers are left out.
pub const HOSTS_MAX: usize = 20;
/// Addresses of a host, at most.
pub const ADDRESSES_MAX: usize = 16;

/// Which addresses are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressFamily {
    /// All.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// What the MX records of a domain say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MxSet {
    /// Hosts with their preferences, in the order to try.
    Hosts(Vec<(u16, String)>),
    /// A single record with the root as its host (RFC 7505): no mail at all.
    Null,
}

/// By preference, random among equals, bounded. The root among other hosts says nothing.
pub(crate) fn order(mut records: Vec<(u16, String)>, seed: u64) -> MxSet {
    let is_root = |host: &str| host.is_empty() || host == ".";
    if records.len() == 1 && records.iter().all(|(_, host)| is_root(host)) {
        return MxSet::Null;
    }
    records.retain(|(_, host)| !is_root(host));
    records.sort_by_cached_key(|(preference, host)| (*preference, shuffled(host, seed)));
    records.truncate(HOSTS_MAX);
    MxSet::Hosts(records)
}

/// Drops the first host that `is_us`, those of the same preference, and all behind them: their
/// mail would come back here (RFC 5321 section 5.1).
pub(crate) fn stop_at_us<T>(mut hosts: Vec<(u16, T)>, is_us: impl Fn(&T) -> bool) -> Vec<(u16, T)> {
    if let Some(&(ours, _)) = hosts.iter().find(|(_, host)| is_us(host)) {
        hosts.retain(|(preference, _)| *preference < ours);
    }
    hosts
}

/// The two families in turn, IPv6 first (RFC 8305 section 4), so that one that is broken costs one
/// attempt.
pub(crate) fn interleave(
    addresses: impl IntoIterator<Item = IpAddr>,
    family: AddressFamily,
) -> Vec<IpAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let mut ordered = match family {
        AddressFamily::Ipv4 => v4,
        AddressFamily::Ipv6 => v6,
        AddressFamily::Any => {
            let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
            let mut both = Vec::new();
            loop {
                let pair = [v6.next(), v4.next()];
                if pair == [None, None] {
                    break both;
                }
                both.extend(pair.into_iter().flatten());
            }
        }
    };
    ordered.truncate(ADDRESSES_MAX);
    ordered
}

/// A number that depends on host and seed, and on nothing else (FNV-1a).
fn shuffled(host: &str, seed: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = host.bytes().fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn records(hosts: &[(u16, &str)]) -> Vec<(u16, String)> {
        hosts.iter().map(|&(p, h)| (p, h.to_owned())).collect()
    }

    #[test]
    fn null_mx() {
        assert_eq!(order(records(&[(0, ".")]), 1), MxSet::Null);
        assert_eq!(
            order(records(&[(0, "."), (5, "a")]), 1),
            MxSet::Hosts(records(&[(5, "a")]))
        );
    }

    #[test]
    fn equals_take_turns() {
        let first: HashSet<String> = (0..64)
            .map(
                |seed| match order(records(&[(20, "z"), (10, "a"), (10, "b"), (10, "c")]), seed) {
                    MxSet::Hosts(hosts) => {
                        assert_eq!(hosts[3].1, "z");
                        hosts[0].1.clone()
                    }
                    MxSet::Null => panic!(),
                },
            )
            .collect();
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn loops_are_cut() {
        let hosts = vec![(5, "x"), (10, "us"), (10, "y"), (20, "z")];
        assert_eq!(stop_at_us(hosts.clone(), |h| *h == "us"), [(5, "x")]);
        assert_eq!(stop_at_us(hosts.clone(), |h| *h == "nobody"), hosts);
        assert_eq!(stop_at_us(hosts, |h| *h == "x"), []);
    }

    #[test]
    fn families_in_turn() {
        let all: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        let show = |family| {
            interleave(all.clone(), family)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            show(AddressFamily::Any),
            "2001:db8::1 192.0.2.1 192.0.2.2 192.0.2.3"
        );
        assert_eq!(show(AddressFamily::Ipv6), "2001:db8::1");
        assert_eq!(show(AddressFamily::Ipv4), "192.0.2.1 192.0.2.2 192.0.2.3");
    }

    proptest::proptest! {
        #[test]
        fn a_permutation_within_bounds(hosts in proptest::collection::vec((0_u16..4, "[a-e]{1,3}"), 2..30), seed: u64) {
            let MxSet::Hosts(ordered) = order(hosts.clone(), seed) else { panic!() };
            proptest::prop_assert_eq!(ordered.len(), hosts.len().min(HOSTS_MAX));
            proptest::prop_assert!(ordered.is_sorted_by_key(|(preference, _)| *preference));
            let (mut left, mut right) = (ordered, hosts);
            left.sort();
            right.sort();
            if right.len() <= HOSTS_MAX {
                proptest::prop_assert_eq!(left, right);
            }
        }
    }
}
