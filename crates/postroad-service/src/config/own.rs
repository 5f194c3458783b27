use std::net::IpAddr;

use tracing::warn;

use super::{Config, Service};

/// The addresses at which this host takes mail: an MX that leads to one of them is a loop.
pub(super) fn addresses(config: &Config) -> Vec<IpAddr> {
    let bound: Vec<IpAddr> = config
        .listener
        .iter()
        .filter(|listener| listener.service == Service::Relay)
        .flat_map(|listener| &listener.bind)
        .map(std::net::SocketAddr::ip)
        .collect();
    let mut own = of_listeners(&bound, &interfaces());
    own.extend(&config.delivery.own_addresses);
    own
}

/// Whether mail is taken at every loopback address: 127.0.0.0/8 is on no interface as a whole.
pub(super) fn is_all_loopback(config: &Config) -> bool {
    let relays = config
        .listener
        .iter()
        .filter(|l| l.service == Service::Relay);
    let mut bound = relays.flat_map(|listener| &listener.bind);
    bound.any(|address| address.ip().is_unspecified())
}

/// `[::]` and `0.0.0.0` are all of the machine's.
fn of_listeners(bound: &[IpAddr], interfaces: &[IpAddr]) -> Vec<IpAddr> {
    let any_v6 = bound.iter().any(|ip| ip.is_ipv6() && ip.is_unspecified());
    let any_v4 = any_v6 || bound.iter().any(|ip| ip.is_ipv4() && ip.is_unspecified());
    bound
        .iter()
        .filter(|ip| !ip.is_unspecified())
        .chain(interfaces.iter().filter(|ip| match ip {
            IpAddr::V4(_) => any_v4,
            IpAddr::V6(_) => any_v6,
        }))
        .copied()
        .collect()
}

/// What cannot be asked is not known: then `delivery.own_addresses` alone counts.
pub(super) fn interfaces() -> Vec<IpAddr> {
    let all = match nix::ifaddrs::getifaddrs() {
        Ok(all) => all,
        Err(error) => {
            warn!(%error, "which addresses this machine has is not known: an MX that leads back to it is seen by name only");
            return Vec::new();
        }
    };
    all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_means_all_interfaces() {
        let ips = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let interfaces = ips(&["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"]);
        for (bound, own) in [
            (
                &["[::]"][..],
                &["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"][..],
            ),
            (&["0.0.0.0"], &["127.0.0.1", "192.0.2.1"]),
            (&["192.0.2.7"], &["192.0.2.7"]),
            (
                &["0.0.0.0", "2001:db8::7"],
                &["2001:db8::7", "127.0.0.1", "192.0.2.1"],
            ),
            (&[], &[]),
        ] {
            let bound: Vec<_> = bound.iter().map(|b| b.trim_matches(['[', ']'])).collect();
            assert_eq!(
                of_listeners(&ips(&bound), &interfaces),
                ips(own),
                "{bound:?}"
            );
        }
        for (bound, all) in [
            ("[::]:25", true),
            ("0.0.0.0:25", true),
            ("127.0.0.1:25", false),
        ] {
            let listener = format!("[[listener]]\nservice = \"relay\"\nbind = [\"{bound}\"]\n");
            assert_eq!(
                is_all_loopback(&toml::from_str(&listener).unwrap()),
                all,
                "{bound}"
            );
        }
        assert!(super::interfaces().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
