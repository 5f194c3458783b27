//! DANE for SMTP (RFC 7672): what DNSSEC says of a host, and what follows for its certificate.
//!
//! | DNSSEC | what follows |
//! |---|---|
//! | the MX records, or the host's addresses, are not secure | no DANE |
//! | the domain, or the host, is provably something else than the plain DNS says | the host is not used now |
//! | TLSA records: provably none, or not secure | no DANE |
//! | TLSA records, some of them usable | they are in force |
//! | TLSA records, none of them usable | TLS, any certificate (RFC 7672 section 2.2) |
//! | anything fails: bogus, SERVFAIL, a timeout | the host is not used now |
//!
//! A host that a route itself names may be one that only this machine knows: `localhost` has no
//! DANE, and one of which the DNS provably knows no address, such as one of a hosts file, is asked
//! for TLSA records all the same. Nor have names that are never in the public DNS, such as
//! `relay.internal`: the root proves that there is no such thing, whatever a name server of the
//! site answers.

use std::fmt::Write as _;
use std::net::IpAddr;

use postroad_mail::{Domain, EnhancedCode, Reply, Tlsa};

use crate::dns::{SecureDns, SecureError, Secured, TlsaAnswer};
use crate::plan::Host;
use crate::route::BoxFuture;
use crate::security::{HostSecurity, PolicyKind, Requirement};

/// TLSA records of a host that are looked at, at most.
pub const TLSA_MAX: usize = 64;

/// A host whose security cannot be told now: why stands in the place of the text.
const UNPROVEN: Reply = Reply::row(
    451,
    EnhancedCode::transient(7, 5),
    "DANE cannot be checked now",
);

/// A validated look-up under way.
pub type SecureFuture<'a, T> = BoxFuture<'a, Result<Secured<T>, SecureError>>;

/// Validated look-ups, as DANE needs them: [`SecureDns`], or what a test has in its place.
pub trait SecureLookup: Send + Sync + 'static {
    /// The MX records of a domain: preference and name.
    fn mx<'a>(&'a self, domain: &'a Domain) -> SecureFuture<'a, Vec<(u16, String)>>;

    /// The addresses of a host.
    fn addresses<'a>(&'a self, host: &'a str) -> SecureFuture<'a, Vec<IpAddr>>;

    /// The TLSA records at a name.
    fn tlsa<'a>(&'a self, name: &'a str) -> BoxFuture<'a, TlsaAnswer>;
}

impl SecureLookup for SecureDns {
    fn mx<'a>(&'a self, domain: &'a Domain) -> SecureFuture<'a, Vec<(u16, String)>> {
        Box::pin(self.mx_secure(domain))
    }

    fn addresses<'a>(&'a self, host: &'a str) -> SecureFuture<'a, Vec<IpAddr>> {
        Box::pin(self.addresses_secure(host))
    }

    fn tlsa<'a>(&'a self, name: &'a str) -> BoxFuture<'a, TlsaAnswer> {
        Box::pin(Self::tlsa(self, name))
    }
}

/// What DANE says of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dane {
    /// Nothing: something else may be asked. Why.
    Absent(String),
    /// This.
    Says(HostSecurity),
}

/// Whether the hosts of a domain may have DANE at all, and under which other names.
enum Domains {
    Insecure(String),
    /// Names of the next-hop domain, for DANE-TA (RFC 7672 section 3.2.2).
    Secure(Vec<String>),
}

/// Asks for a host. `domain`: whose MX records named it.
pub(crate) async fn dane(
    dns: &dyn SecureLookup,
    domain: Option<&Domain>,
    host: &Host,
    port: u16,
) -> Dane {
    match asked(dns, domain, host, port).await {
        Ok(dane) => dane,
        Err(detail) => unusable(&detail),
    }
}

/// A failure, or a contradiction, is an error.
async fn asked(
    dns: &dyn SecureLookup,
    domain: Option<&Domain>,
    host: &Host,
    port: u16,
) -> Result<Dane, String> {
    if host.name.is_literal() {
        return Ok(Dane::Absent("DANE: an address has no names".to_owned()));
    }
    let name = host.name.ascii();
    if domain.is_none() && is_localhost(name) {
        return Ok(Dane::Absent(format!("DANE: {name} is this machine")));
    }
    if is_private(name) {
        return Ok(Dane::Absent(format!(
            "DANE: {name} is a private name, for which DNSSEC cannot vouch"
        )));
    }
    let others = match domain {
        // The name that the route has, where it is an alias (RFC 7672 section 3.2.2).
        None => vec![name.to_owned()],
        Some(domain) => match domain_names(dns, domain, name).await? {
            Domains::Insecure(why) => return Ok(Dane::Absent(why)),
            Domains::Secure(names) => names,
        },
    };
    let bases = match dns.addresses(name).await {
        Ok(found) => bases(name, &found),
        Err(SecureError::Nothing { secure: false }) => Vec::new(),
        // Whoever wrote the route may have named a host that is in no DNS.
        Err(SecureError::Nothing { secure: true }) if domain.is_none() => vec![name.to_owned()],
        Err(SecureError::Nothing { secure: true }) => {
            return Err(format!("{name} provably has no address"));
        }
        Err(error) => return Err(format!("the addresses of {name}: {error}")),
    };
    if bases.is_empty() {
        return Ok(Dane::Absent(format!(
            "DANE: the addresses of {name} are not signed"
        )));
    }
    for base in bases {
        let at = format!("_{port}._tcp.{base}");
        match dns.tlsa(&at).await {
            TlsaAnswer::Secure(records) => {
                return Ok(Dane::Says(says(&at, &records, base, others)));
            }
            TlsaAnswer::None { .. } => {}
            TlsaAnswer::Failed(detail) => return Err(format!("TLSA records at {at}: {detail}")),
        }
    }
    Ok(Dane::Absent(format!("DANE: {name} has no TLSA records")))
}

/// Names that no DNS is asked for (RFC 6761 section 6.3), so that none could vouch for them.
fn is_localhost(name: &str) -> bool {
    name.rsplit('.')
        .next()
        .is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

/// Names that the public DNS does not hold: reserved (RFC 6762, RFC 8375, `internal` by ICANN), or
/// put off for good since sites use them (`home`, `corp`, `mail`, and RFC 6762 appendix G).
fn is_private(name: &str) -> bool {
    const PRIVATE: [&str; 9] = [
        "internal",
        "local",
        "localdomain",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "mail",
    ];
    let name = name.to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    PRIVATE.contains(&last) || name.ends_with(".home.arpa")
}

/// The domain's names, where its MX records (or that there are none) are secure, and name the
/// host.
async fn domain_names(
    dns: &dyn SecureLookup,
    domain: &Domain,
    host: &str,
) -> Result<Domains, String> {
    let name = domain.ascii();
    let insecure = || Domains::Insecure(format!("DANE: the MX records of {name} are not signed"));
    match dns.mx(domain).await {
        Ok(found) if !found.secure => Ok(insecure()),
        Ok(found) => {
            let named = |mx: &(u16, String)| mx.1.trim_end_matches('.').eq_ignore_ascii_case(host);
            if !found.value.iter().any(named) {
                // Whoever forges the plain answer would lead around DANE.
                return Err(format!(
                    "{host} is not among the secure MX records of {name}"
                ));
            }
            let mut names = vec![name.to_owned()];
            if found.name != name {
                names.push(found.name);
            }
            Ok(Domains::Secure(names))
        }
        // No MX: the domain is its own host.
        Err(SecureError::Nothing { secure: true }) if host == name => {
            Ok(Domains::Secure(vec![name.to_owned()]))
        }
        Err(SecureError::Nothing { secure: true }) => Err(format!(
            "{name} provably has no MX records, and {host} was named by some"
        )),
        Err(SecureError::Nothing { secure: false }) => Ok(insecure()),
        Err(error) => Err(format!("the MX records of {name}: {error}")),
    }
}

/// The candidates for the TLSA base domain (RFC 7672 section 2.2.3): the name behind all aliases,
/// where all of them are secure; then the host's own.
fn bases(name: &str, found: &Secured<Vec<IpAddr>>) -> Vec<String> {
    let is_alias = !found.name.is_empty() && found.name != name;
    let mut bases = Vec::new();
    if found.secure && is_alias {
        bases.push(found.name.clone());
    }
    // An alias that is secure is a place for records, also where it leads somewhere that is not.
    if found.secure || (is_alias && found.origin_secure) {
        bases.push(name.to_owned());
    }
    bases
}

fn says(at: &str, records: &[Tlsa], base: String, others: Vec<String>) -> HostSecurity {
    let usable = usable(records);
    let mut names = vec![base];
    for other in others {
        if !names.contains(&other) {
            names.push(other);
        }
    }
    let reason = format!(
        "DANE: {} TLSA records at {at}, {} of them usable",
        records.len(),
        usable.len()
    );
    HostSecurity {
        policy: PolicyKind::Tlsa,
        policy_strings: records.iter().take(TLSA_MAX).map(presented).collect(),
        reasons: vec![reason],
        requirement: if usable.is_empty() {
            Requirement::Encrypted
        } else {
            Requirement::Dane {
                records: usable.into(),
                names,
            }
        },
        ..HostSecurity::none()
    }
}

/// The records that mean something for SMTP: DANE-TA and DANE-EE (RFC 7672 section 3.1), of
/// selectors and digests that are known; and of several digests of one kind only the strongest
/// (RFC 7671 section 9).
fn usable(records: &[Tlsa]) -> Vec<Tlsa> {
    let known = |record: &&Tlsa| {
        let length = match record.matching {
            0 => !record.data.is_empty(),
            1 => record.data.len() == 32,
            2 => record.data.len() == 64,
            _ => false,
        };
        matches!(record.usage, 2 | 3) && record.selector <= 1 && length
    };
    let known: Vec<_> = records.iter().take(TLSA_MAX).filter(known).collect();
    let outdone = |record: &Tlsa| {
        record.matching == 1
            && known.iter().any(|other| {
                (other.usage, other.selector, other.matching) == (record.usage, record.selector, 2)
            })
    };
    let strongest = known.iter().filter(|record| !outdone(record));
    strongest.map(|&record| record.clone()).collect()
}

/// As zone files have it: `3 1 1 0b9f…`.
fn presented(record: &Tlsa) -> String {
    let mut text = format!("{} {} {} ", record.usage, record.selector, record.matching);
    for octet in &record.data {
        let _ = write!(text, "{octet:02x}");
    }
    text
}

fn unusable(detail: &str) -> Dane {
    let text = format!("DANE cannot be checked now: {detail}");
    Dane::Says(HostSecurity {
        requirement: Requirement::Unusable(UNPROVEN.with_text(text)),
        policy: PolicyKind::Tlsa,
        reasons: vec![format!("DANE: {detail}")],
        policy_failure: Some("dnssec-invalid".to_owned()),
        ..HostSecurity::none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(usage: u8, selector: u8, matching: u8, length: usize) -> Tlsa {
        Tlsa {
            usage,
            selector,
            matching,
            data: vec![0xab; length],
        }
    }

    #[test]
    fn which_records_are_usable() {
        for (given, left) in [
            (vec![(3, 1, 1, 32)], "311"),
            (vec![(2, 0, 1, 32), (3, 0, 2, 64)], "201 302"),
            (vec![(2, 0, 0, 700)], "200"),
            // PKIX-TA and PKIX-EE, and what nobody has defined.
            (vec![(0, 0, 1, 32), (1, 1, 1, 32), (4, 1, 1, 32)], ""),
            (vec![(3, 2, 1, 32), (3, 1, 3, 32)], ""),
            // Digests of another length than they can have.
            (vec![(3, 1, 1, 31), (3, 1, 2, 32), (3, 1, 0, 0)], ""),
            // The stronger digest counts, of the same usage and selector.
            (vec![(3, 1, 1, 32), (3, 1, 2, 64), (2, 1, 1, 32)], "312 211"),
            (vec![(3, 1, 1, 32), (3, 1, 2, 63)], "311"),
            (vec![(3, 1, 0, 90), (3, 1, 2, 64)], "310 312"),
        ] {
            let records: Vec<_> = given
                .iter()
                .map(|&(u, s, m, length)| record(u, s, m, length))
                .collect();
            let shown: Vec<_> = usable(&records)
                .iter()
                .map(|r| format!("{}{}{}", r.usage, r.selector, r.matching))
                .collect();
            assert_eq!(shown.join(" "), left, "{given:?}");
        }
        let many = vec![record(3, 1, 1, 32); TLSA_MAX + 5];
        assert_eq!(usable(&many).len(), TLSA_MAX);
    }

    #[test]
    fn base_domains() {
        let found = |secure, name: &str, origin_secure| Secured {
            value: Vec::new(),
            secure,
            name: name.to_owned(),
            origin_secure,
            ttl: std::time::Duration::ZERO,
        };
        for (found, shown) in [
            (found(true, "mx.test", true), "mx.test"),
            (found(true, "real.test", true), "real.test mx.test"),
            (found(false, "real.test", true), "mx.test"),
            (found(false, "real.test", false), ""),
            (found(false, "mx.test", true), ""),
            (found(false, "mx.test", false), ""),
        ] {
            assert_eq!(bases("mx.test", &found).join(" "), shown, "{found:?}");
        }
    }

    #[test]
    fn presentation() {
        let shown = presented(&Tlsa {
            usage: 3,
            selector: 1,
            matching: 1,
            data: vec![0, 0x1f, 0xff],
        });
        assert_eq!(shown, "3 1 1 001fff");
    }
}
