//! The order in which mail exchangers are tried (RFC 5321 section 5.1): pure, given the records.

use std::collections::HashSet;
use std::net::IpAddr;

use postroad_mail::{Domain, escape_peer_text};

/// Hosts of a plan, at most; those of the highest preference numbers are left out.
pub const HOSTS_MAX: usize = 20;
/// Addresses of a host, at most.
pub const ADDRESSES_MAX: usize = 16;
/// Warnings of a plan, at most.
pub(crate) const WARNINGS_MAX: usize = 8;

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
    /// These hosts.
    Hosts(MxHosts),
    /// A single record with the root as its host (RFC 7505): no mail at all.
    Null,
}

/// The hosts of MX records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MxHosts {
    /// With their preferences, in the order to try; may be none.
    pub(crate) hosts: Vec<(u16, Domain)>,
    /// What is odd about the records.
    pub(crate) warnings: Vec<String>,
}

/// By preference, random among equals, each host once, bounded. What is no name of a host is left
/// out: an address (RFC 5321 section 5.1 asks for names), and the root among others. Where one is a
/// name of ours, what is no better than that is left out here already, so that it is never us who
/// are one too many.
pub(crate) fn order(
    records: Vec<(u16, String)>,
    seed: u64,
    is_us: impl Fn(&Domain) -> bool,
) -> MxSet {
    let is_root = |host: &str| host.is_empty() || host == ".";
    if records.len() == 1 && records.iter().all(|(_, host)| is_root(host)) {
        return MxSet::Null;
    }
    let mut warnings = Vec::new();
    let mut hosts: Vec<(u16, Domain)> = Vec::new();
    for (preference, host) in records {
        match host_name(&host) {
            Some(name) => hosts.push((preference, name)),
            None if is_root(&host) => warnings
                .push("a null MX beside other mail exchangers is left out (RFC 7505)".to_owned()),
            None => warnings.push(format!(
                "the mail exchanger `{}` is no name of a host, and is left out",
                escape_peer_text(&host)
            )),
        }
    }
    hosts.sort_by_cached_key(|(preference, host)| (*preference, shuffled(host.ascii(), seed)));
    let mut seen = HashSet::new();
    hosts.retain(|(_, host)| seen.insert(host.clone()));
    if let Some(&(ours, _)) = hosts.iter().find(|(_, host)| is_us(host)) {
        hosts.retain(|(preference, host)| *preference < ours || is_us(host));
    }
    if hosts.len() > HOSTS_MAX {
        warnings.push(format!(
            "{} of {} mail exchangers are not tried: they are too many",
            hosts.len() - HOSTS_MAX,
            hosts.len()
        ));
        hosts.truncate(HOSTS_MAX);
    }
    warnings.sort();
    warnings.dedup();
    warnings.truncate(WARNINGS_MAX);
    MxSet::Hosts(MxHosts { hosts, warnings })
}

/// None where no host can have that name.
fn host_name(name: &str) -> Option<Domain> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let domain: Domain = name.parse().ok()?;
    let is_address = domain.is_literal() || name.parse::<IpAddr>().is_ok();
    (!is_address).then_some(domain)
}

/// Whether an address can be that of another host.
pub(crate) fn can_be_called(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
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

    fn ordered(hosts: &[(u16, &str)], seed: u64) -> MxHosts {
        let records = hosts.iter().map(|&(p, h)| (p, h.to_owned())).collect();
        match order(records, seed, |_| false) {
            MxSet::Hosts(hosts) => hosts,
            MxSet::Null => panic!("null MX"),
        }
    }

    fn shown(hosts: &MxHosts) -> String {
        let host = |(preference, host): &(u16, Domain)| format!("{preference} {host}");
        hosts.hosts.iter().map(host).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn null_mx() {
        assert_eq!(order(vec![(0, ".".to_owned())], 1, |_| false), MxSet::Null);
        assert_eq!(order(vec![(0, String::new())], 1, |_| false), MxSet::Null);
        let beside = ordered(&[(0, "."), (5, "a.test")], 1);
        assert_eq!(shown(&beside), "5 a.test");
        assert!(beside.warnings[0].contains("RFC 7505"), "{beside:?}");
    }

    #[test]
    fn equals_take_turns() {
        let first: HashSet<String> = (0..64)
            .map(|seed| {
                let hosts = ordered(&[(20, "z"), (10, "a"), (10, "b"), (10, "c")], seed).hosts;
                assert_eq!(hosts[3].1.ascii(), "z");
                hosts[0].1.ascii().to_owned()
            })
            .collect();
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn each_host_once_by_its_best_preference() {
        let hosts = ordered(&[(20, "A.test"), (10, "a.test."), (15, "b.test")], 1);
        assert_eq!(shown(&hosts), "10 a.test, 15 b.test");
        assert_eq!(hosts.warnings, [""; 0]);
    }

    #[test]
    fn what_no_host_is_named_is_left_out() {
        for bad in [
            "192.0.2.1",
            "[192.0.2.1]",
            "2001:db8::1",
            "a b.test",
            "-",
            "a..test",
        ] {
            let hosts = ordered(&[(5, bad), (10, "a.test")], 1);
            assert_eq!(shown(&hosts), "10 a.test", "{bad}");
            assert!(hosts.warnings[0].contains(bad), "{hosts:?}");
        }
        let none = ordered(&[(5, "192.0.2.1")], 1);
        assert_eq!(shown(&none), "");
    }

    #[test]
    fn too_many_are_told() {
        let names: Vec<String> = (0..HOSTS_MAX + 3).map(|n| format!("h{n}.test")).collect();
        let records: Vec<_> = names.iter().map(|name| (10, name.as_str())).collect();
        let hosts = ordered(&records, 7);
        assert_eq!(hosts.hosts.len(), HOSTS_MAX);
        assert_eq!(
            hosts.warnings,
            ["3 of 23 mail exchangers are not tried: they are too many"]
        );
        let bad: Vec<String> = (0..100).map(|n| format!("192.0.2.{n}")).collect();
        let records: Vec<_> = bad.iter().map(|name| (10, name.as_str())).collect();
        assert_eq!(ordered(&records, 7).warnings.len(), WARNINGS_MAX);
    }

    #[test]
    fn we_are_never_one_too_many() {
        let mut records = vec![(5, "best.test".to_owned())];
        records.extend((0..3 * HOSTS_MAX).map(|n| (10, format!("h{n}.test"))));
        records.push((10, "us.test".to_owned()));
        for seed in 0..20 {
            let ordered = order(records.clone(), seed, |host| host.ascii() == "us.test");
            let MxSet::Hosts(MxHosts { hosts, warnings }) = ordered else {
                panic!("null MX");
            };
            let names: Vec<_> = hosts.iter().map(|(_, host)| host.ascii()).collect();
            assert_eq!(names, ["best.test", "us.test"]);
            assert_eq!(warnings, [""; 0]);
        }
    }

    #[test]
    fn what_can_be_called() {
        for address in ["192.0.2.1", "127.0.0.1", "2001:db8::1", "::1"] {
            assert!(can_be_called(&address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(!can_be_called(&address.parse().unwrap()), "{address}");
        }
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
        fn by_preference_each_once_within_bounds(
            hosts in proptest::collection::vec((0_u16..4, "[a-e]{1,3}|[0-9.]{1,9}"), 2..60),
            seed: u64,
        ) {
            let records: Vec<_> = hosts.iter().map(|(p, h)| (*p, h.as_str())).collect();
            let ordered = ordered(&records, seed).hosts;
            proptest::prop_assert!(ordered.is_sorted_by_key(|(preference, _)| *preference));
            proptest::prop_assert!(ordered.len() <= HOSTS_MAX);
            let valid: HashSet<Domain> = hosts.iter().filter_map(|(_, h)| host_name(h)).collect();
            proptest::prop_assert_eq!(ordered.len(), valid.len().min(HOSTS_MAX));
            for (preference, host) in &ordered {
                let own = hosts.iter().filter(|(_, h)| host_name(h).as_ref() == Some(host));
                proptest::prop_assert_eq!(own.map(|(p, _)| p).min(), Some(preference));
            }
        }

        #[test]
        fn families_take_turns(octets in proptest::collection::vec(1_u8..9, 0..24)) {
            let address = |&n: &u8| -> IpAddr {
                let text = if n % 2 == 0 { format!("192.0.2.{n}") } else { format!("2001:db8::{n}") };
                text.parse().unwrap()
            };
            let all: Vec<IpAddr> = octets.iter().map(address).collect();
            let ordered = interleave(all.clone(), AddressFamily::Any);
            proptest::prop_assert_eq!(ordered.len(), all.len().min(ADDRESSES_MAX));
            // Within a family the order stays.
            for v6 in [true, false] {
                let of = |list: &[IpAddr]| -> Vec<IpAddr> {
                    list.iter().copied().filter(|a| a.is_ipv6() == v6).collect()
                };
                proptest::prop_assert!(of(&all).starts_with(&of(&ordered)));
            }
            // They alternate until one has no more.
            let v6 = all.iter().filter(|a| a.is_ipv6()).count();
            let pairs = v6.min(all.len() - v6) * 2;
            for (n, address) in ordered.iter().enumerate().take(pairs) {
                proptest::prop_assert_eq!(address.is_ipv6(), n % 2 == 0);
            }
        }
    }
}
