//! Notices while it cannot be told for whom an address stands.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postroad_intake::{AliasPreview, Expansion, Member};
use postroad_mail::{Address, Domain};
use postroad_queue::{BoxFuture, RecipientState};
use postroad_routing::SharedRouter;

use crate::hop::{Act, At, Hop, Tls};
use crate::kit::World;

/// The senders at `s.test` have mailboxes at `home.test`, when the table can say so.
#[derive(Debug, Default)]
struct Table {
    is_down: AtomicBool,
}

impl AliasPreview for Table {
    fn expand<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Expansion> {
        let alias = address.domain().ascii() == "s.test";
        Box::pin(ready(match alias {
            true if self.is_down.load(Ordering::SeqCst) => Expansion::Unavailable,
            true => Expansion::Members(vec![Member {
                address: format!("{}@home.test", address.local_part())
                    .parse()
                    .unwrap(),
                from: None,
            }]),
            false => Expansion::Itself,
        }))
    }

    fn is_alias_domain(&self, _: &Domain) -> bool {
        false
    }
}

fn bob_is_unknown(command: &str, _: At) -> Act {
    if command.starts_with("RCPT TO:<bob") {
        Act::Say("550 5.1.1 nobody of that name")
    } else {
        Act::Usual
    }
}

/// Who has failed waits until the sender can be told of it; who has the message does not get it
/// again.
#[tokio::test]
async fn a_failure_waits_until_it_can_be_told() {
    let table = Arc::new(Table::default());
    let aliases = Arc::clone(&table);
    let world = World::with(SharedRouter::default(), |config| config.aliases = aliases).await;
    let home = Hop::with(world.port, &[], Tls::None, |_, _| Act::Usual).await;
    let far = Hop::with(world.port, &[], Tls::None, bob_is_unknown).await;
    world.mx("home.test", &[("mx.home.test", &[home.address.ip()])]);
    world.mx("s.test", &[("mx.home.test", &[home.address.ip()])]);
    world.mx("far.test", &[("mx.far.test", &[far.address.ip()])]);
    table.is_down.store(true, Ordering::SeqCst);
    let id = world
        .send("me@s.test", &["ann@far.test", "bob@far.test"])
        .await;
    world.run();
    for attempt in 1..4 {
        // Nor is it given up when its time is up.
        let days = u64::from(attempt == 3) * 40;
        if attempt > 1 {
            world
                .advance(Duration::from_secs(900 + days * 24 * 3600))
                .await;
        }
        let listed = world.settled(id, attempt).await.unwrap();
        let states: Vec<_> = listed.recipients.iter().map(|r| r.state).collect();
        let expected = [RecipientState::Delivered, RecipientState::Waiting];
        assert_eq!(states, expected, "attempt {attempt}");
        assert!(world.last(id, attempt).await.starts_with("550 5.1.1"));
        assert_eq!(world.queue().await.len(), 1, "no notice");
    }
    assert!(home.taken().is_empty());

    table.is_down.store(false, Ordering::SeqCst);
    world.advance(Duration::from_secs(900)).await;
    world.empty().await;
    assert_eq!(far.taken().len(), 1);
    let notices = home.taken();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].to(), ["me@home.test"]);
    assert!(notices[0].data.contains("bob@far.test"));
}

/// What has been delivered is not delivered again to tell of it later: that notice goes at once.
#[tokio::test]
async fn a_success_is_told_at_once() {
    let table = Arc::new(Table::default());
    let aliases = Arc::clone(&table);
    let world = World::with(SharedRouter::default(), |config| config.aliases = aliases).await;
    let home = Hop::with(world.port, &[], Tls::None, |_, _| Act::Usual).await;
    let far = Hop::with(world.port, &[], Tls::None, bob_is_unknown).await;
    world.mx("s.test", &[("mx.home.test", &[home.address.ip()])]);
    world.mx("far.test", &[("mx.far.test", &[far.address.ip()])]);
    table.is_down.store(true, Ordering::SeqCst);
    let content = "Subject: x\r\n\r\nhello\r\n";
    let to = ["ann@far.test", "bob@far.test"];
    let id = world
        .send_with("me@s.test", &to, content, |envelope| {
            envelope.recipients_mut()[0].notify = Some("SUCCESS".parse().unwrap());
        })
        .await;
    world.run();
    world.settled(id, 1).await.unwrap();
    world
        .until(async || (!home.taken().is_empty()).then_some(()))
        .await;
    let notices = home.taken();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].to(), ["me@s.test"]);
    assert!(notices[0].data.contains("Action: relayed"));
    assert!(!notices[0].data.contains("bob@far.test"));
}
