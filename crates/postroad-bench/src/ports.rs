//! Ports for the servers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// Where the search begins. It stays below the ports that the system gives to clients: among
/// thousands of connections one of them would sooner or later have the port of a server, or call
/// itself on the port of a next hop that is meant to be down.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// So many addresses on loopback that nothing listens on. None is given twice.
pub(crate) fn free(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST);
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port > LAST {
            bail!("no port is free between {FIRST} and {LAST}");
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            found.push(address);
        }
    }
    Ok(found)
}
