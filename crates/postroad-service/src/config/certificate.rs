//! What is wrong with a certificate that can be read: its dates, and its names.

use std::fs;

use postroad_mail::{Domain, Timestamp};
use tracing::{error, warn};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use super::{Findings, Loaded};

/// Whoever renews certificates in time does it long before that.
const SOON_DAYS: i64 = 14;
const DAY: i64 = 24 * 60 * 60;

/// Looks at the certificate of the listeners. One that cannot be read is found where it is loaded.
pub(super) fn look(loaded: &Loaded, hostname: Option<&Domain>, now: Timestamp) -> Findings {
    let mut findings = Findings::default();
    let Some(tls) = &loaded.config.tls else {
        return findings;
    };
    let file = fs::read(&tls.certificate).unwrap_or_default();
    let blocks = Pem::iter_from_buffer(&file).filter_map(Result::ok);
    let chain = blocks.filter(|block| block.label == "CERTIFICATE");
    let problem = |message: String| loaded.problem("tls.certificate", 0, message);
    let seconds = i64::try_from(now.as_millis() / 1000).unwrap_or(i64::MAX);
    for (nth, block) in chain.enumerate() {
        let Ok(certificate) = block.parse_x509() else {
            continue;
        };
        let which = match nth {
            0 => "the certificate".to_owned(),
            _ => format!("`{}`, which leads to its authority,", certificate.subject()),
        };
        match dates(&certificate, seconds) {
            Dates::Good => {}
            Dates::Wrong(what) => findings.error(&problem(format!("{which} {what}"))),
            Dates::Soon(what) => findings.warning(&problem(format!("{which} {what}"))),
        }
        if let Some(name) = hostname
            && nth == 0
            && !covers(&certificate, name)
        {
            let message = format!(
                "the certificate is not for `{}`, the hostname: clients that check it will not send",
                name.ascii()
            );
            findings.warning(&problem(message));
        }
    }
    findings
}

/// At a start, and with each new configuration: mail still flows between servers that do not look
/// at dates, so that it is no reason to stop.
pub(crate) fn report(loaded: &Loaded, hostname: &Domain, now: Timestamp) {
    let Findings { errors, warnings } = look(loaded, Some(hostname), now);
    for mistake in errors {
        error!(mistake, "clients will refuse the certificate");
    }
    for mistake in warnings {
        warn!(mistake, "the certificate needs a look");
    }
}

enum Dates {
    Good,
    Wrong(String),
    Soon(String),
}

fn dates(certificate: &X509Certificate<'_>, now: i64) -> Dates {
    let validity = certificate.validity();
    let shown = |time: x509_parser::time::ASN1Time| time.to_rfc2822().unwrap_or_else(|text| text);
    let left = validity.not_after.timestamp().saturating_sub(now);
    if validity.not_before.timestamp() > now {
        Dates::Wrong(format!(
            "is not valid before {}",
            shown(validity.not_before)
        ))
    } else if left < 0 {
        Dates::Wrong(format!("expired on {}", shown(validity.not_after)))
    } else if left < SOON_DAYS * DAY {
        Dates::Soon(format!("expires on {}", shown(validity.not_after)))
    } else {
        Dates::Good
    }
}

/// By its alternative names alone, as clients have it (RFC 9525 section 6.3): `*` is one label.
fn covers(certificate: &X509Certificate<'_>, host: &Domain) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let parent = host.ascii().split_once('.').map(|(_, parent)| parent);
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) => match name.strip_prefix("*.") {
            Some(below) => parent.is_some_and(|parent| parent.eq_ignore_ascii_case(below)),
            None => name.eq_ignore_ascii_case(host.ascii()),
        },
        GeneralName::IPAddress(octets) => host.ip().is_some_and(|ip| match ip {
            std::net::IpAddr::V4(ip) => ip.octets() == *octets,
            std::net::IpAddr::V6(ip) => ip.octets() == *octets,
        }),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    /// From 2025-01-01 to 2025-04-01.
    fn certificate(name: &str) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2025, 4, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn at(unix: u64) -> Timestamp {
        Timestamp::from_millis(unix * 1000)
    }

    #[test]
    fn dates_and_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        fs::write(
            &path,
            "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n",
        )
        .unwrap();
        let loaded = super::super::load(&path).unwrap();
        let host: Domain = "mx.a.test".parse().unwrap();
        let looked = |text: &str, now: u64| {
            fs::write(directory.path().join("cert.pem"), text).unwrap();
            let Findings { errors, warnings } = look(&loaded, Some(&host), at(now));
            (errors.join("\n"), warnings.join("\n"))
        };
        // Noon of 1 December 2024, 1 February, 25 March and 2 April 2025.
        let (before, within, late, after) =
            (1_733_054_400, 1_738_411_200, 1_742_904_000, 1_743_595_200);
        let good = certificate("mx.a.test");
        let none = String::new;
        for name in ["mx.a.test", "MX.a.test", "*.a.test"] {
            assert_eq!(looked(&certificate(name), within), (none(), none()));
        }
        for (now, said) in [
            (before, "not valid before Wed, 01 Jan 2025"),
            (after, "expired on Tue, 01 Apr 2025"),
        ] {
            let (errors, warnings) = looked(&good, now);
            assert!(
                errors.contains("c.toml:2: tls.certificate: the certificate ")
                    && errors.contains(said),
                "{errors}"
            );
            assert_eq!(warnings, "");
        }
        let (errors, warnings) = looked(&good, late);
        assert_eq!(errors, "");
        assert!(
            warnings.contains("expires on Tue, 01 Apr 2025"),
            "{warnings}"
        );
        for name in ["other.test", "a.test", "*.test", "*.mx.a.test"] {
            let (errors, warnings) = looked(&certificate(name), within);
            assert_eq!(errors, "");
            assert!(warnings.contains("is not for `mx.a.test`"), "{warnings}");
        }
        // One of the chain counts as well, by its dates.
        let (errors, _) = looked(&format!("{good}{}", certificate("root.test")), after);
        assert_eq!(errors.matches("expired on").count(), 2, "{errors}");
        assert_eq!(looked("", within), (none(), none()));
    }
}
