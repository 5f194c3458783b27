//! What DNSSEC vouches for, as DANE needs it (RFC 7672 sections 2.1 and 2.2).
//!
//! | the answer | what follows |
//! |---|---|
//! | signed from the root on | secure |
//! | of a zone that is provably not signed | not secure |
//! | signed wrongly, or not at all where it must be | a failure |
//! | SERVFAIL, a timeout, keys that cannot be had | a failure |
//!
//! A failure is never taken for "not secure", or whoever can drop packets could switch DANE off.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use postroad_mail::{Domain, Tlsa};

use super::client::{Client, Found, Nothing, text};
use super::{DnsError, DnsOptions};
use crate::mx::{AddressFamily, interleave};

/// The keys that validation begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustAnchor {
    /// The keys of the root, as built in.
    #[default]
    Root,
    /// A file of DNSKEY records, as zone files have them.
    File(PathBuf),
    /// Such records themselves.
    Text(String),
}

/// A validating resolver, with a cache of its own. It is asked besides [`DnsResolver`], which does
/// not validate: mail to a domain whose DNSSEC is broken still goes out, where no policy forbids.
///
/// [`DnsResolver`]: crate::DnsResolver
#[derive(Clone, Debug)]
pub struct SecureDns {
    client: Client,
    family: AddressFamily,
}

/// Something that was found, and whether it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured<T> {
    /// What was found.
    pub value: T,
    /// Whether DNSSEC vouches for it: for the records and for every alias on the way to them.
    pub secure: bool,
    /// The name behind all aliases, in lower case and without the final dot: where `secure`, the
    /// first candidate for the TLSA base domain; the name that was asked for is the second
    /// (RFC 7672 section 2.2.3).
    pub name: String,
    /// Whether DNSSEC vouches for what the name itself has: the first alias, or the records where
    /// there is none. True while `secure` is false: only the name that was asked for can be a TLSA
    /// base domain.
    pub origin_secure: bool,
    /// How long it may be kept.
    pub ttl: Duration,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecureError {
    /// There are no such records, or no such name.
    #[error("there is nothing")]
    Nothing {
        /// Whether DNSSEC vouches for that.
        secure: bool,
    },
    /// It cannot be known now: bogus, SERVFAIL, a timeout. The mail must wait.
    #[error("{0}")]
    Failed(String),
}

/// What TLSA records there are (RFC 7672 section 2.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsaAnswer {
    /// These, and DNSSEC vouches for them. At least one; they may all be unusable.
    Secure(Vec<Tlsa>),
    /// None that count: no DANE for this host.
    None {
        /// Whether DNSSEC vouches for that. False also where there are some in a zone that is not
        /// signed.
        secure: bool,
    },
    /// It cannot be known now: bogus, SERVFAIL, a timeout. This host must not be used now.
    Failed(String),
}

impl SecureDns {
    /// A validating resolver. Must be called within a tokio runtime. Reads the file of the trust
    /// anchor.
    ///
    /// # Errors
    /// Where the system's configuration cannot be read, or the trust anchor has no key.
    pub fn new(options: &DnsOptions, anchor: &TrustAnchor) -> Result<Self, DnsError> {
        let anchors = match anchor {
            TrustAnchor::Root => TrustAnchors::default(),
            TrustAnchor::File(path) => TrustAnchors::from_file(path)
                .map_err(|e| DnsError(format!("the trust anchor {}: {e}", path.display())))?,
            TrustAnchor::Text(text) => TrustAnchors::from_str(text)
                .map_err(|e| DnsError(format!("the trust anchor: {e}")))?,
        };
        if anchors.is_empty() {
            return Err(DnsError(
                "the trust anchor has no key of the root".to_owned(),
            ));
        }
        Ok(Self {
            client: Client::new(options, Some(Arc::new(anchors)))?,
            family: options.family,
        })
    }

    /// Whether validation works at all: the root must be secure. It does not behind name servers
    /// that leave the signatures out, and then every domain fails.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn self_check(&self) -> Result<(), SecureError> {
        let found = self.found(".", RecordType::SOA).await?;
        if found.proof == Proof::Secure {
            Ok(())
        } else {
            Err(SecureError::Failed(
                "the root is not secure: the name servers leave signatures out".to_owned(),
            ))
        }
    }

    /// The MX records of a domain with their preferences, in no order. The root stands as the empty
    /// name.
    ///
    /// # Errors
    /// Where there are none, or it cannot be known.
    pub async fn mx_secure(
        &self,
        domain: &Domain,
    ) -> Result<Secured<Vec<(u16, String)>>, SecureError> {
        let found = self.found(domain.ascii(), RecordType::MX).await?;
        Ok(secured(found, |data| {
            data.into_iter()
                .filter_map(|data| match data {
                    RData::MX(mx) => Some((mx.preference, text(&mx.exchange).to_ascii_lowercase())),
                    _ => None,
                })
                .collect()
        }))
    }

    /// The addresses of a host, of the families that are called. Where one family cannot be looked
    /// up, the other's count.
    ///
    /// # Errors
    /// Where there are none, or it cannot be known.
    pub async fn addresses_secure(&self, name: &str) -> Result<Secured<Vec<IpAddr>>, SecureError> {
        let of = async |family: AddressFamily, kind: RecordType| {
            if self.family == AddressFamily::Any || self.family == family {
                Some(self.found(name, kind).await)
            } else {
                None
            }
        };
        let (v4, v6) = futures_util::join!(
            of(AddressFamily::Ipv4, RecordType::A),
            of(AddressFamily::Ipv6, RecordType::AAAA)
        );
        let mut both: Option<Secured<Vec<IpAddr>>> = None;
        let mut none = SecureError::Nothing { secure: true };
        for answer in [v4, v6].into_iter().flatten() {
            match (answer, &mut none) {
                (Ok(found), _) => {
                    let found = secured(found, |data| {
                        data.iter().filter_map(RData::ip_addr).collect::<Vec<_>>()
                    });
                    both = Some(match both {
                        Some(other) => merged(other, found),
                        None => found,
                    });
                }
                (Err(failed @ SecureError::Failed(_)), _) => none = failed,
                (Err(SecureError::Nothing { secure }), SecureError::Nothing { secure: all }) => {
                    *all &= secure;
                }
                (Err(SecureError::Nothing { .. }), SecureError::Failed(_)) => {}
            }
        }
        let mut found = both.ok_or(none)?;
        found.value = interleave(found.value, self.family);
        Ok(found)
    }

    /// The TLSA records at a name such as `_25._tcp.mail.example.org`.
    pub async fn tlsa(&self, name: &str) -> TlsaAnswer {
        if Name::from_ascii(name).is_err() {
            // It is longer than names can be: nobody can have put records there.
            return TlsaAnswer::None { secure: false };
        }
        match self.found(name, RecordType::TLSA).await {
            Ok(found) if found.proof == Proof::Secure => {
                let records = found.data.into_iter().filter_map(|data| match data {
                    RData::TLSA(tlsa) => Some(Tlsa {
                        usage: tlsa.cert_usage.into(),
                        selector: tlsa.selector.into(),
                        matching: tlsa.matching.into(),
                        data: tlsa.cert_data,
                    }),
                    _ => None,
                });
                TlsaAnswer::Secure(records.collect())
            }
            Ok(_) => TlsaAnswer::None { secure: false },
            Err(SecureError::Nothing { secure }) => TlsaAnswer::None { secure },
            Err(SecureError::Failed(detail)) => TlsaAnswer::Failed(detail),
        }
    }

    /// Only what is secure, or provably not signed.
    async fn found(&self, name: &str, kind: RecordType) -> Result<Found, SecureError> {
        match self.client.lookup(name, kind).await {
            Ok(found) => match found.proof {
                Proof::Secure | Proof::Insecure => Ok(found),
                proof => Err(unproven(name, kind, proof)),
            },
            Err(Nothing::NoName(proof) | Nothing::NoData(proof)) => match proof {
                Proof::Secure | Proof::Insecure => Err(SecureError::Nothing {
                    secure: proof == Proof::Secure,
                }),
                proof => Err(unproven(name, kind, proof)),
            },
            Err(Nothing::Failure(detail)) => Err(SecureError::Failed(detail)),
        }
    }
}

fn unproven(name: &str, kind: RecordType, proof: Proof) -> SecureError {
    SecureError::Failed(format!("{kind} of {name}: DNSSEC says {proof}"))
}

fn secured<T>(found: Found, value: impl FnOnce(Vec<RData>) -> T) -> Secured<T> {
    Secured {
        value: value(found.data),
        secure: found.proof == Proof::Secure,
        name: found.name.to_ascii_lowercase(),
        origin_secure: found.first == Proof::Secure,
        ttl: found.ttl,
    }
}

/// Both families of a host. Whoever is not secure spoils the other (RFC 7672 section 2.2.2).
fn merged(mut one: Secured<Vec<IpAddr>>, other: Secured<Vec<IpAddr>>) -> Secured<Vec<IpAddr>> {
    one.value.extend(other.value);
    one.secure &= other.secure && one.name == other.name;
    one.origin_secure &= other.origin_secure;
    one.ttl = one.ttl.min(other.ttl);
    one
}
