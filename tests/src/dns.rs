//! A name server on loopback, in process (hickory-server), with records that tests put in.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::process::loopback;

/// Seconds for which an answer may be kept: none, since tests change records.
const TTL: u32 = 0;

#[derive(Debug, Default)]
struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    names: HashSet<String>,
    servfail: HashSet<String>,
}

/// A running name server.
pub struct TestDns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _server: Server<Handler>,
}

impl std::fmt::Debug for TestDns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestDns({})", self.address)
    }
}

impl TestDns {
    /// Starts one, over UDP and TCP, without records: every name does not exist.
    ///
    /// # Panics
    /// Where there is no port for it.
    pub async fn start() -> Self {
        let udp = UdpSocket::bind((loopback(), 0))
            .await
            .expect("a loopback address has free ports");
        let address = udp.local_addr().expect("a socket has an address");
        let tcp = TcpListener::bind(address)
            .await
            .expect("the address is this test's own");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let mut server = Server::new(Handler(Arc::clone(&zone)));
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 4096);
        Self {
            address,
            zone,
            _server: server,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds an MX record; the host `.` makes it the null MX.
    pub fn mx(&self, domain: &str, preference: u16, host: &str) {
        self.add(domain, RData::MX(MX::new(preference, name(host))));
    }

    /// Adds an address record.
    pub fn a(&self, host: &str, address: IpAddr) {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.add(host, data);
    }

    /// Adds an alias.
    pub fn cname(&self, alias: &str, target: &str) {
        self.add(alias, RData::CNAME(CNAME(name(target))));
    }

    /// Makes every question about a name fail.
    pub fn servfail(&self, domain: &str) {
        self.zone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .servfail
            .insert(domain.to_lowercase());
    }

    fn add(&self, owner: &str, data: RData) {
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owner.to_lowercase();
        zone.names.insert(owner.clone());
        zone.records
            .entry((owner, data.record_type()))
            .or_default()
            .push(data);
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_utf8(text).expect("tests use valid names");
    name.set_fqdn(true);
    name
}

struct Handler(Arc<Mutex<Zone>>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        metadata.recursion_available = true;
        let mut answers = Vec::new();
        match request.request_info() {
            Ok(info) => {
                let asked: Name = info.query.name().into();
                metadata.response_code =
                    answer(&self.0, asked, info.query.query_type(), &mut answers);
            }
            Err(_) => metadata.response_code = ResponseCode::FormErr,
        }
        let none: [&Record; 0] = [];
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            answers.iter(),
            none,
            none,
            none,
        );
        match response.send_response(message).await {
            Ok(info) => info,
            Err(_) => Header {
                metadata,
                counts: HeaderCounts::default(),
            }
            .into(),
        }
    }
}

fn answer(
    zone: &Mutex<Zone>,
    mut asked: Name,
    kind: RecordType,
    answers: &mut Vec<Record>,
) -> ResponseCode {
    let zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..8 {
        let key = asked.to_utf8().trim_end_matches('.').to_lowercase();
        if zone.servfail.contains(&key) {
            return ResponseCode::ServFail;
        }
        if let Some(found) = zone.records.get(&(key.clone(), kind)) {
            answers.extend(
                found
                    .iter()
                    .map(|data| Record::from_rdata(asked.clone(), TTL, data.clone())),
            );
            return ResponseCode::NoError;
        }
        match zone
            .records
            .get(&(key.clone(), RecordType::CNAME))
            .and_then(|found| found.first())
        {
            Some(data @ RData::CNAME(CNAME(target))) => {
                answers.push(Record::from_rdata(asked.clone(), TTL, data.clone()));
                asked = target.clone();
            }
            _ if zone.names.contains(&key) => return ResponseCode::NoError,
            _ => return ResponseCode::NXDomain,
        }
    }
    ResponseCode::ServFail
}
