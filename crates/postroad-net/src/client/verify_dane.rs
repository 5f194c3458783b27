//! Certificates against TLSA records (RFC 7671 section 5, RFC 7672 section 3).
//!
//! | record | matches where |
//! |---|---|
//! | `3 s m` (DANE-EE) | it is the server's own certificate, or key: names and dates do not count |
//! | `2 s m` (DANE-TA) | it is a certificate, or key, of the chain, or one that the record holds in full; the chain leads to it, is in date, and the server's certificate is for one of the names |

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use postroad_mail::Tlsa;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{Error, RootCertStore};
use rustls_pki_types::{CertificateDer, Der, ServerName, TrustAnchor, UnixTime};
use x509_parser::parse_x509_certificate;

use super::verify::{TlsFault, fault};

/// What the server has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain<'a> {
    /// Its own certificate.
    pub(crate) end_entity: &'a CertificateDer<'a>,
    /// The others.
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    /// When.
    pub(crate) now: UnixTime,
}

/// Whether one of the records matches.
pub(crate) fn check(
    records: &[Tlsa],
    names: &[String],
    chain: &Chain<'_>,
    provider: &CryptoProvider,
) -> Result<(), (TlsFault, Error)> {
    if records
        .iter()
        .any(|record| record.usage == 3 && matches(record, chain.end_entity))
    {
        return Ok(());
    }
    // Of several records whose anchor is there, what the first finds wrong is told.
    let mut wrong = None;
    for record in records.iter().filter(|record| record.usage == 2) {
        let roots = anchors(record, chain);
        if roots.is_empty() {
            continue;
        }
        match by_anchor(&roots, names, chain, provider) {
            Ok(()) => return Ok(()),
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    Err(match wrong {
        Some(error) => (fault(&error), error),
        None => {
            let count = records.len();
            let text = format!("none of {count} TLSA records matches the certificate");
            (TlsFault::Tlsa, Error::General(text))
        }
    })
}

/// Whether a record is about this certificate (RFC 6698 section 2.1).
fn matches(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let key;
    let selected: &[u8] = match record.selector {
        0 => certificate,
        1 => {
            let Some(found) = public_key(certificate) else {
                return false;
            };
            key = found;
            &key
        }
        _ => return false,
    };
    match record.matching {
        0 => selected == record.data.as_slice(),
        1 => digest(&SHA256, selected).as_ref() == record.data.as_slice(),
        2 => digest(&SHA512, selected).as_ref() == record.data.as_slice(),
        _ => false,
    }
}

/// The SubjectPublicKeyInfo.
fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// What a DANE-TA record makes an anchor: certificates of the chain, but never the server's own;
/// the certificate that it holds; or, where it holds a key, the issuer with that key, which need
/// not be in the chain (RFC 7671 section 5.2).
fn anchors(record: &Tlsa, chain: &Chain<'_>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in chain.intermediates {
        if matches(record, certificate) {
            // One that cannot be an anchor is none.
            let _ = roots.add(certificate.clone().into_owned());
        }
    }
    if roots.is_empty() && record.matching == 0 {
        match record.selector {
            0 => {
                let _ = roots.add(CertificateDer::from(record.data.clone()));
            }
            1 => roots.roots.extend(bare_key(&record.data, chain)),
            _ => {}
        }
    }
    roots
}

/// Anchors with that key, and the name of each issuer in the chain.
fn bare_key<'a>(key: &'a [u8], chain: &'a Chain<'_>) -> Vec<TrustAnchor<'static>> {
    let Some(key) = content(key) else {
        return Vec::new();
    };
    let all = std::iter::once(chain.end_entity).chain(chain.intermediates);
    all.filter_map(|certificate| {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        let issuer = content(parsed.issuer().as_raw())?;
        Some(TrustAnchor {
            subject: Der::from(issuer.to_vec()),
            subject_public_key_info: Der::from(key.to_vec()),
            name_constraints: None,
        })
    })
    .collect()
}

/// What a SEQUENCE in DER holds, where it is all of `der`.
fn content(der: &[u8]) -> Option<&[u8]> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x83 => {
            let (octets, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = behind;
            let longer = |length: usize, &octet: &u8| (length << 8) | usize::from(octet);
            octets.iter().fold(0, longer)
        }
        _ => return None,
    };
    (tag == 0x30 && rest.len() == length).then_some(rest)
}

fn by_anchor(
    roots: &RootCertStore,
    names: &[String],
    chain: &Chain<'_>,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let certificate = ParsedCertificate::try_from(chain.end_entity)?;
    verify_server_cert_signed_by_trust_anchor(
        &certificate,
        roots,
        chain.intermediates,
        chain.now,
        provider.signature_verification_algorithms.all,
    )?;
    let mut wrong = None;
    for name in names {
        let Ok(name) = ServerName::try_from(name.as_str()) else {
            continue;
        };
        match verify_server_name(&certificate, &name) {
            Ok(()) => return Ok(()),
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    Err(wrong
        .unwrap_or_else(|| Error::General("no name to look for in the certificate".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        assert_eq!(content(&[0x30, 2, 5, 0]), Some(&[5, 0][..]));
        let mut long = vec![0x30, 0x82, 1, 0];
        long.extend([7; 256]);
        assert_eq!(content(&long).map(<[u8]>::len), Some(256));
        for bad in [
            &[][..],
            &[0x30],
            &[0x31, 0],
            &[0x30, 1],
            &[0x30, 0, 0],
            &[0x30, 0x80],
            &[0x30, 0x84, 0, 0, 0, 0],
            &[0x30, 0x83, 0xff],
        ] {
            assert_eq!(content(bad), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets(data in proptest::collection::vec(proptest::num::u8::ANY, 0..200), selector in 0u8..3, matching in 0u8..4) {
            let certificate = CertificateDer::from(data.clone());
            let chain = Chain {
                end_entity: &certificate,
                intermediates: std::slice::from_ref(&certificate),
                now: UnixTime::since_unix_epoch(std::time::Duration::from_secs(1)),
            };
            let records = [2, 3].map(|usage| Tlsa { usage, selector, matching, data: data.clone() });
            let provider = crate::tls::provider();
            let result = check(&records, &["a.test".to_owned()], &chain, &provider);
            // Only octets that are the certificate itself match.
            proptest::prop_assert_eq!(result.is_ok(), selector == 0 && matching == 0);
        }
    }
}
