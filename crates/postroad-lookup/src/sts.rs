use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::Domain;
use postroad_routing::{
    BoxFuture, MxLookup, STS_FETCH_MAX, STS_POLICY_MAX, StsFetch, StsFetchError, StsPolicyError,
};
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::fetch::{HttpClient, HttpError, HttpOptions, Resolve};

/// The port of policy hosts.
const HTTPS: u16 = 443;
/// Policies that are fetched at the same time.
const CONNECTIONS: usize = 32;
/// Characters of what a policy host says of itself that are kept.
const SHOWN_MAX: usize = 100;

/// Fetches MTA-STS policies over HTTPS (RFC 8461 section 3.3).
#[derive(Clone, Debug)]
pub struct HttpsStsFetch(HttpClient);

impl HttpsStsFetch {
    /// Finds policy hosts by the DNS that mail hosts are found by. `tls` decides which
    /// certificates are good: RFC 8461 wants those of the public authorities.
    #[must_use]
    pub fn new(tls: &Arc<ClientConfig>, dns: Arc<dyn MxLookup>) -> Self {
        Self::with_resolver(tls, Arc::new(ByDns(dns)))
    }

    /// Finds policy hosts by `resolver`.
    #[must_use]
    pub fn with_resolver(tls: &Arc<ClientConfig>, resolver: Arc<dyn Resolve>) -> Self {
        let options = HttpOptions {
            timeout: STS_FETCH_MAX,
            body_max: STS_POLICY_MAX,
            connections: CONNECTIONS,
            // A policy host is asked once in days.
            idle: 0,
            https_only: true,
            ..HttpOptions::default()
        };
        Self(HttpClient::with_resolver(tls, options, resolver))
    }

    async fn policy(&self, domain: &Domain) -> Result<Vec<u8>, StsFetchError> {
        let url = format!("https://mta-sts.{}/.well-known/mta-sts.txt", domain.ascii());
        let answer = self.0.get(&url, "text/plain").await.map_err(failure)?;
        // Only 200: a redirect must not be followed.
        if answer.status != 200 {
            return Err(StsFetchError::Status(answer.status));
        }
        let given = answer.content_type.unwrap_or_default();
        let kind = given.split(';').next().unwrap_or_default();
        if !kind.trim().eq_ignore_ascii_case("text/plain") {
            return Err(StsFetchError::ContentType(shown(&given)));
        }
        Ok(answer.body.into())
    }
}

impl StsFetch for HttpsStsFetch {
    fn fetch<'a>(
        &'a self,
        domain: &'a Domain,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, StsFetchError>> {
        Box::pin(async move {
            let late = |_| StsFetchError::Unreachable(format!("no answer within {within:?}"));
            timeout(within, self.policy(domain)).await.map_err(late)?
        })
    }
}

fn failure(error: HttpError) -> StsFetchError {
    match error {
        HttpError::Certificate(detail) => StsFetchError::Certificate(shown(&detail)),
        HttpError::TooLarge(_) => StsPolicyError::TooLarge.into(),
        other => StsFetchError::Unreachable(shown(&other.to_string())),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// Finds hosts as mail hosts are found.
struct ByDns(Arc<dyn MxLookup>);

impl Resolve for ByDns {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let name: Domain = host.parse().map_err(io::Error::other)?;
            let plan = self.0.host(&name, HTTPS).await.map_err(io::Error::other)?;
            let hosts = plan.hosts.into_iter().flat_map(|host| host.addresses);
            Ok(hosts.map(|address| SocketAddr::new(address, 0)).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_mail::replies;
    use postroad_routing::{HopPlan, Host, PlanError};

    struct One;

    impl MxLookup for One {
        fn mx<'a>(&'a self, _: &'a Domain, _: u64) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
            unreachable!("a policy host is found by its addresses")
        }

        fn host<'a>(
            &'a self,
            name: &'a Domain,
            port: u16,
        ) -> BoxFuture<'a, Result<HopPlan, PlanError>> {
            assert_eq!(port, HTTPS);
            let found = if name.ascii() == "mta-sts.d.test" {
                Ok(HopPlan::of(vec![Host {
                    name: name.clone(),
                    preference: None,
                    addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                    ttl: None,
                }]))
            } else {
                Err(PlanError::Temporary(replies::LOOKUP_FAILED))
            };
            Box::pin(std::future::ready(found))
        }
    }

    #[tokio::test]
    async fn policy_hosts_are_found_by_the_dns_of_mail() {
        let dns = ByDns(Arc::new(One));
        let found = dns.resolve("mta-sts.d.test").await.unwrap();
        let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1:0", "[2001:db8::1]:0"]);
        assert!(dns.resolve("mta-sts.other.test").await.is_err());
        assert!(dns.resolve("no host").await.is_err());
    }
}
