//! What the routes say of mail before it is in the queue: its lanes, and who is refused.
//!
//! | route | lane |
//! |---|---|
//! | by MX | the domain whose MX records count |
//! | to hosts that it names | those hosts, with whatever keeps connections apart: all domains behind one smarthost share it |
//! | any other, or none could be had | the recipient's domain |

use std::fmt::Write as _;
use std::time::Duration;

use postroad_intake::{ByDomain, RcptAsked, RoutePreview};
use postroad_mail::{Address, Envelope, Origin, Reply, Severity};
use postroad_queue::{BoxFuture, Lane};
use postroad_routing::{
    Destination, Hop, Route, RouteOptions, RouteRequest, SharedRouter, TlsMode,
};
use tracing::warn;

use super::Outbound;
use super::follow::hop_url;

/// How long the routes of one message (at its commit) or recipient (at RCPT) may take to be
/// found: the client waits meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Octets of a lane's name, at most. Hosts beyond that share a lane, which costs nothing but
/// fairness: what travels together is decided by the routes again.
const LANE_MAX: usize = 255;

impl RoutePreview for Outbound {
    fn lanes<'a>(
        &'a self,
        envelope: &'a Envelope,
        origin: &'a Origin,
        size: u64,
    ) -> BoxFuture<'a, Vec<Lane>> {
        Box::pin(async move {
            let settings = self.settings.load_full();
            lanes(&settings.router, envelope, origin, size).await
        })
    }

    fn refusal<'a>(&'a self, asked: &'a RcptAsked<'a>) -> BoxFuture<'a, Option<Reply>> {
        Box::pin(async move {
            let settings = self.settings.load_full();
            let request = RouteRequest {
                recipient: asked.recipient,
                sender: asked.sender,
                user: asked.user,
                network: asked.network,
                size: asked.size,
            };
            let routing = settings.router.route(&request);
            match tokio::time::timeout(PATIENCE, routing).await {
                // A router of somebody's own may hold a reply here that refuses nothing.
                Ok(Ok(Route {
                    destination: Destination::Reject(reply),
                    ..
                })) if reply.severity() == Severity::Permanent => Some(reply),
                // What is not known now is found out at delivery.
                _ => None,
            }
        })
    }
}

/// The lane of each recipient; their domains', for those whose route cannot be had in time.
pub(crate) async fn lanes(
    router: &SharedRouter,
    envelope: &Envelope,
    origin: &Origin,
    size: u64,
) -> Vec<Lane> {
    let recipients = envelope.recipients();
    let mut lanes = Vec::with_capacity(recipients.len());
    let routing = async {
        for (index, recipient) in recipients.iter().enumerate() {
            let request = RouteRequest {
                recipient: &recipient.address,
                sender: envelope.reverse_path(index),
                user: origin.user.as_deref(),
                network: origin.address,
                size,
            };
            lanes.push(match router.route(&request).await {
                Ok(route) => lane(&route, &recipient.address),
                Err(_) => ByDomain::lane(&recipient.address),
            });
        }
    };
    if tokio::time::timeout(PATIENCE, routing).await.is_err() {
        warn!("the router takes too long; a message goes into the lanes of its domains");
    }
    let rest = recipients.iter().skip(lanes.len());
    lanes.extend(rest.map(|recipient| ByDomain::lane(&recipient.address)));
    lanes
}

pub(super) fn lane(route: &Route, recipient: &Address) -> Lane {
    match &route.destination {
        Destination::Mx(Some(domain)) => Lane::new(domain.ascii()),
        Destination::Hops(hops) if !hops.is_empty() => hops_lane(hops, &route.options),
        _ => ByDomain::lane(recipient),
    }
}

/// `smtp://relay.example:25`, and what differs from the usual behind it.
fn hops_lane(hops: &[Hop], options: &RouteOptions) -> Lane {
    let mut name = String::new();
    for hop in hops {
        let separator = if name.is_empty() { "" } else { "," };
        name.push_str(separator);
        name.push_str(&hop_url(hop));
    }
    let tls = match options.tls {
        TlsMode::Opportunistic => "",
        TlsMode::Require => " tls=require",
        TlsMode::Verify => " tls=verify",
        TlsMode::None => " tls=none",
    };
    name.push_str(tls);
    for source in &options.source {
        let _ = write!(name, " source={source}");
    }
    if let Some(helo) = &options.helo {
        let _ = write!(name, " helo={}", helo.ascii());
    }
    if let Some(login) = &options.auth {
        let _ = write!(name, " user={}", login.user);
    }
    name.truncate(name.floor_char_boundary(LANE_MAX));
    Lane::new(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_route_makes_of_a_lane() {
        let recipient = "bob@b.test".parse().unwrap();
        let hop = |host: &str, port, implicit_tls| Hop {
            implicit_tls,
            ..Hop::smtp(host.parse().unwrap(), port)
        };
        let named = |destination, options: RouteOptions| {
            let route = Route {
                options,
                ..Route::new(destination)
            };
            lane(&route, &recipient).as_str().to_owned()
        };
        let usual = RouteOptions::default;
        let relay = || Destination::Hops(vec![hop("Relay.test", 25, false)]);
        for (destination, options, name) in [
            (Destination::Mx(None), usual(), "b.test"),
            (
                Destination::Mx(Some("other.test".parse().unwrap())),
                usual(),
                "other.test",
            ),
            (Destination::Discard, usual(), "b.test"),
            (Destination::Hops(vec![]), usual(), "b.test"),
            (relay(), usual(), "smtp://relay.test:25"),
            (
                Destination::Hops(vec![
                    hop("relay.test", 25, false),
                    hop("[192.0.2.1]", 465, true),
                ]),
                usual(),
                "smtp://relay.test:25,smtps://[192.0.2.1]:465",
            ),
            (
                relay(),
                RouteOptions {
                    tls: TlsMode::Verify,
                    source: vec![[192, 0, 2, 9].into()],
                    ..RouteOptions::default()
                },
                "smtp://relay.test:25 tls=verify source=192.0.2.9",
            ),
        ] {
            assert_eq!(named(destination, options), name);
        }
        let long = (0..50).map(|n| hop(&format!("relay{n}.test"), 25, false));
        assert_eq!(
            named(Destination::Hops(long.collect()), usual()).len(),
            LANE_MAX
        );
    }
}
