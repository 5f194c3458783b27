//! What outbound TLS takes for a certificate: any, a valid one, one that TLSA records match. Each
//! against a server in process that has just that certificate.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use postroad_mail::{Protocol, Tlsa};
use postroad_net::client::{
    CertificateCheck, ConnectError, Connector, Target, TlsFault, TlsVerdict,
};
use postroad_net::tls::provider;
use postroad_proto::client::{Config, StartTls, Timeouts};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use x509_parser::parse_x509_certificate;

const NAME: &str = "mx.secure.test";

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// An authority, one below it, and what they sign.
struct World {
    root: Issuer,
    middle: Issuer,
}

/// A certificate with its key and those that come with it.
struct Made {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl World {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let key = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
        let middle = CertifiedIssuer::signed_by(authority("middle"), key(), &root).unwrap();
        Self { root, middle }
    }

    fn root(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    fn middle(&self) -> CertificateDer<'static> {
        self.middle.der().clone()
    }

    fn made(&self, name: &str, in_date: bool) -> Made {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if !in_date {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.middle).unwrap();
        Made {
            chain: vec![certificate.der().clone(), self.middle()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Vec<u8> {
    let (_, parsed) = parse_x509_certificate(certificate).unwrap();
    parsed.public_key().raw.to_vec()
}

/// A record about a certificate.
fn tlsa(usage: u8, selector: u8, matching: u8, certificate: &CertificateDer<'_>) -> Tlsa {
    let selected = match selector {
        0 => certificate.to_vec(),
        _ => key_of(certificate),
    };
    let data = match matching {
        0 => selected,
        1 => digest(&SHA256, &selected).as_ref().to_vec(),
        _ => digest(&SHA512, &selected).as_ref().to_vec(),
    };
    Tlsa {
        usage,
        selector,
        matching,
        data,
    }
}

/// Serves TLS from the first octet, and a greeting and an EHLO under it; tells the SNI names.
fn serve(made: &Made) -> (SocketAddr, Arc<Mutex<Vec<Option<String>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(made.chain.clone(), made.key.clone_key())
        .unwrap();
    let config = Arc::new(config);
    let names = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&names);
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket);
            let _ = stream.write_all(b"220 hop\r\n");
            told.lock()
                .unwrap()
                .push(stream.conn.server_name().map(str::to_owned));
            let mut octets = [0; 512];
            while let Ok(1..) = stream.read(&mut octets) {
                let _ = stream.write_all(b"250 ok\r\n");
            }
        }
    });
    (address, names)
}

fn connector(trusted: Option<&World>) -> Connector {
    let Some(world) = trusted else {
        return Connector::new(&[]).unwrap();
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roots.pem");
    std::fs::write(&path, world.root.pem()).unwrap();
    Connector::new(&[path]).unwrap()
}

fn target(address: SocketAddr, certificate: CertificateCheck, enforce: bool) -> Target {
    Target {
        address: address.into(),
        name: NAME.to_owned(),
        implicit_tls: true,
        certificate,
        enforce,
        source: None,
        connect_timeout: Duration::from_secs(20),
        session: Arc::new(Config {
            protocol: Protocol::Smtp,
            helo: "me.test".to_owned(),
            starttls: StartTls::Never,
            credentials: None,
            timeouts: Timeouts::default(),
        }),
    }
}

/// Connects twice, enforced and not, and tells what came of it: both must agree.
async fn came(connector: &Connector, made: &Made, check: CertificateCheck) -> Result<(), TlsFault> {
    let (address, names) = serve(made);
    // One connection at a time is served: each has ended before the next.
    let connected = connector
        .connect(&target(address, check.clone(), true))
        .await;
    let enforced = match connected.map(drop) {
        Ok(()) => Ok(()),
        Err(ConnectError::Tls { fault, .. }) => Err(fault),
        Err(other) => panic!("{other}"),
    };
    let observed = connector
        .connect(&target(address, check, false))
        .await
        .expect("what is not enforced does not fail");
    let observed = match observed.verdict().expect("there was a handshake") {
        TlsVerdict::Failed { fault, .. } => Err(*fault),
        TlsVerdict::Passed | TlsVerdict::Unchecked => Ok(()),
    };
    assert_eq!(enforced, observed);
    for name in names.lock().unwrap().iter().flatten() {
        assert_eq!(name, NAME, "the server is told the name");
    }
    enforced
}

fn dane(records: Vec<Tlsa>, names: &[&str]) -> CertificateCheck {
    CertificateCheck::Dane {
        records: records.into(),
        names: names.iter().map(|&n| n.to_owned()).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_certificate_will_do_where_nothing_is_asked() {
    let world = World::new();
    let (stranger, expired) = (world.made("other.test", true), world.made(NAME, false));
    for made in [&stranger, &expired] {
        let result = came(&connector(None), made, CertificateCheck::Any).await;
        assert_eq!(result, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_certificate() {
    let world = World::new();
    let trusting = connector(Some(&world));
    let strange = connector(Some(&World::new()));
    let valid = CertificateCheck::Valid;
    for (connector, made, result) in [
        (&trusting, world.made(NAME, true), Ok(())),
        (
            &trusting,
            world.made("other.test", true),
            Err(TlsFault::HostMismatch),
        ),
        (&trusting, world.made(NAME, false), Err(TlsFault::Expired)),
        (&trusting, world.made("*.secure.test", true), Ok(())),
        (&strange, world.made(NAME, true), Err(TlsFault::NotTrusted)),
    ] {
        assert_eq!(came(connector, &made, valid.clone()).await, result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dane_ee_is_a_match_and_nothing_else() {
    let world = World::new();
    let connector = connector(None);
    // Neither the name nor the dates count.
    let (made, other) = (world.made("elsewhere.test", false), world.made(NAME, true));
    let (end, wrong) = (&made.chain[0], &other.chain[0]);
    for selector in [0, 1] {
        for matching in [0, 1, 2] {
            let right = tlsa(3, selector, matching, end);
            let result = came(&connector, &made, dane(vec![right.clone()], &[NAME])).await;
            assert_eq!(result, Ok(()), "3 {selector} {matching}");
            let mismatch = tlsa(3, selector, matching, wrong);
            let both = dane(vec![mismatch.clone(), right], &[NAME]);
            assert_eq!(came(&connector, &made, both).await, Ok(()));
            let result = came(&connector, &made, dane(vec![mismatch], &[NAME])).await;
            assert_eq!(result, Err(TlsFault::Tlsa), "3 {selector} {matching}");
        }
    }
    // The key of the authority is not the server's.
    let issuer = tlsa(3, 1, 1, &world.middle());
    let result = came(&connector, &made, dane(vec![issuer], &[NAME])).await;
    assert_eq!(result, Err(TlsFault::Tlsa));
}

#[tokio::test(flavor = "multi_thread")]
async fn dane_ta_is_an_anchor() {
    const NO_MATCH: Result<(), TlsFault> = Err(TlsFault::Tlsa);
    const NOT_LED: Result<(), TlsFault> = Err(TlsFault::NotTrusted);
    let (world, other) = (World::new(), World::new());
    let connector = connector(None);
    let good = world.made(NAME, true);
    let own = good.chain[0].clone();
    for (what, (selector, matching), about, result) in [
        ("in the chain", (0, 1), world.middle(), Ok(())),
        ("in the chain", (1, 1), world.middle(), Ok(())),
        ("in the chain", (0, 2), world.middle(), Ok(())),
        ("in the chain", (0, 0), world.middle(), Ok(())),
        ("in the chain", (1, 0), world.middle(), Ok(())),
        // What the record holds in full need not be there; a digest says nothing of it.
        ("not in the chain", (0, 0), world.root(), Ok(())),
        ("not in the chain", (1, 0), world.root(), Ok(())),
        ("not in the chain", (0, 1), world.root(), NO_MATCH),
        ("not in the chain", (1, 2), world.root(), NO_MATCH),
        ("another's", (0, 1), other.middle(), NO_MATCH),
        ("another's", (0, 0), other.root(), NOT_LED),
        ("another's", (1, 0), other.root(), NOT_LED),
        ("the server's own", (1, 1), own, NO_MATCH),
    ] {
        let record = tlsa(2, selector, matching, &about);
        let came = came(&connector, &good, dane(vec![record], &[NAME])).await;
        assert_eq!(came, result, "2 {selector} {matching}, {what}");
    }
    // Whatever is wrong with one record, another that is right is enough.
    let records = [world.root(), world.middle()].map(|about| tlsa(2, 0, 1, &about));
    let both = dane(records.to_vec(), &[NAME]);
    assert_eq!(came(&connector, &good, both).await, Ok(()));
}

/// RFC 7672 section 3.2.2: one of the names will do. Section 3.1.2: dates count.
#[tokio::test(flavor = "multi_thread")]
async fn dane_ta_wants_names_and_dates() {
    let world = World::new();
    let connector = connector(None);
    let record = tlsa(2, 0, 1, &world.middle());
    let (good, expired) = (world.made(NAME, true), world.made(NAME, false));
    for (made, names, result) in [
        (&good, &[NAME][..], Ok(())),
        (&good, &["x.test", NAME], Ok(())),
        (&good, &["x.test"], Err(TlsFault::HostMismatch)),
        (&good, &[], Err(TlsFault::NotTrusted)),
        (&expired, &[NAME], Err(TlsFault::Expired)),
    ] {
        let came = came(&connector, made, dane(vec![record.clone()], names)).await;
        assert_eq!(came, result, "{names:?}");
    }
}

/// The key is proven in the handshake whatever is asked of the certificate: a certificate alone can
/// be had by anybody.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_always_checked() {
    #[derive(Debug)]
    struct Stolen(rustls::sign::CertifiedKey);
    impl rustls::server::ResolvesServerCert for Stolen {
        fn resolve(
            &self,
            _: rustls::server::ClientHello<'_>,
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::new(self.0.clone()))
        }
    }
    let world = World::new();
    let (made, thief) = (world.made(NAME, true), world.made(NAME, true));
    let key = provider()
        .key_provider
        .load_private_key(thief.key.clone_key())
        .unwrap();
    let stolen = rustls::sign::CertifiedKey::new(made.chain.clone(), key);
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Stolen(stolen)));
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let _ = connection.complete_io(&mut socket);
        }
    });
    let connector = connector(Some(&world));
    let record = tlsa(3, 1, 1, &made.chain[0]);
    for check in [
        CertificateCheck::Any,
        CertificateCheck::Valid,
        dane(vec![record], &[NAME]),
    ] {
        for enforce in [true, false] {
            let failed = connector
                .connect(&target(address, check.clone(), enforce))
                .await;
            assert!(
                matches!(
                    failed,
                    Err(ConnectError::Tls {
                        fault: TlsFault::Handshake,
                        ..
                    })
                ),
                "{check:?}: {failed:?}"
            );
        }
    }
}
