//! Hosts that are dead: half of them refuse connections, half leave them unanswered.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpSocket};

use crate::source::runtime;

/// How long a connection to a host that leaves it unanswered is waited for, to be sure of it: one
/// on loopback that is answered takes microseconds.
const UNANSWERED: Duration = Duration::from_millis(100);
/// Connections that fill a host: the one that may wait to be accepted, and those that Linux takes
/// besides.
const FILLING_MAX: usize = 4;

/// Where the hosts of a run are: addresses on loopback, an address each.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Network {
    /// Hosts that take mail.
    Live,
    /// Those that refuse connections: nobody listens there.
    Refusing,
    /// Those that do not answer.
    Silent,
}

impl Network {
    /// The address of its n-th host.
    pub(crate) fn host(self, nth: usize) -> IpAddr {
        let second = match self {
            Self::Live => 10,
            Self::Refusing => 11,
            Self::Silent => 12,
        };
        let octet = |n: usize| u8::try_from(n % 250 + 1).unwrap_or(1);
        Ipv4Addr::new(127, second, octet(nth / 250), octet(nth)).into()
    }
}

/// Hosts that listen, and accept nothing: what calls them waits until it has enough.
#[derive(Debug)]
pub(crate) struct Silent {
    _runtime: tokio::runtime::Runtime,
    _listeners: Vec<TcpListener>,
    _waiting: Vec<TcpStream>,
}

impl Silent {
    /// Makes so many of them, on that port.
    ///
    /// # Errors
    /// Where they do answer.
    pub(crate) fn make(count: usize, port: u16) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let (mut listeners, mut waiting) = (Vec::new(), Vec::new());
        for nth in 0..count {
            let address = SocketAddr::new(Network::Silent.host(nth), port);
            {
                let _inside = runtime.enter();
                let socket = TcpSocket::new_v4()?;
                let bound = socket.bind(address);
                bound.with_context(|| format!("the dead host {address}"))?;
                listeners.push(socket.listen(0)?);
            }
            // Once nobody else may wait to be accepted, what comes is left unanswered.
            let mut filling = 0;
            while let Ok(stream) = TcpStream::connect_timeout(&address, UNANSWERED) {
                waiting.push(stream);
                filling += 1;
                if filling > FILLING_MAX {
                    bail!("{address} answers, which a dead host must not");
                }
            }
        }
        Ok(Self {
            _runtime: runtime,
            _listeners: listeners,
            _waiting: waiting,
        })
    }
}

/// TCP connections of the whole machine since it started, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Calls {
    opened: u64,
    answered: u64,
}

impl Calls {
    /// Up to now.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub(crate) fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/net/snmp").context("reading /proc/net/snmp")?;
        Self::of(&text).context("/proc/net/snmp says nothing of TCP connections")
    }

    fn of(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next()?, lines.next()?);
        let value = |wanted: &str| {
            let mut pairs = names.split(' ').zip(values.split(' '));
            pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
        };
        Some(Self {
            opened: value("ActiveOpens")?,
            answered: value("PassiveOpens")?,
        })
    }

    /// Connections since then that nobody answered. On a machine whose every connection is to
    /// itself, what was opened and not answered was to a dead host.
    pub(crate) fn unanswered_since(self, before: Self) -> u64 {
        let opened = self.opened.saturating_sub(before.opened);
        opened.saturating_sub(self.answered.saturating_sub(before.answered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports;

    #[test]
    fn what_the_kernel_says() {
        let text = |opened, answered| {
            format!(
                "Ip: A B\nIp: 1 2\nTcp: RtoAlgorithm ActiveOpens PassiveOpens Other\nTcp: 1 {opened} {answered} 9\n"
            )
        };
        let before = Calls::of(&text(10, 5)).unwrap();
        let now = Calls::of(&text(30, 18)).unwrap();
        assert_eq!(now.unanswered_since(before), 7);
        assert_eq!(before.unanswered_since(now), 0);
        assert_eq!(Calls::of("Udp: x\n"), None);
        Calls::now().unwrap();
    }

    #[test]
    fn silent_hosts_do_not_answer() {
        let port = ports::free(1).unwrap()[0].port();
        let _silent = Silent::make(3, port).unwrap();
        for nth in 0..3 {
            let address = SocketAddr::new(Network::Silent.host(nth), port);
            let called = TcpStream::connect_timeout(&address, UNANSWERED);
            assert_eq!(called.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn every_host_has_an_address_of_its_own() {
        let networks = [Network::Live, Network::Refusing, Network::Silent];
        let mut all: Vec<_> = networks
            .iter()
            .flat_map(|network| (0..2000).map(|nth| network.host(nth)))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6000);
    }
}
