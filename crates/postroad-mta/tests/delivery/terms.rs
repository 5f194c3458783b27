//! Under which terms a connection serves for another message.

use std::sync::Arc;

use postroad_mail::{Protocol, ReversePath, Secret};
use postroad_routing::{
    Destination, Hop as Via, Route, RouteCredentials, RouteError, RouteOptions, RouteRequest,
    Router, SharedRouter,
};

use crate::hop::{Act, Hop, Tls};
use crate::kit::World;

/// One smarthost, the terms chosen by the sender's name.
struct BySender(Via);

fn login(user: &str, password: &str) -> Option<Arc<RouteCredentials>> {
    Some(Arc::new(RouteCredentials {
        user: user.to_owned(),
        secret: Secret::new(password.to_owned()),
    }))
}

impl Router for BySender {
    async fn route(&self, asked: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        let ReversePath::Address(sender) = asked.sender else {
            return Ok(None);
        };
        let mut options = RouteOptions::default();
        let mut hop = self.0.clone();
        match sender.to_string().split('@').next().unwrap() {
            "source" => options.source = vec!["127.0.0.77".parse().unwrap()],
            "source2" => options.source = vec!["127.0.0.78".parse().unwrap()],
            "helo" => options.helo = Some("other.s.test".parse().unwrap()),
            "login" => options.auth = login("me", "secret"),
            "login2" => options.auth = login("you", "secret"),
            "password" => options.auth = login("me", "other"),
            "lmtp" => hop.protocol = Protocol::Lmtp,
            _ => {}
        }
        Ok(Some(Route {
            options,
            ..Route::new(Destination::Hops(vec![hop]))
        }))
    }
}

#[tokio::test]
async fn whoever_is_somebody_else_has_a_connection_of_their_own() {
    const OFFERED: &[&str] = &["PIPELINING", "AUTH PLAIN"];
    let hop = Hop::with(0, OFFERED, Tls::Works, |command, _| {
        if command.starts_with("AUTH") {
            Act::Say("235 2.7.0 ok")
        } else {
            Act::Usual
        }
    })
    .await;
    let via = Via::smtp(hop.address.ip().into(), hop.address.port());
    let world = World::routed(SharedRouter::new(BySender(via))).await;
    world.run();
    let senders = [
        "usual", "source", "source2", "helo", "login", "login2", "password", "lmtp",
    ];
    for round in 0..2 {
        for (n, sender) in senders.into_iter().enumerate() {
            let from = format!("{sender}@s.test");
            world.send(&from, &["bob@far.test"]).await;
            world.empty().await;
            let taken = hop.taken();
            let last = taken.last().unwrap();
            assert!(last.mail.contains(&from), "{}", last.mail);
            assert_eq!(last.connection, n, "{sender}, round {round}");
        }
    }
}
