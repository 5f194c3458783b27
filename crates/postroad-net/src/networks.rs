use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One network: `192.0.2.0/24`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// Not a network that a peer could be in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Neither an address nor a network.
    #[error("`{0}` is neither an address nor a network such as 192.0.2.0/24 or 2001:db8::/32")]
    Syntax(String),
    /// All of IPv4, as seen by IPv6, and more.
    #[error(
        "`{0}` is wider than the IPv4-mapped addresses, which count as IPv4; name the IPv4 network itself, such as 192.0.2.0/24"
    )]
    Mapped(String),
}

impl Network {
    /// The length of its prefix, in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether it is one of IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// The network itself; an IPv4-mapped one as what it is in IPv4.
    #[must_use]
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// Whether nobody comes from there over the internet: loopback, link-local, private.
    #[must_use]
    pub fn is_private(&self) -> bool {
        PRIVATE
            .iter()
            .filter_map(|net| net.parse::<IpNet>().ok())
            .any(|net| net.contains(&self.0))
    }
}

/// RFC 1122, 1918, 3927, 4193, 4291, 6598.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(s: &str) -> Result<Self, NetworkError> {
        let net: IpNet = s
            .parse()
            .or_else(|_| s.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| NetworkError::Syntax(s.to_owned()))?;
        canonical(net)
            .map(|net| Self(net.trunc()))
            .ok_or_else(|| NetworkError::Mapped(s.to_owned()))
    }
}

/// Peers are canonicalised before they are looked up: an IPv4-mapped network would never match.
fn canonical(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = net else {
        return Some(net);
    };
    match v6.addr().to_ipv4_mapped() {
        Some(v4) => Ipv4Net::new(v4, v6.prefix_len().checked_sub(MAPPED_PREFIX)?)
            .ok()
            .map(IpNet::V4),
        None => Some(net),
    }
}

/// The length of the prefix `::ffff:0:0`.
const MAPPED_PREFIX: u8 = 96;

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A list of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Whether one of them holds the address. An IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.0.contains(&address))
    }

    /// Whether one of them holds the whole network.
    #[must_use]
    pub fn contains_all_of(&self, network: &Network) -> bool {
        self.0.iter().any(|one| one.0.contains(&network.0))
    }

    /// Whether the public addresses in them, all together, are more than one network of that
    /// prefix has: by IPv4, or by IPv6.
    #[must_use]
    pub fn is_wider_than(&self, v4: u8, v6: u8) -> bool {
        let (mut fours, mut sixes) = (Vec::new(), Vec::new());
        for network in self.0.iter().filter(|network| !network.is_private()) {
            match network.0 {
                IpNet::V4(net) => fours.push(net),
                IpNet::V6(net) => sixes.push(net),
            }
        }
        let fours = Ipv4Net::aggregate(&fours);
        let sixes = Ipv6Net::aggregate(&sixes);
        size(fours.iter().map(|net| 32 - net.prefix_len())) > size([32_u8.saturating_sub(v4)])
            || size(sixes.iter().map(|net| 128 - net.prefix_len()))
                > size([128_u8.saturating_sub(v6)])
    }
}

/// Addresses in networks that leave so many bits open.
fn size(open: impl IntoIterator<Item = u8>) -> u128 {
    open.into_iter()
        .map(|bits| 1_u128.checked_shl(bits.into()).unwrap_or(u128::MAX))
        .fold(0, u128::saturating_add)
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks() {
        let networks: Networks = ["10.1.2.3/8", "192.0.2.7", "2001:db8::/32"]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        for (address, inside) in [
            ("10.9.9.9", true),
            ("::ffff:10.9.9.9", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(
                networks.contains(address.parse().unwrap()),
                inside,
                "{address}"
            );
        }
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("example.org".parse::<Network>().is_err());
    }

    #[test]
    fn mapped_networks_are_ipv4() {
        for (text, canonical) in [
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), canonical, "{text}");
        }
        let networks: Networks = ["::ffff:10.0.0.0/104".parse().unwrap()]
            .into_iter()
            .collect();
        assert!(networks.contains("10.9.9.9".parse().unwrap()));
        assert!(matches!(
            "::ffff:10.0.0.0/90".parse::<Network>(),
            Err(NetworkError::Mapped(_))
        ));
    }

    #[test]
    fn what_they_cover_together() {
        let wide = |networks: &[&str]| {
            let networks: Networks = networks.iter().map(|n| n.parse().unwrap()).collect();
            networks.is_wider_than(8, 32)
        };
        for (networks, too_wide) in [
            (&["8.0.0.0/8"][..], false),
            (&["8.0.0.0/8", "9.0.0.1"], true),
            (&["8.0.0.0/8", "8.1.0.0/16"], false),
            (&["8.0.0.0/9", "9.0.0.0/9", "11.0.0.0/9"], true),
            (
                &["127.0.0.0/8", "10.0.0.0/8", "192.168.0.0/16", "::1"],
                false,
            ),
            (&["2001:db8::/32"], false),
            (&["2001:db8::/32", "2001:db9::/64"], true),
            (&["0.0.0.0/0"], true),
            (&["::/0"], true),
        ] {
            assert_eq!(wide(networks), too_wide, "{networks:?}");
        }
    }
}
