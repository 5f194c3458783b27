//! The zones with their keys and signatures.

use std::sync::Arc;
use std::time::Duration;

use hickory_server::dnssec::NxProofKind;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS};
use hickory_server::proto::dnssec::{
    DigestType, DnssecSigner, Nsec3HashAlgorithm, PublicKeyBuf, SigningKey as _,
};
use hickory_server::proto::rr::rdata::{NS, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::{BOGUS, INSECURE, SECURE, TTL};
use crate::dns::name;

/// For how long signatures hold.
const SIGNED_FOR: Duration = Duration::from_hours(24);

/// One catalog would answer questions for a DS record from the zone below the cut; they belong
/// above it (RFC 4035 section 3.1.4.1).
pub(super) struct Catalogs {
    pub(super) all: Catalog,
    pub(super) root: Catalog,
}

/// A zone's key.
pub(super) struct Key(PrivatePkcs8KeyDer<'static>);

impl Key {
    fn new() -> Self {
        Self(Ed25519SigningKey::generate_pkcs8().expect("the system has random numbers"))
    }

    fn signing(&self) -> Ed25519SigningKey {
        Ed25519SigningKey::from_pkcs8(&self.0).expect("the key was made here")
    }

    pub(super) fn public(&self) -> PublicKeyBuf {
        self.signing()
            .to_public_key()
            .expect("the key was made here")
    }

    fn ds(&self, zone: &Name) -> RData {
        let ds = DS::from_key(&self.public(), zone, DigestType::SHA256)
            .expect("SHA-256 can be computed");
        RData::DNSSEC(DNSSECRData::DS(ds))
    }

    fn sign(&self, origin: &Name, zone: &mut InMemoryZoneHandler<TokioRuntimeProvider>) {
        let signer = DnssecSigner::new(
            DNSKEY::from_key(&self.public()),
            Box::new(self.signing()),
            origin.clone(),
            SIGNED_FOR,
        );
        zone.add_zone_signing_key_mut(signer)
            .expect("the key fits the zone");
        zone.secure_zone_mut().expect("the zone can be signed");
    }
}

pub(super) struct Keys {
    pub(super) root: Key,
    secure: Key,
    bogus: Key,
    /// Signs nothing, and is the one that the root names for the bogus zone.
    wrong: Key,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self {
            root: Key::new(),
            secure: Key::new(),
            bogus: Key::new(),
            wrong: Key::new(),
        }
    }

    pub(super) fn catalogs(&self, records: &[Record]) -> Catalogs {
        let (secure, insecure, bogus) = (name(SECURE), name(INSECURE), name(BOGUS));
        let mut delegations: Vec<Record> = [&secure, &insecure, &bogus]
            .map(|zone| Record::from_rdata(zone.clone(), TTL, RData::NS(NS(name("ns")))))
            .into();
        for (zone, key) in [(&secure, &self.secure), (&bogus, &self.wrong)] {
            delegations.push(Record::from_rdata(zone.clone(), TTL, key.ds(zone)));
        }
        let within = |zone: &Name| -> Vec<Record> {
            let records = records.iter().filter(|record| zone.zone_of(&record.name));
            records.cloned().collect()
        };
        let root = zone(&Name::root(), delegations, Some(&self.root));
        let mut all = Catalog::new();
        let mut only = Catalog::new();
        for catalog in [&mut all, &mut only] {
            catalog.upsert(LowerName::new(&Name::root()), vec![Arc::clone(&root)]);
        }
        for (origin, key) in [
            (&secure, Some(&self.secure)),
            (&insecure, None),
            (&bogus, Some(&self.bogus)),
        ] {
            let zone = zone(origin, within(origin), key);
            all.upsert(LowerName::new(origin), vec![zone]);
        }
        Catalogs { all, root: only }
    }
}

fn zone(origin: &Name, records: Vec<Record>, key: Option<&Key>) -> Arc<dyn ZoneHandler> {
    let proofs = key.is_some().then(|| {
        if origin.is_root() {
            return NxProofKind::Nsec;
        }
        // As RFC 9276 section 3.1 has it.
        NxProofKind::Nsec3 {
            algorithm: Nsec3HashAlgorithm::default(),
            salt: Arc::new([]),
            iterations: 0,
            opt_out: false,
        }
    });
    let mut zone = InMemoryZoneHandler::<TokioRuntimeProvider>::empty(
        origin.clone(),
        ZoneType::Primary,
        AxfrPolicy::Deny,
        proofs,
    );
    let timers = i32::try_from(TTL).unwrap_or(i32::MAX);
    let (host, mail) = (name("ns"), name("hostmaster"));
    let soa = SOA::new(host.clone(), mail, 1, timers, timers, timers, TTL);
    let apex = [RData::SOA(soa), RData::NS(NS(host))]
        .map(|data| Record::from_rdata(origin.clone(), TTL, data));
    for record in apex.into_iter().chain(records) {
        zone.upsert_mut(record, 1);
    }
    if let Some(key) = key {
        key.sign(origin, &mut zone);
    }
    Arc::new(zone)
}
