//! MTA-STS policies fetched from a policy host in process, with an authority of its own.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_lookup::{HttpsStsFetch, Resolve};
use postroad_mail::{Cache, Domain, Timestamp};
use postroad_routing::{
    BoxFuture, FETCH_AGAIN, Host, NoAnswer, PolicyKind, PolicyMode, Requirement, STS_POLICY_MAX,
    SecurityLookup as _, SecurityPolicies, StsFetch as _, StsFetchError, StsPolicies,
    StsPolicyError, TxtLookup,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: *.good.test\r\nmax_age: 86400\r\n";
const WITHIN: Duration = Duration::from_secs(30);

/// A policy host, with an answer that can be changed.
struct PolicyHost {
    at: SocketAddr,
    tls: Arc<ClientConfig>,
    answer: watch::Sender<String>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// All names lead to it.
struct Always(SocketAddr);

impl Resolve for Always {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(std::future::ready(Ok(vec![self.0])))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl PolicyHost {
    /// With a certificate for `name`.
    async fn start(name: &str) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (answer, current) = watch::channel(text(POLICY));
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(server)),
            current,
            Arc::clone(&asked),
        ));
        Self {
            at,
            tls: Arc::new(client),
            answer,
            asked,
        }
    }

    fn client(&self) -> HttpsStsFetch {
        HttpsStsFetch::with_resolver(&self.tls, Arc::new(Always(self.at)))
    }

    fn says(&self, answer: &str) {
        self.answer.send_replace(answer.to_owned());
    }

    fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    answer: watch::Receiver<String>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, answer, asked) = (tls.clone(), answer.borrow().clone(), Arc::clone(&asked));
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(stream).await else {
                return;
            };
            let mut request = vec![0; 4096];
            let Ok(read) = stream.read(&mut request).await else {
                return;
            };
            request.truncate(read);
            asked
                .lock()
                .unwrap()
                .push(String::from_utf8(request).unwrap());
            if answer.is_empty() {
                // Silent, and never done.
                std::future::pending::<()>().await;
            }
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
    }
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn text(body: &str) -> String {
    answer("200 OK", "text/plain; charset=utf-8", body)
}

fn domain() -> Domain {
    "good.test".parse().unwrap()
}

#[tokio::test]
async fn fetched_from_the_policy_host_alone() {
    let host = PolicyHost::start("mta-sts.good.test").await;
    let client = host.client();
    let came = client.fetch(&domain(), WITHIN).await;
    assert_eq!(came.as_deref(), Ok(POLICY.as_bytes()));
    let request = host.asked.lock().unwrap()[0].to_lowercase();
    assert!(request.starts_with("get /.well-known/mta-sts.txt http/1.1\r\n"));
    assert!(request.contains("host: mta-sts.good.test\r\n"));

    let large = "x".repeat(STS_POLICY_MAX + 1);
    let redirect = "HTTP/1.1 301 Moved\r\nLocation: https://mta-sts.good.test/other\r\nContent-Length: 0\r\n\r\n";
    let policy = |error: StsPolicyError| StsFetchError::Policy(error);
    for (says, error, result) in [
        (
            redirect.to_owned(),
            StsFetchError::Status(301),
            "sts-policy-fetch-error",
        ),
        (
            answer("404 Not Found", "text/plain", POLICY),
            StsFetchError::Status(404),
            "sts-policy-fetch-error",
        ),
        (
            answer("204 No", "text/plain", ""),
            StsFetchError::Status(204),
            "sts-policy-fetch-error",
        ),
        (
            text(&large),
            policy(StsPolicyError::TooLarge),
            "sts-policy-invalid",
        ),
        (
            answer("200 OK", "text/html", POLICY),
            StsFetchError::ContentType("text/html".to_owned()),
            "sts-policy-invalid",
        ),
        (
            answer("200 OK", "text/plainer", POLICY),
            StsFetchError::ContentType("text/plainer".to_owned()),
            "sts-policy-invalid",
        ),
    ] {
        host.says(&says);
        let failed = client.fetch(&domain(), WITHIN).await.unwrap_err();
        assert_eq!(failed, error);
        assert_eq!(failed.result_type(), result);
    }
    host.says("220 this is no HTTP\r\n");
    let failed = client.fetch(&domain(), WITHIN).await.unwrap_err();
    assert_eq!(failed.result_type(), "sts-policy-fetch-error", "{failed}");
    // Nothing was asked a second time, nor anywhere else.
    assert_eq!(host.times(), 8);
}

#[tokio::test]
async fn the_certificate_must_be_the_policy_hosts() {
    let named = PolicyHost::start("www.good.test").await;
    let failed = named.client().fetch(&domain(), WITHIN).await.unwrap_err();
    assert!(matches!(failed, StsFetchError::Certificate(_)), "{failed}");
    assert_eq!(failed.result_type(), "sts-webpki-invalid");
    let (host, other) = (
        PolicyHost::start("mta-sts.good.test").await,
        PolicyHost::start("mta-sts.good.test").await,
    );
    let strange = HttpsStsFetch::with_resolver(&other.tls, Arc::new(Always(host.at)));
    let failed = strange.fetch(&domain(), WITHIN).await.unwrap_err();
    assert_eq!(failed.result_type(), "sts-webpki-invalid", "{failed}");
    assert_eq!(host.times(), 0);
}

#[tokio::test]
async fn a_slow_policy_host_is_given_up() {
    let host = PolicyHost::start("mta-sts.good.test").await;
    host.says("");
    let short = Duration::from_millis(200);
    let failed = host.client().fetch(&domain(), short).await.unwrap_err();
    assert!(matches!(failed, StsFetchError::Unreachable(_)), "{failed}");
}

#[derive(Debug, Default)]
struct Kept(Mutex<BTreeMap<String, Vec<u8>>>);

impl Cache for Kept {
    fn get(&self, _: &str, key: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(key).cloned()
    }
    fn put(&self, space: &str, key: &str, value: &[u8]) {
        assert_eq!(space, "mta-sts");
        self.0
            .lock()
            .unwrap()
            .insert(key.to_owned(), value.to_vec());
    }
    fn remove(&self, _: &str, key: &str) {
        self.0.lock().unwrap().remove(key);
    }
    fn keys(&self, _: &str, after: Option<&str>, max: usize) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let keys = all.keys().filter(|k| after.is_none_or(|a| k.as_str() > a));
        keys.take(max).cloned().collect()
    }
}

/// The record of the domain.
struct Record(Mutex<String>);

impl TxtLookup for Record {
    fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<String>, NoAnswer>> {
        assert_eq!(name, "_mta-sts.good.test");
        let record = self.0.lock().unwrap().clone();
        let found = match record.as_str() {
            "" => Err(NoAnswer::NoName),
            record => Ok(vec![record.to_owned()]),
        };
        Box::pin(std::future::ready(found))
    }
}

/// From the record to what is asked of a host, over real HTTPS; and through a change of the policy
/// that fails at first.
#[tokio::test]
async fn from_the_record_to_the_requirement() {
    let host = PolicyHost::start("mta-sts.good.test").await;
    let record = Arc::new(Record(Mutex::new("v=STSv1; id=1;".to_owned())));
    let clock = Arc::new(Mutex::new(Timestamp::from_millis(1_795_524_541_000)));
    let ticking = Arc::clone(&clock);
    let now: postroad_routing::Now = Arc::new(move || *ticking.lock().unwrap());
    let txt: Arc<dyn TxtLookup> = record.clone();
    let sts = StsPolicies::new(
        txt,
        Arc::new(host.client()),
        Arc::new(Kept::default()),
        Arc::clone(&now),
    );
    let policies = SecurityPolicies::new(PolicyMode::Enforce, None, Some(Arc::new(sts)), now);
    let pass = |seconds| {
        let mut now = clock.lock().unwrap();
        *now = *now + Duration::from_secs(seconds);
    };
    let mx = |name: &str| Host {
        name: name.parse().unwrap(),
        preference: Some(10),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        ttl: None,
    };
    let (good, domain) = (mx("mx1.good.test"), domain());
    let security = policies.security(Some(&domain), &good, 25).await;
    assert_eq!(security.requirement, Requirement::Valid);
    assert_eq!(security.policy, PolicyKind::Sts);
    assert!(security.enforced && security.policy_failure.is_none());
    let bad = policies
        .security(Some(&domain), &mx("mx.evil.test"), 25)
        .await;
    let Requirement::Unusable(reply) = &bad.requirement else {
        panic!("{bad:?}");
    };
    assert!(
        reply
            .to_string()
            .starts_with("451 4.7.5 mx.evil.test is not in")
    );
    assert_eq!(host.times(), 1, "the policy is kept");

    // A new policy that cannot be had: the old one stays in force, and the failure is told.
    pass(3600);
    *record.0.lock().unwrap() = "v=STSv1; id=2;".to_owned();
    host.says(&answer("500 Oh", "text/plain", ""));
    let security = policies.security(Some(&domain), &good, 25).await;
    assert_eq!(security.requirement, Requirement::Valid);
    assert_eq!(
        security.policy_failure.as_deref(),
        Some("sts-policy-fetch-error")
    );
    pass(60);
    policies.security(Some(&domain), &good, 25).await;
    assert_eq!(host.times(), 2, "what fails is left alone for a while");

    host.says(&text(&POLICY.replace("enforce", "testing")));
    pass(FETCH_AGAIN.as_secs());
    let security = policies.security(Some(&domain), &good, 25).await;
    assert_eq!(security.requirement, Requirement::Valid);
    assert!(!security.enforced && security.policy_failure.is_none());
    assert_eq!(security.reasons[0], "MTA-STS: testing, not enforced");

    // Without its record a policy is in force until its time is up.
    record.0.lock().unwrap().clear();
    pass(3600);
    let security = policies.security(Some(&domain), &good, 25).await;
    assert_eq!(security.policy, PolicyKind::Sts);
    pass(86_400);
    let security = policies.security(Some(&domain), &good, 25).await;
    assert_eq!(security.policy, PolicyKind::NoPolicyFound);
    assert_eq!(security.requirement, Requirement::None);
}
