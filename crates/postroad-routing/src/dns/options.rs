//! How names are looked up, as a configuration says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::Domain;

use super::server::NameServer;
use crate::mx::AddressFamily;

/// Answers that are kept, where nothing else is said.
const CACHE_SIZE: u64 = 32_768;
/// How long an answer is kept at most, where nothing else is said.
const TTL_MAX: Duration = Duration::from_hours(24);

/// How to look names up.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// Name servers; empty: the system's.
    pub nameservers: Vec<NameServer>,
    /// How TLS to name servers is done; none: with the roots of the system.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Names of this host: an MX of that name is a loop.
    pub own_names: Vec<Domain>,
    /// Addresses of this host, likewise.
    pub own_addresses: Vec<IpAddr>,
    /// This host takes mail at every loopback address: where a listener is bound to all of the
    /// machine's, an MX in 127.0.0.0/8 leads back here, whichever it is.
    pub own_loopback: bool,
    /// Ports at which this host takes mail of other servers: a host that a route names is a loop
    /// only there, since behind another port may stand a filter, or another server.
    pub own_ports: Vec<u16>,
    /// Which addresses to call.
    pub family: AddressFamily,
    /// How long a name server may take.
    pub timeout: Duration,
    /// How often one is asked again.
    pub attempts: usize,
    /// How long an answer is kept at least, whatever it says itself; also one that says that there
    /// is nothing.
    pub ttl_min: Duration,
    /// How long an answer is kept at most; one that says that there is nothing, three hours at most.
    pub ttl_max: Duration,
    /// Answers that are kept; those that were not used for longest go first.
    pub cache_size: u64,
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            tls: None,
            own_names: Vec::new(),
            own_addresses: Vec::new(),
            own_loopback: false,
            own_ports: vec![25],
            family: AddressFamily::Any,
            timeout: Duration::from_secs(5),
            attempts: 2,
            ttl_min: Duration::ZERO,
            ttl_max: TTL_MAX,
            cache_size: CACHE_SIZE,
        }
    }
}

/// No resolver can be made.
#[derive(Clone, Debug, thiserror::Error)]
#[error("preparing DNS look-ups: {0}")]
pub struct DnsError(pub(super) String);
