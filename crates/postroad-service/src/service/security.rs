//! TLS policies of others, as the configuration has them: DANE and MTA-STS.

use std::sync::Arc;

use postroad_lookup::HttpsStsFetch;
use postroad_mail::{Cache, Domain};
use postroad_net::clock;
use postroad_routing::{
    BoxFuture, DnsOptions, DnsResolver, Host, HostSecurity, Now, PolicyMode, SecureDns,
    SecureError, SecureLookup, SecurityLookup, SecurityPolicies, StsPolicies, TrustAnchor,
};
use tracing::{info, warn};

use super::prepared::Prepared;
use super::validation::Validation;
use crate::causes::with_causes;
use crate::config::{Config, Dnssec, Loaded, Problem, TlsPolicy};

/// Policies, with DANE as far as DNSSEC can be validated here.
///
/// Name servers that leave signatures out would make every domain look as if it were under attack,
/// and no mail could go out: so DANE counts from the first validated answer on, and then, on this
/// host with these name servers, for good, whoever drops packets later.
pub(crate) struct Policies {
    with_dane: SecurityPolicies,
    without: SecurityPolicies,
    validation: Option<Validation>,
}

impl Policies {
    /// Those of a configuration.
    pub(super) fn new(config: &Config, prepared: &Prepared, cache: &Arc<dyn Cache>) -> Self {
        let mode = mode(config.delivery.tls_policy);
        let now: Now = Arc::new(clock::now);
        let mx = &prepared.mx;
        let tls = prepared.connector.verifying_config();
        let sts = StsPolicies::new(
            Arc::<DnsResolver>::clone(mx),
            Arc::new(HttpsStsFetch::new(&tls, Arc::<DnsResolver>::clone(mx))),
            Arc::clone(cache),
            Arc::clone(&now),
        );
        let sts = Arc::new(sts);
        let policies = |dane: Option<Arc<SecureDns>>| {
            let dane = dane.map(|dns| dns as Arc<dyn SecureLookup>);
            SecurityPolicies::new(mode, dane, Some(Arc::clone(&sts)), Arc::clone(&now))
        };
        let validation = prepared.validating.clone();
        Self {
            with_dane: policies(prepared.validating.clone()),
            without: policies(None),
            validation: validation
                .map(|dns| Validation::new(dns, Arc::clone(cache), &asked(config))),
        }
    }

    /// Says whether DNSSEC can be validated here, once.
    pub(super) async fn report(self: Arc<Self>) {
        let Some(validation) = &self.validation else {
            return;
        };
        match validation.check().await {
            Ok(()) => info!("DNSSEC is validated: DANE counts"),
            Err(error) if validation.counts() => {
                warn!(%error, "DNSSEC cannot be validated now, as it could: mail to hosts whose DANE records cannot be proven waits; where the name servers have changed for good, use others, or set dns.dnssec = \"off\"");
            }
            Err(error) => {
                warn!(%error, "DNSSEC cannot be validated with these name servers: there is no DANE; name servers that pass signatures on (dns.nameservers) have it, dns.dnssec = \"off\" ends this warning");
            }
        }
    }
}

impl SecurityLookup for Policies {
    fn security<'a>(
        &'a self,
        domain: Option<&'a Domain>,
        host: &'a Host,
        port: u16,
    ) -> BoxFuture<'a, HostSecurity> {
        Box::pin(async move {
            // No TLSA records are below an address.
            let validation = self.validation.as_ref().filter(|_| !host.name.is_literal());
            let Some(validation) = validation else {
                return self.without.security(domain, host, port).await;
            };
            match validation.check().await {
                Err(error) if !validation.counts() => {
                    let mut security = self.without.security(domain, host, port).await;
                    security.reasons.push(not_looked_at(&error));
                    security
                }
                _ => self.with_dane.security(domain, host, port).await,
            }
        })
    }

    fn maintain(&self) -> BoxFuture<'_, ()> {
        self.with_dane.maintain()
    }
}

fn not_looked_at(error: &SecureError) -> String {
    format!("DANE: not looked at, as DNSSEC cannot be validated here: {error}")
}

const fn mode(policy: TlsPolicy) -> PolicyMode {
    match policy {
        TlsPolicy::Enforce => PolicyMode::Enforce,
        TlsPolicy::Observe => PolicyMode::Observe,
        TlsPolicy::Off => PolicyMode::Off,
    }
}

/// The resolver for DANE, where it is wanted.
///
/// # Errors
/// Where the trust anchor cannot be used, with its place.
pub(crate) fn validating(
    loaded: &Loaded,
    options: &DnsOptions,
) -> Result<Option<Arc<SecureDns>>, Problem> {
    let dns = &loaded.config.dns;
    let policy = loaded.config.delivery.tls_policy;
    if policy == TlsPolicy::Off || dns.dnssec == Dnssec::Off {
        return Ok(None);
    }
    let (key, anchor) = match &dns.trust_anchor {
        Some(path) => ("dns.trust_anchor", TrustAnchor::File(path.clone())),
        None => ("dns", TrustAnchor::Root),
    };
    match SecureDns::new(options, &anchor) {
        Ok(dns) => Ok(Some(Arc::new(dns))),
        Err(error) => Err(loaded.problem(key, 0, with_causes(&error))),
    }
}

/// Who is asked: what was found out of others says nothing of these.
fn asked(config: &Config) -> String {
    let servers = config.dns.nameservers.iter();
    let servers: Vec<_> = servers.map(ToString::to_string).collect();
    let anchor = config.dns.trust_anchor.as_ref();
    let anchor = anchor.map_or_else(String::new, |path| path.display().to_string());
    format!("{} {anchor}", servers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::service::store::memory_cache;

    /// With the reasons for a host of that name.
    async fn reasons(more: &str, name: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        // Nobody answers there.
        let dns = "[dns]\nnameservers = [\"127.0.0.1:9\"]\ntimeout = \"50ms\"\n";
        std::fs::write(&path, format!("hostname = \"mx.test\"\n{dns}{more}")).unwrap();
        let loaded = load(&path).unwrap();
        let prepared = Prepared::for_delivery(&loaded).unwrap();
        let policies = prepared.policies(&loaded.config, &memory_cache());
        let host = Host {
            name: name.parse().unwrap(),
            preference: None,
            addresses: vec![[192, 0, 2, 1].into()],
            ttl: None,
        };
        policies.security(None, &host, 25).await.reasons
    }

    #[tokio::test]
    async fn without_dnssec_there_is_no_dane_and_that_is_said() {
        let said = reasons("", "mx.a.test").await.join("\n");
        assert!(said.contains("DANE: not looked at, as DNSSEC"), "{said}");
        let observe = "[delivery]\ntls_policy = \"observe\"\n";
        let said = reasons(observe, "mx.a.test").await.join("\n");
        assert!(said.contains("observed, not enforced"), "{said}");
        for (more, name) in [
            ("dnssec = \"off\"\n", "mx.a.test"),
            ("[delivery]\ntls_policy = \"off\"\n", "mx.a.test"),
            ("", "[192.0.2.1]"),
        ] {
            let said = reasons(more, name).await.join("\n");
            assert!(!said.contains("DANE"), "{more} {name}: {said}");
        }
    }

    #[tokio::test]
    async fn a_trust_anchor_that_is_none_is_placed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        std::fs::write(directory.path().join("anchor"), "no key\n").unwrap();
        let text = "hostname = \"mx.test\"\n[dns]\ntrust_anchor = \"anchor\"\n";
        std::fs::write(&path, text).unwrap();
        let error = Prepared::for_delivery(&load(&path).unwrap()).map(|_| ());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("c.toml:3: dns.trust_anchor: "), "{error}");
    }
}
