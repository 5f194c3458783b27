//! Looks at each response before anything believes it.
//!
//! The library that resolves names takes an answer that is all about another name for one that
//! there is nothing, and a referral too. We would bounce mail for that. Behind this guard they are
//! failures, as they should be: the next name server is asked, and where none knows better, the
//! mail waits.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle};
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::{ConnectionProvider, PoolContext};

/// Makes connections whose responses are looked at.
#[derive(Clone)]
pub(super) struct Guard {
    runtime: TokioRuntimeProvider,
    /// Whether there are other name servers to ask.
    others: bool,
}

impl Guard {
    /// `servers`: how many name servers there are.
    pub(super) fn new(servers: usize) -> Self {
        Self {
            runtime: TokioRuntimeProvider::default(),
            others: servers > 1,
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
        let others = self.others;
        Ok(Box::pin(async move {
            let connection = connecting.await?;
            Ok(Guarded { connection, others })
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
    others: bool,
}

impl DnsHandle for Guarded {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let question = request.queries.first().cloned();
        let others = self.others;
        let responses = self.connection.send(request);
        Box::pin(responses.map(move |response| match (response, &question) {
            (Ok(response), Some(question)) => match fault(question, &response, others) {
                Some(fault) => Err(broken(fault)),
                None => Ok(response),
            },
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
