//! Whether mail would get where the configuration sends it: asked of DNS, and of smarthosts.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use postroad_mail::{Domain, replies};
use postroad_routing::{
    DnsResolver, Hop, HopAddress, HopPlan, MxLookup as _, Pattern, PlanError, RouteRule, Via,
};
use tokio::net::{TcpStream, UnixStream};

use super::check::Findings;
use super::routes::RouteStep;
use super::{Config, Loaded, Roles, Service};
use crate::service::validating;

/// Questions at the same time.
const AT_ONCE: usize = 16;
/// How long a smarthost may take to accept a connection here; for mail, `delivery.connect_timeout` counts.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) async fn look(loaded: &Loaded, roles: &Roles, findings: &mut Findings) {
    validation(loaded, roles, findings).await;
    let domains = without_route(&loaded.config, &roles.routes);
    let hops = hops(&roles.routes);
    if domains.is_empty() && hops.is_empty() {
        return;
    }
    let resolver = match DnsResolver::new(roles.dns.clone()) {
        Ok(resolver) => resolver,
        Err(error) => return findings.error(&loaded.problem("dns", 0, error)),
    };
    by_mx(loaded, &resolver, domains, findings).await;
    smarthosts(loaded, &resolver, hops, findings).await;
}

/// DANE needs name servers that pass signatures on.
async fn validation(loaded: &Loaded, roles: &Roles, findings: &mut Findings) {
    if !needs_names(&roles.routes) {
        return;
    }
    match validating(loaded, &roles.dns) {
        Ok(None) => {}
        Ok(Some(dns)) => {
            if let Err(error) = dns.self_check().await {
                let message = format!(
                    "DNSSEC cannot be validated with these name servers, so that there is no DANE: {error}"
                );
                findings.warning(&loaded.problem("dns.nameservers", 0, message));
            }
        }
        Err(problem) => findings.error(&problem),
    }
}

/// Whether mail may go to a host that DNS tells of.
fn needs_names(routes: &[RouteStep]) -> bool {
    for step in routes {
        let rule = step.rule();
        let named = match &rule.via {
            Via::Mx => true,
            Via::Hops(hops) => hops.iter().any(|hop| match &hop.at {
                HopAddress::Tcp { host, .. } => !host.is_literal(),
                HopAddress::Unix(_) => false,
            }),
            _ => false,
        };
        if named || step.is_table() {
            return true;
        }
        let recipient = matches!(rule.recipient, None | Some(Pattern::Any));
        let of_all = rule.sender.is_none() && rule.user.is_none() && rule.network.is_none();
        if recipient && of_all {
            return false;
        }
    }
    true
}

/// Domains that we take mail for from anyone, and that no route leads anywhere: then their MX does,
/// and if that is this host, the mail would come back to us.
fn without_route(config: &Config, routes: &[RouteStep]) -> Vec<(usize, Domain)> {
    if !config.listener.iter().any(|l| l.service == Service::Relay) {
        return Vec::new();
    }
    let domains = config.relay.domains.iter().enumerate();
    domains
        .filter_map(|(nth, text)| Some((nth, text.parse::<Domain>().ok()?)))
        .filter(|(_, domain)| {
            let mut routes = routes
                .iter()
                .filter(|step| is_for_all_of(step.rule(), domain));
            let first = routes.next();
            // What a table says is not known before it is asked.
            first.is_none_or(|step| !step.is_table() && step.rule().via == Via::Mx)
        })
        .collect()
}

/// Whether all mail to the domain that gets as far as this rule goes its way.
fn is_for_all_of(rule: &RouteRule, domain: &Domain) -> bool {
    let recipient = match &rule.recipient {
        None | Some(Pattern::Any) => true,
        Some(Pattern::Domain(of)) => of == domain,
        Some(Pattern::Below(parent)) => domain
            .ascii()
            .strip_suffix(parent.ascii())
            .is_some_and(|start| start.len() > 1 && start.ends_with('.')),
        Some(Pattern::Null | Pattern::Address(_) | Pattern::Local(_)) => false,
    };
    recipient && rule.sender.is_none() && rule.user.is_none() && rule.network.is_none()
}

async fn by_mx(
    loaded: &Loaded,
    resolver: &DnsResolver,
    domains: Vec<(usize, Domain)>,
    findings: &mut Findings,
) {
    let mut answers = stream::iter(domains)
        .map(|(nth, domain)| async move { (nth, resolver.mx(&domain, 0).await, domain) })
        .buffered(AT_ONCE);
    while let Some((nth, answer, domain)) = answers.next().await {
        let domain = domain.ascii();
        let problem = |message: String| loaded.problem("relay.domains", nth, message);
        match answer {
            Ok(_) => {}
            Err(PlanError::Permanent(reply)) if is_loop(&reply) => {
                let message = "has no route, and its best MX is this host: its mail would come back; add a table [[route]] with";
                findings.error(&problem(format!(
                    "`{domain}` {message} recipient = \"*@{domain}\" and where it goes"
                )));
            }
            Err(PlanError::Permanent(reply)) => findings.warning(&problem(format!(
                "`{domain}` has no route, and its mail would bounce: {}",
                reply.text
            ))),
            // One answer that does not come is like the next: they are not all waited for.
            Err(PlanError::Temporary(reply)) => {
                let message = "could not be looked up, so that it, and those behind it, are not checked for a loop:";
                return findings.warning(&problem(format!("`{domain}` {message} {}", reply.text)));
            }
        }
    }
}

fn is_loop(reply: &postroad_mail::Reply) -> bool {
    reply.enhanced == replies::MX_LOOP.enhanced
}

/// Each host once, with the first route that names it.
fn hops(routes: &[RouteStep]) -> Vec<(usize, Hop)> {
    let mut seen = HashSet::new();
    routes
        .iter()
        .enumerate()
        .flat_map(|(nth, step)| match &step.rule().via {
            Via::Hops(hops) => hops.iter().map(|hop| (nth, hop.clone())).collect(),
            _ => Vec::new(),
        })
        .filter(|(_, hop)| seen.insert(hop.at.clone()))
        .collect()
}

async fn smarthosts(
    loaded: &Loaded,
    resolver: &DnsResolver,
    hops: Vec<(usize, Hop)>,
    findings: &mut Findings,
) {
    let mut answers = stream::iter(hops)
        .map(|(nth, hop)| async move { (nth, call(resolver, &hop).await) })
        .buffered(AT_ONCE);
    while let Some((nth, answer)) = answers.next().await {
        let problem = |message: String| loaded.problem("route.via", nth, message);
        match answer {
            Ok(()) => {}
            Err(Unreached::Loop(message)) => findings.error(&problem(message)),
            Err(Unreached::Now(message)) => findings.warning(&problem(message)),
        }
    }
}

/// Why a smarthost took no connection.
enum Unreached {
    /// It is this host.
    Loop(String),
    /// It may, another time.
    Now(String),
}

/// One of its addresses must take a connection.
async fn call(resolver: &DnsResolver, hop: &Hop) -> Result<(), Unreached> {
    let (host, port) = match &hop.at {
        HopAddress::Tcp { host, port } => (host, *port),
        HopAddress::Unix(path) => {
            let shown = path.display();
            return match tokio::time::timeout(CONNECT, UnixStream::connect(path)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(Unreached::Now(format!("connecting to {shown}: {error}"))),
                Err(_) => Err(Unreached::Now(format!(
                    "connecting to {shown}: no answer within {CONNECT:?}"
                ))),
            };
        }
    };
    let plan = resolver.host(host, port).await;
    let HopPlan { hosts, .. } = plan.map_err(|error| match error {
        PlanError::Permanent(reply) if is_loop(&reply) => Unreached::Loop(reply.text.to_string()),
        PlanError::Temporary(reply) | PlanError::Permanent(reply) => {
            Unreached::Now(reply.text.to_string())
        }
    })?;
    let mut last = format!("{} has no address", host.ascii());
    for address in hosts.iter().flat_map(|host| &host.addresses) {
        let address = SocketAddr::new(*address, port);
        last = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => format!("connecting to {address}: {error}"),
            Err(_) => format!("connecting to {address}: no answer within {CONNECT:?}"),
        };
    }
    Err(Unreached::Now(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Loaded {
        let start = "delivery.tls_policy = \"off\"\nhostname = \"mx.test\"\npostmaster = \"admin@box.test\"\n[[listener]]\nservice = \"relay\"\nbind = [\"127.0.0.1:0\"]\ntls = \"none\"\n";
        Loaded::from_config(toml::from_str(&format!("{start}{text}")).unwrap())
    }

    #[test]
    fn which_domains_are_left_to_mx() {
        let loaded = loaded(
            "[relay]\ndomains = [\"a.test\", \"b.test\", \"c.d.test\", \"e.test\", \"*.f.test\"]\n\
             [[route]]\nrecipient = \"*@a.test\"\nvia = \"maildir:/mail\"\n\
             [[route]]\nrecipient = \"*@b.test\"\nvia = \"mx\"\n\
             [[route]]\nrecipient = \"*@*.d.test\"\nvia = \"smtp://h.test\"\n\
             [[route]]\nrecipient = \"root@e.test\"\nvia = \"discard\"\n",
        );
        let roles = Roles::from_config(&loaded).unwrap();
        let left = without_route(&loaded.config, &roles.routes);
        let left: Vec<_> = left.iter().map(|(nth, d)| (*nth, d.ascii())).collect();
        assert_eq!(left, [(1, "b.test"), (3, "e.test")]);
    }

    #[test]
    fn which_routes_need_names() {
        for (routes, needed) in [
            ("", true),
            ("[[route]]\nvia = \"mx\"", true),
            ("[[route]]\nvia = \"smtp://h.test\"", true),
            ("[[route]]\nvia = \"smtp://127.0.0.1\"", false),
            ("[[route]]\nvia = \"lmtp+unix:///l.sock\"", false),
            ("[[route]]\ntable = \"t\"", true),
            ("[[route]]\nrecipient = \"*\"\nvia = \"discard\"", false),
            ("[[route]]\nrecipient = \"a.test\"\nvia = \"discard\"", true),
            ("[[route]]\nsender = \"<>\"\nvia = \"discard\"", true),
        ] {
            let roles = Roles::from_config(&loaded(routes)).unwrap();
            assert_eq!(needs_names(&roles.routes), needed, "{routes}");
        }
    }

    #[tokio::test]
    async fn smarthosts_are_called() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let shut = {
            let shut = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            shut.local_addr().unwrap()
        };
        let loaded = loaded(&format!(
            "[dns]\nnameservers = [\"{shut}\"]\n[[route]]\nrecipient = \"*@a.test\"\nvia = \"smtp://{open}\"\n[[route]]\nvia = \"smtp://{shut}\"\n"
        ));
        let mut findings = Findings::default();
        look(
            &loaded,
            &Roles::from_config(&loaded).unwrap(),
            &mut findings,
        )
        .await;
        assert!(findings.errors.is_empty());
        let [warning] = findings.warnings.as_slice() else {
            panic!("{findings:?}");
        };
        assert!(
            warning.contains(&format!("route.via: connecting to {shut}")),
            "{warning}"
        );
    }

    /// A name server: every MX is `mx.test`, every A 192.0.2.1, and there is nothing else.
    async fn name_server() -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((_, peer)) = socket.recv_from(&mut query).await {
                let end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
                let data: &[u8] = match query[end - 3] {
                    15 => b"\x00\x0a\x02mx\x04test\x00",
                    1 => &[192, 0, 2, 1],
                    _ => &[],
                };
                let answers = u8::from(!data.is_empty());
                let mut answer = query[..2].to_vec();
                answer.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
                answer.extend(&query[12..end]);
                if answers == 1 {
                    answer.extend([0xc0, 12, 0, query[end - 3], 0, 1, 0, 0, 0, 60, 0]);
                    answer.push(u8::try_from(data.len()).unwrap());
                    answer.extend(data);
                }
                socket.send_to(&answer, peer).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_domain_that_leads_back_here_is_a_mistake() {
        let server = name_server().await;
        let domains = "[relay]\ndomains = [\"a.test\", \"b.test\"]\n[[route]]\nrecipient = \"*@b.test\"\nvia = \"discard\"\n";
        let looked = async |more: &str| {
            let text = format!("{domains}{more}[dns]\nnameservers = [\"{server}\"]\n");
            let loaded = loaded(&text);
            let mut findings = Findings::default();
            look(
                &loaded,
                &Roles::from_config(&loaded).unwrap(),
                &mut findings,
            )
            .await;
            assert!(findings.warnings.is_empty(), "{findings:?}");
            findings.errors
        };
        let errors = looked("").await;
        assert!(
            errors.len() == 1
                && errors[0]
                    .contains("relay.domains: `a.test` has no route, and its best MX is this host"),
            "{errors:?}"
        );
        let route = "[[route]]\nrecipient = \"*@a.test\"\nvia = \"discard\"\n";
        assert!(looked(route).await.is_empty());
    }
}
