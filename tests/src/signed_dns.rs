//! A name server on loopback that is its own signed root (RFC 4035), with three zones below it.
//!
//! | zone | its delegation | to a resolver that trusts the root |
//! |---|---|---|
//! | `.`, `secure.` | signed | secure |
//! | `insecure.` | has no DS record, provably | insecure |
//! | `bogus.` | has the DS record of another key | bogus |
//!
//! Records go into the zone of their last label, as in `mail.secure`; they can be added at any time.
//! What does not exist is proven by NSEC records in the root (RFC 4034 section 4), by NSEC3 records
//! below it (RFC 5155).

mod zones;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::dnssec::rdata::DNSSECRData;
use hickory_server::proto::dnssec::{Algorithm, PublicKey as _, TrustAnchors};
use hickory_server::proto::op::Message;
use hickory_server::proto::rr::rdata::{CNAME, MX};
use hickory_server::proto::rr::{RData, Record, RecordType};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler as _, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;

use self::zones::{Catalogs, Keys};
use crate::dns::{Answers, Fault, Wire, address_data, key, name, tlsa_data, txt_data};

/// The zone that is signed.
pub const SECURE: &str = "secure";
/// The zone that is not signed, which its parent says.
pub const INSECURE: &str = "insecure";
/// The zone that is signed with another key than its parent says.
pub const BOGUS: &str = "bogus";

/// Seconds for which records may be kept.
const TTL: u32 = 300;

/// A running name server.
pub struct SignedDns(Wire<World>);

impl std::fmt::Debug for SignedDns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignedDns({})", self.0.address)
    }
}

impl SignedDns {
    /// Starts one, over UDP and TCP, with zones that have nothing in them.
    ///
    /// # Panics
    /// Where there is no port for it.
    pub async fn start() -> Self {
        Self(Wire::listen(World::new()).await)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The key of its root, to be trusted by a resolver.
    ///
    /// # Panics
    /// Never: the key was made here.
    #[must_use]
    pub fn trust_anchors(&self) -> TrustAnchors {
        let mut anchors = TrustAnchors::empty();
        anchors.insert(&self.0.answers.keys.root.public());
        anchors
    }

    /// The same as the text of a file: a DNSKEY record as zone files have it.
    #[must_use]
    pub fn trust_anchor_text(&self) -> String {
        let public = self.0.answers.keys.root.public();
        let algorithm = u8::from(Algorithm::ED25519);
        format!(
            ". 172800 IN DNSKEY 257 3 {algorithm} {}\n",
            base64(public.public_bytes())
        )
    }

    /// Adds an MX record; the host `.` makes it the null MX.
    pub fn mx(&self, domain: &str, preference: u16, host: &str) {
        self.add(domain, RData::MX(MX::new(preference, name(host))));
    }

    /// Adds an address record.
    pub fn a(&self, host: &str, address: IpAddr) {
        self.add(host, address_data(address));
    }

    /// Adds an alias.
    pub fn cname(&self, alias: &str, target: &str) {
        self.add(alias, RData::CNAME(CNAME(name(target))));
    }

    /// Adds a text record: its strings.
    pub fn txt(&self, owner: &str, strings: &[&str]) {
        self.add(owner, txt_data(strings));
    }

    /// Adds a TLSA record for a port of a host (RFC 6698 section 2).
    pub fn tlsa(
        &self,
        host: &str,
        port: u16,
        usage: u8,
        selector: u8,
        matching: u8,
        data: Vec<u8>,
    ) {
        let data = tlsa_data(usage, selector, matching, data);
        self.add(&format!("_{port}._tcp.{host}"), data);
    }

    /// Makes every question about a name fail.
    pub fn servfail(&self, domain: &str) {
        self.fault(domain, Fault::ServFail);
    }

    /// Never answers questions about a name.
    pub fn silent(&self, domain: &str) {
        self.fault(domain, Fault::Silent);
    }

    /// Gets every question about a name wrong.
    pub fn fault(&self, domain: &str, fault: Fault) {
        let mut state = self.0.answers.state();
        state.faults.insert(key(domain), fault);
    }

    /// Ends the faults of a name.
    pub fn heal(&self, domain: &str) {
        self.0.answers.state().faults.remove(&key(domain));
    }

    /// Takes away all records of that type that a name has.
    pub fn remove(&self, owner: &str, kind: RecordType) {
        let owner = name(owner);
        let mut state = self.0.answers.state();
        state
            .records
            .retain(|record| record.name != owner || record.record_type() != kind);
        state.catalogs = Arc::new(self.0.answers.keys.catalogs(&state.records));
    }

    fn add(&self, owner: &str, data: RData) {
        let mut state = self.0.answers.state();
        state
            .records
            .push(Record::from_rdata(name(owner), TTL, data));
        state.catalogs = Arc::new(self.0.answers.keys.catalogs(&state.records));
    }
}

/// What is served.
struct World {
    keys: Keys,
    state: Mutex<State>,
}

struct State {
    records: Vec<Record>,
    faults: HashMap<String, Fault>,
    catalogs: Arc<Catalogs>,
}

impl World {
    fn new() -> Self {
        let keys = Keys::new();
        let state = State {
            records: Vec::new(),
            faults: HashMap::new(),
            catalogs: Arc::new(keys.catalogs(&[])),
        };
        Self {
            keys,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers for World {
    async fn answer(&self, request: &Message, octets: &[u8]) -> Option<(Message, Option<Fault>)> {
        let question = request.queries.first()?;
        let (catalogs, fault) = {
            let state = self.state();
            let fault = state.faults.get(&key(&question.name().to_utf8()));
            (Arc::clone(&state.catalogs), fault.cloned())
        };
        let is_cut = question.query_type() == RecordType::DS && question.name().num_labels() <= 1;
        let catalog = if is_cut {
            &catalogs.root
        } else {
            &catalogs.all
        };
        let nobody = SocketAddr::from(([127, 0, 0, 1], 53));
        let request = Request::from_bytes(octets.to_vec(), nobody, Protocol::Tcp).ok()?;
        let taken = Taken::default();
        catalog
            .handle_request::<_, TokioTime>(&request, taken.clone())
            .await;
        let octets = std::mem::take(&mut *taken.octets());
        let mut response = Message::from_vec(&octets).ok()?;
        leave_out_proofs(&mut response);
        Some((response, fault))
    }
}

/// The library's server puts NSEC3 records into every answer. They belong only where something is
/// not there (RFC 5155 section 7.2), and spoil all others.
fn leave_out_proofs(response: &mut Message) {
    if response.answers.is_empty() {
        return;
    }
    response.authorities.retain(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => {
            signature.input().type_covered != RecordType::NSEC3
        }
        data => data.record_type() != RecordType::NSEC3,
    });
}

/// A response, taken on its way out.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<u8>>>);

impl Taken {
    fn octets(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl ResponseHandler for Taken {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut octets = Vec::new();
        let mut encoder = BinEncoder::new(&mut octets);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.octets() = octets;
        Ok(info)
    }
}

/// As zone files have keys (RFC 4648 section 4).
fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in octets.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, n| {
            bits << 8 | u32::from(chunk.get(n).copied().unwrap_or(0))
        });
        for n in 0..4 {
            let index = (bits >> (18 - 6 * n)) & 63;
            let index = usize::try_from(index).unwrap_or(0);
            match ALPHABET.get(index) {
                Some(&letter) if n <= chunk.len() => text.push(char::from(letter)),
                _ => text.push('='),
            }
        }
    }
    text
}
