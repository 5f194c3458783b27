//! Looks at each response before anything believes it.
//!
//! The library that resolves names takes an answer that is all about another name for one that
//! there is nothing, and a referral too. We would bounce mail for that. Behind this guard they are
//! failures, as they should be: the next name server is asked, and where none knows better, the
//! mail waits.
//!
//! And where it validates, it lets a denial pass unproven if all that stands beside it is from a
//! zone that is not signed, whichever that is. What is of another zone than the name is therefore
//! taken out before it gets there ([`keep_own_zone`]): or whoever can change packets could deny
//! TLSA records by a SOA record of any such zone, and DANE would be off.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{ConnectionProvider, PoolContext};

/// Makes connections whose responses are looked at.
#[derive(Clone)]
pub(super) struct Guard {
    runtime: TokioRuntimeProvider,
    care: Care,
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
struct Care {
    /// There are other name servers to ask.
    others: bool,
    /// What passes is validated.
    validates: bool,
}

impl Guard {
    /// `servers`: how many name servers there are; `validates`: whether what passes is validated.
    pub(super) fn new(servers: usize, validates: bool) -> Self {
        Self {
            runtime: TokioRuntimeProvider::default(),
            care: Care {
                others: servers > 1,
                validates,
            },
        }
    }
}

impl ConnectionProvider for Guard {
    type Conn = Guarded;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Guarded, NetError>> + Send>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        cx: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        let connecting = self.runtime.new_connection(ip, config, cx)?;
        let care = self.care;
        Ok(Box::pin(async move {
            let connection = connecting.await?;
            Ok(Guarded { connection, care })
        }))
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.runtime
    }
}

/// A connection to a name server.
#[derive(Clone)]
pub(super) struct Guarded {
    connection: DnsExchange<TokioRuntimeProvider>,
    care: Care,
}

impl DnsHandle for Guarded {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let question = request.queries.first().cloned();
        let care = self.care;
        let responses = self.connection.send(request);
        Box::pin(responses.map(move |response| match (response, &question) {
            (Ok(mut response), Some(question)) => {
                if let Some(fault) = fault(question, &response, care.others) {
                    return Err(broken(fault));
                }
                if care.validates {
                    keep_own_zone(question.name(), &mut response.authorities);
                }
                Ok(response)
            }
            (Err(NetError::Proto(error)), _) => Err(broken(format!("protocol error: {error}"))),
            (response, _) => response,
        }))
    }
}

/// As where the connection is broken: others are asked, then this server again.
fn broken(detail: String) -> NetError {
    NetError::from(io::Error::other(detail))
}

/// What is wrong with a response, so wrong that it says nothing about the name.
fn fault(question: &Query, response: &DnsResponse, others: bool) -> Option<String> {
    let code = response.response_code;
    match code {
        // These have no answer that could be wrong; who else is there may have one.
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp if others => {
            return Some(format!("error response: {code}"));
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        _ => return None,
    }
    if !response.queries.contains(question) {
        return Some("the response is to another question".to_owned());
    }
    if response.truncation {
        return None;
    }
    if response.answers.is_empty() {
        let has = |kind| response.authorities.iter().any(|r| r.record_type() == kind);
        // RFC 2308 section 2.2.1: NS records without SOA make a referral, which no server makes
        // that looks names up for others.
        let referral = code == ResponseCode::NoError
            && !response.authoritative
            && has(RecordType::NS)
            && !has(RecordType::SOA);
        return referral.then(|| "a referral in place of an answer: a lame server".to_owned());
    }
    let answers = response.answers.iter().any(|record| {
        let kind = record.record_type();
        record.name == *question.name()
            && (kind == question.query_type() || kind == RecordType::CNAME)
    });
    (!answers).then(|| "the answer is about another name".to_owned())
}

/// Takes out what is of another zone than the name that was asked for. What stays is of a name at
/// or above it; or it is a proof that something is not there (NSEC, NSEC3), which has a name of its
/// own, with a signature that says which zone it is of.
fn keep_own_zone(asked: &Name, authorities: &mut Vec<Record>) {
    let signed: Vec<(Name, RecordType)> = authorities
        .iter()
        .filter_map(|record| {
            let covered = covered(asked, record)?;
            Some((record.name.clone(), covered))
        })
        .collect();
    authorities.retain(|record| {
        record.name.zone_of(asked)
            || match record.record_type() {
                RecordType::RRSIG => covered(asked, record).is_some(),
                kind @ (RecordType::NSEC | RecordType::NSEC3) => signed
                    .iter()
                    .any(|(name, covered)| *name == record.name && *covered == kind),
                _ => false,
            }
    });
}

/// What a signature is about, where it is of a zone that the name could be in.
fn covered(asked: &Name, record: &Record) -> Option<RecordType> {
    let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &record.data else {
        return None;
    };
    let signature = signature.input();
    let zone = &signature.signer_name;
    (zone.zone_of(asked) && zone.zone_of(&record.name)).then_some(signature.type_covered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::dnssec::Algorithm;
    use hickory_resolver::proto::dnssec::rdata::{NSEC, RRSIG, SigInput};
    use hickory_resolver::proto::rr::SerialNumber;
    use hickory_resolver::proto::rr::rdata::{SOA, TXT};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, what: &str) -> Record {
        let data = match what.split_once(' ') {
            None if what == "SOA" => RData::SOA(SOA::new(name("a."), name("a."), 1, 1, 1, 1, 1)),
            None if what == "NSEC" => {
                RData::DNSSEC(DNSSECRData::NSEC(NSEC::new(name("a."), [RecordType::A])))
            }
            None => RData::TXT(TXT::new(vec!["x".to_owned()])),
            Some((kind, signer)) => {
                let input = SigInput {
                    type_covered: kind.parse().unwrap(),
                    algorithm: Algorithm::ED25519,
                    num_labels: 1,
                    original_ttl: 1,
                    sig_expiration: SerialNumber::from(1),
                    sig_inception: SerialNumber::from(1),
                    key_tag: 1,
                    signer_name: name(signer),
                };
                RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, Vec::new())))
            }
        };
        Record::from_rdata(name(owner), 60, data)
    }

    #[test]
    fn only_what_is_of_the_zone_stays() {
        for (records, kept) in [
            (
                &[("d.test.", "SOA"), ("test.", "SOA"), (".", "SOA")][..],
                "012",
            ),
            (&[("mx.d.test.", "SOA"), ("x.mx.d.test.", "SOA")], "0"),
            (
                &[("other.", "SOA"), ("e.test.", "TXT"), ("d.test.", "SOA")],
                "2",
            ),
            // A proof of the zone, of none, and of another.
            (
                &[("a.d.test.", "NSEC"), ("a.d.test.", "NSEC d.test.")],
                "01",
            ),
            (&[("a.d.test.", "NSEC")], ""),
            (&[("a.other.", "NSEC"), ("a.other.", "NSEC other.")], ""),
            (&[("a.other.", "NSEC"), ("a.other.", "NSEC d.test.")], ""),
            (&[("a.d.test.", "NSEC"), ("a.d.test.", "SOA d.test.")], "1"),
            (&[("a.d.test.", "TXT"), ("a.d.test.", "TXT d.test.")], "1"),
        ] {
            let all: Vec<_> = records
                .iter()
                .map(|(owner, what)| record(owner, what))
                .collect();
            let mut left = all.clone();
            keep_own_zone(&name("mx.d.test."), &mut left);
            let numbers: String = (0..all.len())
                .filter(|&n| left.contains(&all[n]))
                .map(|n| n.to_string())
                .collect();
            assert_eq!(numbers, kept, "{records:?}");
        }
    }
}
