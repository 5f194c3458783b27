//! Policies on the way of a message: from what is asked of a host to what the books say, against a
//! hop in process with a certificate that only its TLSA record vouches for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_mail::{Domain, Envelope, Origin, Recipient, Tlsa};
use postroad_net::client::Connector;
use postroad_queue::{ClaimRequest, Draft, Filter, Lane, MemStore, RecipientState, Store as _};
use postroad_routing::{
    BoxFuture, HopPlan, Host, HostSecurity, MxLookup, PlanError, PolicyKind, Requirement,
    SecurityLookup, SharedRouter,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::tls_books::tests::Kept;
use crate::{Outbound, OutboundConfig};

/// A hop with STARTTLS, and REQUIRETLS under it.
struct Hop {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    /// What came with MAIL, `TLS ` before it where it came so.
    mails: Arc<Mutex<Vec<String>>>,
}

impl Hop {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["elsewhere.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let certificate = made.cert.der().clone();
        let config = ServerConfig::builder_with_provider(postroad_net::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let mails = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&mails);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, seen) = (tls.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let _ = stream.write_all(b"220 hop\r\n").await;
                    if talk(&mut stream, false, &seen).await
                        && let Ok(stream) = tls.accept(stream.into_inner()).await
                    {
                        talk(&mut BufReader::new(stream), true, &seen).await;
                    }
                });
            }
        });
        Self {
            address,
            certificate,
            mails,
        }
    }

    fn record(&self, right: bool) -> Tlsa {
        let mut data = self.certificate.to_vec();
        if !right {
            data.push(0);
        }
        Tlsa {
            usage: 3,
            selector: 0,
            matching: 0,
            data,
        }
    }

    fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }
}

/// Whether TLS is to follow.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    tls: bool,
    mails: &Mutex<Vec<String>>,
) -> bool {
    let mut line = String::new();
    let mut in_data = false;
    while matches!(stream.read_line(&mut line).await, Ok(1..)) {
        let reply = match line.get(..4).unwrap_or_default() {
            _ if in_data && line != ".\r\n" => "",
            "EHLO" if tls => "250-hop\r\n250 REQUIRETLS\r\n",
            "EHLO" => "250-hop\r\n250 STARTTLS\r\n",
            "STAR" => "220 go\r\n",
            "DATA" => "354 go\r\n",
            _ => "250 ok\r\n",
        };
        if line.starts_with("MAIL") {
            let under = if tls { "TLS " } else { "" };
            mails
                .lock()
                .unwrap()
                .push(format!("{under}{}", line.trim()));
        }
        let _ = stream.write_all(reply.as_bytes()).await;
        let _ = stream.flush().await;
        if line.starts_with("STAR") {
            return true;
        }
        in_data = line.starts_with("DATA") || (in_data && line != ".\r\n");
        line.clear();
    }
    false
}

/// Every domain has the one host.
struct OneHost(SocketAddr);

impl MxLookup for OneHost {
    fn mx<'a>(&'a self, _: &'a Domain, _: u64) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        let host = Host {
            name: "mx.test".parse().unwrap(),
            preference: Some(10),
            addresses: vec![self.0.ip()],
            ttl: None,
        };
        Box::pin(std::future::ready(Ok(HopPlan::of(vec![host]))))
    }

    fn host<'a>(&'a self, name: &'a Domain, _: u16) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
        self.mx(name, 0)
    }
}

struct Says(HostSecurity);

impl SecurityLookup for Says {
    fn security<'a>(
        &'a self,
        _: Option<&'a Domain>,
        _: &'a Host,
        _: u16,
    ) -> BoxFuture<'a, HostSecurity> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

fn dane(record: Tlsa, enforced: bool) -> HostSecurity {
    HostSecurity {
        requirement: Requirement::Dane {
            records: vec![record].into(),
            names: vec!["mx.test".to_owned()],
        },
        policy: PolicyKind::Tlsa,
        policy_strings: vec!["3 0 0 ...".to_owned()],
        enforced,
        ..HostSecurity::none()
    }
}

struct Came {
    /// `delivered`, or the reply for which it was not.
    outcome: String,
    /// What was observed: passed, would fail, why.
    observed: Option<(u64, u64, String)>,
}

async fn send(hop: &Hop, security: HostSecurity, head: &'static str, require_tls: bool) -> Came {
    let store = MemStore::new(1 << 20);
    let config = OutboundConfig {
        port: hop.address.port(),
        ..OutboundConfig::new("me.test".parse().unwrap())
    };
    let outbound = Outbound::new(
        config,
        Arc::new(store.clone()),
        SharedRouter::default(),
        Arc::new(OneHost(hop.address)),
        Connector::new(&[]).unwrap(),
    )
    .with_security(Arc::new(Says(security)))
    .with_cache(Arc::new(Kept::default()));
    // The second recipient is not due in this lane, and keeps the message in the queue.
    let mut envelope = Envelope::new(
        "<me@s.test>".parse().unwrap(),
        Recipient::new("bob@far.test".parse().unwrap()),
    );
    envelope.push(Recipient::new("other@far.test".parse().unwrap()));
    envelope.require_tls = require_tls;
    let now = outbound.clock.now();
    let draft = Draft {
        envelope,
        origin: Origin::default(),
        head: head.into(),
        lanes: vec![Lane::new("a"), Lane::new("b")],
        resumes: None,
    };
    store.begin(now).unwrap().commit(now, draft).await.unwrap();
    let request = ClaimRequest {
        max: 1,
        per_lane: 1,
        lease: Duration::from_secs(60),
    };
    let job = store.claim(now, &request).await.unwrap().remove(0);
    let tried = job.recipients[0];
    outbound.run_job(job, None).await;
    let listed = store.page(&Filter::default(), None, 1).await.unwrap();
    let recipient = &listed[0].recipients[tried];
    let outcome = match recipient.state {
        RecipientState::Delivered => "delivered".to_owned(),
        _ => recipient.last.as_ref().unwrap().reply.to_string(),
    };
    let observed = outbound.tls_report().pop().map(|o| {
        assert_eq!((o.domain.as_str(), o.policy), ("far.test", "tlsa"));
        (
            o.sessions_ok,
            o.would_fail,
            o.last_reason.unwrap_or_default(),
        )
    });
    Came { outcome, observed }
}

const PLAIN: &str = "Subject: x\r\n\r\n";
const OPTIONAL: &str = "Subject: x\r\nTLS-Required: No\r\n\r\n";
const WRONG: &str = "mx.test: tlsa-invalid";

#[tokio::test]
async fn in_force_and_observed() {
    for (right, enforced, outcome, figures) in [
        (true, true, "delivered", (1, 0)),
        (false, true, "454 4.7.5", (0, 1)),
        (true, false, "delivered", (1, 0)),
        (false, false, "delivered", (0, 1)),
    ] {
        let hop = Hop::start().await;
        let came = send(&hop, dane(hop.record(right), enforced), PLAIN, false).await;
        let what = format!("right: {right}, enforced: {enforced}");
        assert!(
            came.outcome.starts_with(outcome),
            "{what}: {}",
            came.outcome
        );
        let (ok, failed, why) = came.observed.unwrap();
        assert_eq!((ok, failed), figures, "{what}");
        assert_eq!(why.starts_with(WRONG), !right, "{what}: {why}");
        // Never in the clear, where the handshake itself works.
        assert!(hop.mails().iter().all(|m| m.starts_with("TLS MAIL")));
    }
}

/// RFC 8689: REQUIRETLS goes over a verified connection, and on with the message; `TLS-Required:
/// No` goes in any case.
#[tokio::test]
async fn what_the_message_says_counts() {
    let hop = Hop::start().await;
    let came = send(&hop, dane(hop.record(true), true), PLAIN, true).await;
    assert_eq!(came.outcome, "delivered");
    assert!(hop.mails()[0].ends_with(" REQUIRETLS"), "{:?}", hop.mails());

    // A policy that is only observed is in force for it.
    let hop = Hop::start().await;
    let came = send(&hop, dane(hop.record(false), false), OPTIONAL, true).await;
    assert!(came.outcome.starts_with("454 4.7.5"), "{}", came.outcome);
    assert_eq!(hop.mails().len(), 0);

    let hop = Hop::start().await;
    let came = send(&hop, dane(hop.record(false), true), OPTIONAL, false).await;
    assert_eq!(came.outcome, "delivered");
    assert_eq!(hop.mails().len(), 1);
    assert!(!hop.mails()[0].contains("REQUIRETLS"));

    let hop = Hop::start().await;
    let came = send(&hop, HostSecurity::none(), PLAIN, true).await;
    assert!(came.outcome.starts_with("550 5.7.30"), "{}", came.outcome);
    assert!(came.observed.is_none() && hop.mails().is_empty());
}
