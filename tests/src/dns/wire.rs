//! How questions come in and responses go out: UDP, TCP, TLS; and what goes wrong on the way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hickory_server::proto::op::{Message, Query, ResponseCode};
use hickory_server::proto::rr::rdata::{CNAME, NS, SOA};
use hickory_server::proto::rr::{Name, RData, Record};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::name;
use crate::process::loopback;

/// Octets of a datagram that are read.
const DATAGRAM_MAX: usize = 4096;

/// What goes wrong with the questions about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SERVFAIL.
    ServFail,
    /// REFUSED, as a lame server has it.
    Refused,
    /// No answer but a referral to other servers, as a lame server has it.
    Referral,
    /// Nothing is ever sent.
    Silent,
    /// The TC bit and no answer over UDP; all of it over TCP.
    TruncatedUdp,
    /// The TC bit and no answer, over TCP too.
    Truncated,
    /// The answer's records are those of this other name.
    OtherOwner(String),
    /// The answer is one to a question about this other name.
    OtherQuestion(String),
    /// The signatures are left out.
    Unsigned,
    /// There is nothing, and no proof of that.
    Denied,
    /// The same with the SOA record of this other zone, without a signature; NXDOMAIN where true.
    DeniedBy(String, bool),
    /// An alias of this other name, without a signature, and the SOA record of that zone, likewise.
    AliasOf(String, String),
    /// The alias that the name is, with its signature, and nothing else.
    AliasAlone,
    /// The right id, and octets that make no message behind it.
    Garbage,
}

/// Answers questions.
pub(crate) trait Answers: Send + Sync + 'static {
    /// The response to a request, which is there in octets too, and what is to go wrong with it.
    fn answer(
        &self,
        request: &Message,
        octets: &[u8],
    ) -> impl Future<Output = Option<(Message, Option<Fault>)>> + Send;
}

/// Listens, until it is dropped.
#[derive(Debug)]
pub(crate) struct Wire<A> {
    pub(crate) address: SocketAddr,
    pub(crate) answers: Arc<A>,
    tasks: Mutex<JoinSet<()>>,
}

impl<A: Answers> Wire<A> {
    /// On one port, over UDP and TCP.
    pub(crate) async fn listen(answers: A) -> Self {
        let udp = UdpSocket::bind((loopback(), 0))
            .await
            .expect("a loopback address has free ports");
        let address = udp.local_addr().expect("a socket has an address");
        let tcp = TcpListener::bind(address)
            .await
            .expect("the address is this test's own");
        let answers = Arc::new(answers);
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(udp, Arc::clone(&answers)));
        tasks.spawn(connections(tcp, None, Arc::clone(&answers)));
        Self {
            address,
            answers,
            tasks: Mutex::new(tasks),
        }
    }

    /// On another port, over TLS.
    pub(crate) async fn listen_tls(&self, config: Arc<rustls::ServerConfig>) -> SocketAddr {
        let tcp = TcpListener::bind((self.address.ip(), 0))
            .await
            .expect("a loopback address has free ports");
        let address = tcp.local_addr().expect("a socket has an address");
        let acceptor = Some(TlsAcceptor::from(config));
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(connections(tcp, acceptor, Arc::clone(&self.answers)));
        address
    }
}

async fn datagrams(socket: UdpSocket, answers: Arc<impl Answers>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let request = buffer.get(..length).unwrap_or_default();
        if let Some(response) = respond(&*answers, request, false).await {
            // Who does not wait for it any more is not there for it.
            let _ = socket.send_to(&response, peer).await;
        }
    }
}

async fn connections(listener: TcpListener, tls: Option<TlsAcceptor>, answers: Arc<impl Answers>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (answers, tls) = (Arc::clone(&answers), tls.clone());
        open.spawn(async move {
            match tls {
                None => messages(stream, &*answers).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => messages(stream, &*answers).await,
                    Err(_) => None,
                },
            }
        });
    }
}

/// Messages, each behind its length in two octets (RFC 1035 section 4.2.2); ends with the stream.
async fn messages(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: &impl Answers,
) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut request = vec![0; usize::from(length)];
        stream.read_exact(&mut request).await.ok()?;
        if let Some(response) = respond(answers, &request, true).await {
            let length = u16::try_from(response.len()).ok()?;
            stream.write_u16(length).await.ok()?;
            stream.write_all(&response).await.ok()?;
            stream.flush().await.ok()?;
        }
    }
}

/// The octets of the response, where there is one. `over_stream`: there is room for all of it.
async fn respond(answers: &impl Answers, octets: &[u8], over_stream: bool) -> Option<Vec<u8>> {
    let request = Message::from_vec(octets).ok()?;
    let (mut response, fault) = answers.answer(&request, octets).await?;
    if let Some(fault) = fault {
        match fault {
            Fault::Silent => return None,
            Fault::Garbage => {
                let mut octets = request.id.to_be_bytes().to_vec();
                octets.extend([0xff; 9]);
                return Some(octets);
            }
            Fault::TruncatedUdp if over_stream => {}
            Fault::TruncatedUdp | Fault::Truncated => truncate(&mut response),
            fault => spoil(&mut response, fault),
        }
    }
    let octets = response.to_vec().ok()?;
    if !over_stream && octets.len() > usize::from(request.max_payload()) {
        truncate(&mut response);
        return response.to_vec().ok();
    }
    Some(octets)
}

fn truncate(response: &mut Message) {
    refuse(response, ResponseCode::NoError);
    response.metadata.truncation = true;
}

/// Takes back what was found.
fn refuse(response: &mut Message, code: ResponseCode) {
    response.metadata.response_code = code;
    response.answers.clear();
    response.authorities.clear();
    response.additionals.clear();
}

fn soa(zone: &str) -> Record {
    let soa = SOA::new(name(zone), name(zone), 1, 300, 300, 300, 300);
    Record::from_rdata(name(zone), 300, RData::SOA(soa))
}

fn spoil(response: &mut Message, fault: Fault) {
    match fault {
        Fault::ServFail => refuse(response, ResponseCode::ServFail),
        Fault::Refused => refuse(response, ResponseCode::Refused),
        Fault::Referral => {
            refuse(response, ResponseCode::NoError);
            response.metadata.authoritative = false;
            response.metadata.recursion_available = false;
            let elsewhere = RData::NS(NS(name("a.elsewhere.test")));
            response.add_authority(Record::from_rdata(Name::root(), 0, elsewhere));
        }
        Fault::Unsigned => {
            for records in [&mut response.answers, &mut response.authorities] {
                records.retain(|record| !record.record_type().is_rrsig());
            }
        }
        Fault::Denied => refuse(response, ResponseCode::NoError),
        Fault::DeniedBy(zone, all) => {
            let code = if all {
                ResponseCode::NXDomain
            } else {
                ResponseCode::NoError
            };
            refuse(response, code);
            response.add_authority(soa(&zone));
        }
        Fault::AliasOf(other, zone) => {
            let asked = response.queries.first().map(|q| q.name().clone());
            refuse(response, ResponseCode::NoError);
            let alias = RData::CNAME(CNAME(name(&other)));
            response
                .answers
                .extend(asked.map(|asked| Record::from_rdata(asked, 300, alias)));
            response.add_authority(soa(&zone));
        }
        Fault::AliasAlone => {
            let asked = response.queries.first().map(|q| q.name().clone());
            let own = std::mem::take(&mut response.answers);
            refuse(response, ResponseCode::NoError);
            let own = own.into_iter().filter(|r| Some(&r.name) == asked.as_ref());
            response.answers.extend(own);
        }
        Fault::OtherOwner(other) => {
            for record in &mut response.answers {
                record.name = name(&other);
            }
        }
        Fault::OtherQuestion(other) => {
            for question in &mut response.queries {
                *question = Query::query(name(&other), question.query_type());
            }
        }
        Fault::Silent | Fault::TruncatedUdp | Fault::Truncated | Fault::Garbage => {}
    }
}
