//! A name server on loopback, in process, with records and faults that tests put in.
//!
//! Zones that are signed are in [`crate::signed_dns`].

mod wire;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_server::proto::op::{Message, Metadata, Query, ResponseCode};
use hickory_server::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TLSA, TXT};
use hickory_server::proto::rr::{Name, RData, Record};

pub use self::wire::Fault;
pub(crate) use self::wire::{Answers, Wire};
pub use hickory_server::proto::rr::RecordType;

/// Aliases that one answer follows.
const ALIASES_MAX: usize = 8;

/// What a test says of names.
#[derive(Debug, Default)]
struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    names: HashSet<String>,
    faults: HashMap<(String, Option<RecordType>), Fault>,
    asked: HashMap<(String, RecordType), usize>,
    /// Seconds for which an answer may be kept.
    ttl: u32,
}

/// A running name server.
pub struct TestDns(Wire<Mutex<Zone>>);

impl std::fmt::Debug for TestDns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestDns({})", self.0.address)
    }
}

impl TestDns {
    /// Starts one, over UDP and TCP, without records: every name does not exist.
    ///
    /// # Panics
    /// Where there is no port for it.
    pub async fn start() -> Self {
        Self(Wire::listen(Mutex::default()).await)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Listens for DNS over TLS (RFC 7858) too.
    ///
    /// # Panics
    /// Where there is no port for it.
    pub async fn over_tls(&self, config: Arc<rustls::ServerConfig>) -> SocketAddr {
        self.0.listen_tls(config).await
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

    /// Truncates the answers about a name; `over_tcp`: also where there is room for them.
    pub fn truncated(&self, domain: &str, over_tcp: bool) {
        let fault = if over_tcp {
            Fault::Truncated
        } else {
            Fault::TruncatedUdp
        };
        self.fault(domain, fault);
    }

    /// Is no server for a name, and says so.
    pub fn lame(&self, domain: &str) {
        self.fault(domain, Fault::Refused);
    }

    /// Gets every question about a name wrong. Following aliases, names behind the first count too.
    pub fn fault(&self, domain: &str, fault: Fault) {
        self.zone().faults.insert((key(domain), None), fault);
    }

    /// Gets the questions of one type about a name wrong.
    pub fn fault_for(&self, domain: &str, kind: RecordType, fault: Fault) {
        self.zone().faults.insert((key(domain), Some(kind)), fault);
    }

    /// Ends the faults of a name.
    pub fn heal(&self, domain: &str) {
        let domain = key(domain);
        self.zone().faults.retain(|(name, _), _| *name != domain);
    }

    /// Forgets a name's records and faults: it does not exist any more.
    pub fn remove(&self, domain: &str) {
        self.heal(domain);
        let domain = key(domain);
        let mut zone = self.zone();
        zone.records.retain(|(name, _), _| *name != domain);
        zone.names.remove(&domain);
    }

    /// Seconds for which answers may be kept, from now on. 0, as at first: none, and answers that
    /// say that there is nothing name no zone; else they carry its SOA record (RFC 2308 section 2).
    pub fn ttl(&self, seconds: u32) {
        self.zone().ttl = seconds;
    }

    /// How often records of that type were asked for, retries and the question again over TCP
    /// included.
    #[must_use]
    pub fn asked(&self, domain: &str, kind: RecordType) -> usize {
        let zone = self.zone();
        zone.asked.get(&(key(domain), kind)).copied().unwrap_or(0)
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.0
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, owner: &str, data: RData) {
        let mut zone = self.zone();
        let owner = key(owner);
        zone.names.insert(owner.clone());
        zone.records
            .entry((owner, data.record_type()))
            .or_default()
            .push(data);
    }
}

/// A name of a record, from the root.
pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_utf8(text).expect("tests use valid names");
    name.set_fqdn(true);
    name
}

pub(crate) fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

pub(crate) fn txt_data(strings: &[&str]) -> RData {
    RData::TXT(TXT::new(strings.iter().map(|&s| s.to_owned()).collect()))
}

pub(crate) fn tlsa_data(usage: u8, selector: u8, matching: u8, data: Vec<u8>) -> RData {
    RData::TLSA(TLSA::new(
        CertUsage::from(usage),
        Selector::from(selector),
        Matching::from(matching),
        data,
    ))
}

/// As names are compared.
pub(crate) fn key(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

impl Answers for Mutex<Zone> {
    async fn answer(&self, request: &Message, _: &[u8]) -> Option<(Message, Option<Fault>)> {
        let question = request.queries.first()?;
        let mut zone = self.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = (key(&question.name().to_utf8()), question.query_type());
        *zone.asked.entry(asked).or_default() += 1;

        let mut response = Message::response(request.id, request.op_code);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.metadata.authoritative = true;
        response.metadata.recursion_available = true;
        response.edns.clone_from(&request.edns);
        response.add_query(question.clone());
        let fault = answer(&zone, question, &mut response);
        Some((response, fault))
    }
}

/// Puts what the zone has into the response; gives the fault of the last name in a chain of aliases
/// that has one.
fn answer(zone: &Zone, question: &Query, response: &mut Message) -> Option<Fault> {
    let kind = question.query_type();
    let mut asked = question.name().clone();
    let mut fault = None;
    for _ in 0..ALIASES_MAX {
        let owner = key(&asked.to_utf8());
        let faults = &zone.faults;
        let found = faults.get(&(owner.clone(), Some(kind)));
        fault = found
            .or_else(|| faults.get(&(owner.clone(), None)))
            .cloned()
            .or(fault);
        if let Some(found) = zone.records.get(&(owner.clone(), kind)) {
            let record = |data: &RData| Record::from_rdata(asked.clone(), zone.ttl, data.clone());
            response.add_answers(found.iter().map(record));
            return fault;
        }
        let alias = zone.records.get(&(owner.clone(), RecordType::CNAME));
        match alias.and_then(|found| found.first()) {
            Some(data @ RData::CNAME(CNAME(target))) => {
                let record = Record::from_rdata(asked.clone(), zone.ttl, data.clone());
                response.add_answer(record);
                asked = target.clone();
            }
            _ => {
                if !zone.names.contains(&owner) {
                    response.metadata.response_code = ResponseCode::NXDomain;
                }
                if zone.ttl > 0 {
                    let (host, mail) = (name("ns.test"), name("hostmaster.test"));
                    let timers = i32::try_from(zone.ttl).unwrap_or(i32::MAX);
                    let soa = SOA::new(host, mail, 1, timers, timers, timers, zone.ttl);
                    let soa = Record::from_rdata(Name::root(), zone.ttl, RData::SOA(soa));
                    response.add_authority(soa);
                }
                return fault;
            }
        }
    }
    Some(Fault::ServFail)
}
