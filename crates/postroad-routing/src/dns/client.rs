//! One look-up: the records of a type that a name has, and how much the answer is worth.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::{Time as _, TokioTime};
use hickory_resolver::net::{DnsError as HickoryError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use postroad_mail::escape_peer_text;
use rustls::{ClientConfig, RootCertStore};

use super::guard::Guard;
use super::server::NameServer;
use super::{DnsError, DnsOptions};

/// How long it is remembered at most that there is nothing (RFC 2308 section 5 recommends up to
/// three hours).
const NEGATIVE_TTL_MAX: Duration = Duration::from_hours(3);
/// Questions at the same time over one connection; more wait for a moment.
const QUESTIONS_MAX: usize = 1024;
/// Aliases of aliases that are followed.
const ALIASES_MAX: usize = 8;

/// Asks name servers, with a cache.
#[derive(Clone, Debug)]
pub(super) struct Client {
    resolver: Resolver<Guard>,
    /// How long a look-up may take.
    patience: Duration,
}

/// What a name has.
#[derive(Debug)]
pub(super) struct Found {
    /// The records' data, at least one.
    pub(super) data: Vec<RData>,
    /// Whose they are: behind all aliases, without the final dot.
    pub(super) name: String,
    /// Whether there was an alias.
    pub(super) aliased: bool,
    /// How long all that may be kept.
    pub(super) ttl: Duration,
    /// How far DNSSEC vouches for the weakest part: an alias or the records.
    pub(super) proof: Proof,
    /// The same of what the name itself has: the first alias, or the records.
    pub(super) first: Proof,
}

/// Why there are no records.
#[derive(Clone, Debug)]
pub(super) enum Nothing {
    /// The name does not exist.
    NoName(Proof),
    /// It exists, and has no such records.
    NoData(Proof),
    /// It is not known now, for a reason that is fit for a log.
    Failure(String),
}

impl Client {
    /// With trust anchors it validates.
    pub(super) fn new(
        options: &DnsOptions,
        anchors: Option<Arc<TrustAnchors>>,
    ) -> Result<Self, DnsError> {
        let (config, mut resolver_options) = if options.nameservers.is_empty() {
            let (config, mut system) = read_system_conf()
                .map_err(|e| DnsError(format!("reading the system's configuration: {e}")))?;
            if anchors.is_some() {
                // What stands in a file has no signature.
                system.use_hosts_file = ResolveHosts::Never;
            }
            (config, system)
        } else {
            let servers = options.nameservers.iter().map(server).collect();
            let mut plain = ResolverOpts::default();
            plain.use_hosts_file = ResolveHosts::Never;
            (ResolverConfig::from_parts(None, Vec::new(), servers), plain)
        };
        limits(&mut resolver_options, options);
        let guard = Guard::new(config.name_servers.len(), anchors.is_some());
        let mut builder =
            Resolver::builder_with_config(config, guard).with_options(resolver_options);
        if let Some(tls) = tls(options)? {
            builder = builder.with_tls_config(tls);
        }
        if let Some(anchors) = anchors {
            builder = builder.with_trust_anchor(anchors);
        }
        let resolver = builder.build().map_err(|e| DnsError(e.to_string()))?;
        let times = u32::try_from(options.attempts).unwrap_or(u32::MAX);
        Ok(Self {
            resolver,
            patience: options.timeout.saturating_mul(times.saturating_add(2)),
        })
    }

    /// The records of that type. Takes no longer than a name server may that is asked as often as
    /// it may be, and once more: not even where there are many aliases.
    pub(super) async fn lookup(&self, name: &str, kind: RecordType) -> Result<Found, Nothing> {
        let answer = match Name::from_ascii(name) {
            Ok(mut asked) => {
                // The system's search list stays out of it.
                asked.set_fqdn(true);
                let looking = look_up(self.resolver.clone(), asked, kind);
                TokioTime::timeout(self.patience, looking)
                    .await
                    .unwrap_or_else(|_| Err(failure("no answer in time")))
            }
            Err(error) => Err(failure(error)),
        };
        answer.map_err(|nothing| match nothing {
            Nothing::Failure(detail) => failure(format_args!(
                "{kind} of {name}: {}",
                escape_peer_text(&detail)
            )),
            nothing => nothing,
        })
    }
}

async fn look_up(
    resolver: Resolver<Guard>,
    mut asked: Name,
    kind: RecordType,
) -> Result<Found, Nothing> {
    let mut aliases = Vec::new();
    for _ in 0..ALIASES_MAX {
        let answers = ask(&resolver, &asked, kind).await?;
        if let Some((owner, data)) = follow(&asked, kind, &answers, &mut aliases) {
            return Ok(found(&owner, &aliases, &data));
        }
        // The library leaves the aliases out where it remembers what is behind them.
        let answers = ask(&resolver, &asked, RecordType::CNAME).await?;
        let Some((alias, target)) = alias(&asked, &answers) else {
            return Err(failure("the answer is about another name"));
        };
        aliases.push(alias.clone());
        asked = target;
    }
    Err(failure("an alias leads to others without end"))
}

async fn ask(
    resolver: &Resolver<Guard>,
    name: &Name,
    kind: RecordType,
) -> Result<Vec<Record>, Nothing> {
    match resolver.lookup(name.clone(), kind).await {
        Ok(lookup) => Ok(lookup.answers().to_vec()),
        Err(NetError::Dns(HickoryError::NoRecordsFound(none))) => {
            // A zone that is not signed need not show its SOA record; that it is none was proven
            // before.
            let proof = none.soa.as_ref().map_or(Proof::Insecure, |soa| soa.proof);
            Err(absent(none.response_code, proof))
        }
        // NSEC3 records that are too costly to be checked prove nothing (RFC 9276 section 3.2).
        Err(NetError::Dns(HickoryError::Nsec {
            response,
            proof: Proof::Insecure,
            ..
        })) => Err(absent(response.response_code, Proof::Insecure)),
        Err(error) => Err(failure(error)),
    }
}

fn server(server: &NameServer) -> NameServerConfig {
    let connections = match &server.tls {
        Some(name) => vec![ProtocolConfig::Tls {
            server_name: name.as_str().into(),
        }],
        None => vec![ProtocolConfig::Udp, ProtocolConfig::Tcp],
    };
    let connections = connections.into_iter().map(|protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.address.port();
        connection
    });
    NameServerConfig::new(server.address.ip(), true, connections.collect())
}

fn limits(resolver: &mut ResolverOpts, options: &DnsOptions) {
    let negative_max = options.ttl_max.min(NEGATIVE_TTL_MAX);
    resolver.timeout = options.timeout;
    resolver.attempts = options.attempts;
    resolver.edns0 = true;
    resolver.cache_size = options.cache_size;
    resolver.max_active_requests = QUESTIONS_MAX;
    resolver.positive_min_ttl = Some(options.ttl_min.min(options.ttl_max));
    resolver.positive_max_ttl = Some(options.ttl_max);
    resolver.negative_min_ttl = Some(options.ttl_min.min(negative_max));
    resolver.negative_max_ttl = Some(negative_max);
}

/// None: the roots of the system.
fn tls(options: &DnsOptions) -> Result<Option<ClientConfig>, DnsError> {
    if let Some(tls) = &options.tls {
        return Ok(Some(ClientConfig::clone(tls)));
    }
    if options
        .nameservers
        .iter()
        .any(|server| server.tls.is_some())
    {
        return Ok(None);
    }
    // Nobody needs any: a machine without roots can look names up all the same.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| DnsError(e.to_string()))?;
    Ok(Some(
        builder
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    ))
}

/// Follows the aliases from the name that was asked for, as far as they go: nothing else in an
/// answer is believed. Gives the records at their end, and whose they are.
fn follow(
    asked: &Name,
    kind: RecordType,
    answers: &[Record],
    aliases: &mut Vec<Record>,
) -> Option<(Name, Vec<Record>)> {
    let before = aliases.len();
    let mut name = asked.clone();
    loop {
        let data: Vec<Record> = own(&name, kind, answers).cloned().collect();
        if !data.is_empty() {
            return Some((name, data));
        }
        match alias(&name, answers) {
            Some((alias, target)) if aliases.len() < before + ALIASES_MAX => {
                aliases.push(alias.clone());
                name = target;
            }
            _ => {
                aliases.truncate(before);
                return None;
            }
        }
    }
}

fn own<'a>(
    name: &'a Name,
    kind: RecordType,
    answers: &'a [Record],
) -> impl Iterator<Item = &'a Record> {
    answers
        .iter()
        .filter(move |record| record.name == *name && record.record_type() == kind)
}

/// The alias that a name is, and of which.
fn alias<'a>(name: &Name, answers: &'a [Record]) -> Option<(&'a Record, Name)> {
    answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *name => Some((record, target.0.clone())),
        _ => None,
    })
}

fn found(owner: &Name, aliases: &[Record], data: &[Record]) -> Found {
    let parts = || aliases.iter().chain(data);
    let of_records = || weakest(data.iter().map(|record| record.proof));
    Found {
        name: text(owner),
        aliased: !aliases.is_empty(),
        ttl: Duration::from_secs(parts().map(|r| r.ttl).min().unwrap_or(0).into()),
        proof: weakest(parts().map(|record| record.proof)),
        first: aliases.first().map_or_else(of_records, |alias| alias.proof),
        data: data.iter().map(|record| record.data.clone()).collect(),
    }
}

/// Without the final dot.
pub(super) fn text(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

fn absent(code: ResponseCode, proof: Proof) -> Nothing {
    match code {
        ResponseCode::NXDomain => Nothing::NoName(proof),
        ResponseCode::NoError => Nothing::NoData(proof),
        code => failure(code),
    }
}

fn failure(detail: impl std::fmt::Display) -> Nothing {
    Nothing::Failure(detail.to_string())
}

fn weakest(proofs: impl Iterator<Item = Proof>) -> Proof {
    let rank = |proof: &Proof| match proof {
        Proof::Secure => 3,
        Proof::Insecure => 2,
        Proof::Indeterminate => 1,
        Proof::Bogus => 0,
    };
    proofs.min_by_key(rank).unwrap_or(Proof::Indeterminate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, CNAME};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, data: RData) -> Record {
        Record::from_rdata(name(owner), 60, data)
    }

    fn address(owner: &str) -> Record {
        record(owner, RData::A(A::new(192, 0, 2, 1)))
    }

    fn cname(owner: &str, target: &str) -> Record {
        record(owner, RData::CNAME(CNAME(name(target))))
    }

    fn owner(asked: &str, answers: &[Record]) -> Option<(String, usize)> {
        let mut aliases = Vec::new();
        let (owner, data) = follow(&name(asked), RecordType::A, answers, &mut aliases)?;
        assert!(data.iter().all(|record| record.name == owner));
        Some((text(&owner), aliases.len()))
    }

    #[test]
    fn only_what_was_asked_for_is_believed() {
        let answers = [
            address("evil.test."),
            cname("b.test.", "c.test."),
            address("C.test."),
            cname("a.test.", "b.test."),
            cname("evil.test.", "a.test."),
        ];
        assert_eq!(owner("a.test.", &answers), Some(("c.test".to_owned(), 2)));
        assert_eq!(owner("b.test.", &answers), Some(("c.test".to_owned(), 1)));
        assert_eq!(owner("c.test.", &answers), Some(("c.test".to_owned(), 0)));
        assert_eq!(owner("d.test.", &answers), None);
        assert_eq!(owner("a.test.", &answers[3..]), None);
    }

    #[test]
    fn aliases_end() {
        let ring = [cname("a.test.", "b.test."), cname("b.test.", "a.test.")];
        let mut aliases = Vec::new();
        assert_eq!(
            follow(&name("a.test."), RecordType::A, &ring, &mut aliases),
            None
        );
        assert!(aliases.is_empty());
    }

    #[test]
    fn the_weakest_part_counts() {
        let (mut alias, mut data) = (cname("a.test.", "b.test."), address("b.test."));
        alias.ttl = 10;
        for (of_alias, of_data, expected) in [
            (Proof::Secure, Proof::Secure, Proof::Secure),
            (Proof::Secure, Proof::Insecure, Proof::Insecure),
            (Proof::Insecure, Proof::Indeterminate, Proof::Indeterminate),
            (Proof::Bogus, Proof::Indeterminate, Proof::Bogus),
        ] {
            (alias.proof, data.proof) = (of_alias, of_data);
            let found = found(&name("b.test."), &[alias.clone()], &[data.clone()]);
            assert_eq!((found.proof, found.first), (expected, of_alias));
            assert_eq!(found.ttl, Duration::from_secs(10));
        }
    }
}
