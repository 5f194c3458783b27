//! What a route may say, and what follows.

use std::net::SocketAddr;
use std::time::Duration;

use postroad_intake::{RcptAsked, RoutePreview as _};
use postroad_mail::replies;
use postroad_queue::RecipientState;
use postroad_routing::{
    Destination, Hop, PlanError, Route, RouteError, RouteRequest, RouteRule, Router, SharedRouter,
    StaticRouter,
};

use crate::kit::World;

pub struct Fixed(pub Route);

impl Router for Fixed {
    async fn route(&self, _: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        Ok(Some(self.0.clone()))
    }
}

struct Down;

impl Router for Down {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        Err(RouteError {
            recipient: request.recipient.to_string(),
            detail: "https://10.0.0.1/routes: refused".to_owned(),
        })
    }
}

/// The first of them first.
pub fn hops(addresses: &[SocketAddr]) -> SharedRouter {
    let hop = |(preference, address): (u16, &SocketAddr)| Hop {
        preference,
        ..Hop::smtp(address.ip().into(), address.port())
    };
    let all = (0..).zip(addresses).map(hop);
    SharedRouter::new(Fixed(Route::new(Destination::Hops(all.collect()))))
}

fn rules(via: &str) -> SharedRouter {
    let rule = RouteRule::new(via.parse().unwrap());
    SharedRouter::new(StaticRouter::new(vec![rule]))
}

#[tokio::test]
async fn a_router_that_fails_defers() {
    let world = World::routed(SharedRouter::new(Down)).await;
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    assert_eq!(
        world.listed(id).await.unwrap().recipients[0].lane.as_str(),
        "far.test"
    );
    world.run();
    let said = world.last(id, 1).await;
    // What is inside stays inside.
    assert!(
        said.starts_with("451 4.4.3") && !said.contains("10.0.0.1"),
        "{said}"
    );
}

#[tokio::test]
async fn routes_to_no_host_defer_and_do_not_spin() {
    let world = World::routed(hops(&[])).await;
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    assert!(world.last(id, 1).await.starts_with("451 4.3.5"));
    // A look-up that gives a plan without hosts is no better.
    let world = World::new().await;
    world.mx("far.test", &[]);
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    assert!(world.last(id, 1).await.starts_with("451 4.3.5"));
    let listed = world.listed(id).await.unwrap();
    assert_eq!(listed.recipients[0].attempts, 1);
}

#[tokio::test]
async fn who_is_refused_before_the_message() {
    for (router, refused) in [
        (
            rules("reject 5.1.1 no such user"),
            Some("550 5.1.1 no such user"),
        ),
        (rules("defer 4.2.0 later"), None),
        (rules("mx"), None),
        (SharedRouter::new(Down), None),
        // A refusal that is none refuses nobody.
        (
            SharedRouter::new(Fixed(Route::new(Destination::Reject(replies::OK)))),
            None,
        ),
    ] {
        let world = World::routed(router).await;
        let (recipient, sender) = ("bob@far.test".parse().unwrap(), "<>".parse().unwrap());
        let asked = RcptAsked {
            recipient: &recipient,
            sender: &sender,
            user: None,
            network: None,
            size: 0,
        };
        let reply = world.outbound.refusal(&asked).await;
        assert_eq!(reply.map(|r| r.to_string()).as_deref(), refused);
    }
}

/// Never answers.
struct Silent;

impl Router for Silent {
    async fn route(&self, _: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_that_does_not_answer_holds_nobody_up() {
    let world = World::routed(SharedRouter::new(Silent)).await;
    let id = world.send("me@s.test", &["a@one.test", "b@two.test"]).await;
    let listed = world.listed(id).await.unwrap();
    let lanes: Vec<_> = listed.recipients.iter().map(|r| r.lane.as_str()).collect();
    assert_eq!(lanes, ["one.test", "two.test"]);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_mailbox_is_no_delivery() {
    let directory = tempfile::tempdir().unwrap();
    let via = format!("maildir:{}/{{local}}", directory.path().display());
    let world = World::routed(rules(&via)).await;
    let id = world.send("me@s.test", &["Bob@far.test"]).await;
    // What kill -9 leaves: a part of the file, under the name that it will have again.
    let name = format!("1795524541.{id}_0.postroad");
    let mailbox = directory.path().join("bob");
    std::fs::create_dir_all(mailbox.join("tmp")).unwrap();
    std::fs::write(mailbox.join("tmp").join(&name), "Return-Pa").unwrap();
    world.run();
    world.empty().await;
    assert_eq!(
        std::fs::read_to_string(mailbox.join("new").join(&name)).unwrap(),
        "Return-Path: <me@s.test>\nDelivered-To: Bob@far.test\nSubject: x\n\nhello\n"
    );
    assert_eq!(std::fs::read_dir(mailbox.join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_mailbox_that_cannot_be_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let mailbox = directory.path().join("bob");
    std::fs::write(&mailbox, "a file").unwrap();
    let via = format!("maildir:{}", mailbox.display());
    let world = World::routed(rules(&via)).await;
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    let said = world.last(id, 1).await;
    assert!(
        said.starts_with("451 4.3.0") && !said.contains('/'),
        "{said}"
    );
    std::fs::remove_file(&mailbox).unwrap();
    world.advance(Duration::from_secs(120)).await;
    world.empty().await;
    assert_eq!(std::fs::read_dir(mailbox.join("new")).unwrap().count(), 1);
}

/// Nobody is configured to get it: it waits for whoever sets things right.
#[tokio::test]
async fn mail_for_the_postmaster_is_not_bounced_for_want_of_one() {
    let world = World::with(SharedRouter::default(), |config| config.postmaster = None).await;
    world.broken_mx("mx.test", PlanError::Permanent(replies::MX_LOOP));
    let id = world
        .send("me@s.test", &["Postmaster@mx.test", "bob@mx.test"])
        .await;
    world.run();
    let said = world.last(id, 1).await;
    assert!(said.starts_with("451 4.3.5"), "{said}");
    let listed = world.listed(id).await.unwrap();
    assert_eq!(listed.recipients[1].state, RecipientState::Failed);
    // The other one's notice is not about the postmaster, who waits still.
    world
        .until(async || (world.queue().await.len() == 1).then_some(()))
        .await;
}

#[tokio::test]
async fn one_hop_that_cannot_be_does_not_fail_what_another_defers() {
    let busy = crate::hop::Hop::scripted(0, |command, _| match command.get(..4) {
        Some("MAIL") => crate::hop::Act::Say("451 4.3.2 busy"),
        _ => crate::hop::Act::Usual,
    })
    .await;
    let hop = |host: &str, port| Hop::smtp(host.parse().unwrap(), port);
    let route = vec![
        hop(&format!("[{}]", busy.address.ip()), busy.address.port()),
        hop("loop.test", 25),
    ];
    let router = SharedRouter::new(Fixed(Route::new(Destination::Hops(route))));
    let world = World::routed(router).await;
    world.broken_mx("loop.test", PlanError::Permanent(replies::MX_LOOP));
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    assert_eq!(world.last(id, 1).await, "451 4.3.2 busy");
}
