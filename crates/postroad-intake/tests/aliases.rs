//! Aliases through intake: who gets the message, with which parameters, and what its sender is
//! told (RFC 3461 section 5.2.7).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::future::ready;
use std::sync::{Arc, Mutex};

use postroad_intake::{
    AliasPreview, ByDomain, Config, EXPANDED_MAX, Expansion, Intake, Member, Prelude, RoutePreview,
};
use postroad_mail::{Address, Domain, Envelope, Recipient, Reply, Timestamp, replies};
use postroad_proto::server::{Info, Peer};
use postroad_queue::history::{Event, Happening, History, Wanted};
use postroad_queue::{BoxFuture, Filter, Listed, MemStore, Store, StoreError};

const NOW: Timestamp = Timestamp::from_millis(1_795_524_541_000);

/// `name` has members `a b`, those behind a `!` with the reverse-path `owner-name@…`.
#[derive(Debug)]
struct Table(Vec<(&'static str, &'static str)>);

impl AliasPreview for Table {
    fn expand<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Expansion> {
        let found = self.0.iter().find(|(name, _)| *name == address.to_string());
        let expansion = match found.map(|(_, members)| *members) {
            Some("loop") => Expansion::Loop,
            Some("down") => Expansion::Unavailable,
            Some("odd") => Expansion::Unusable,
            Some("big") => Expansion::TooLarge,
            Some("many") => Expansion::Members(
                (0..6000)
                    .map(|n| member(address, &format!("m{n}@{}", address.local_part())))
                    .collect(),
            ),
            Some(members) => {
                let members = members.split(' ');
                Expansion::Members(members.map(|text| member(address, text)).collect())
            }
            None if self.is_alias_domain(address.domain()) => Expansion::Unknown,
            None => Expansion::Itself,
        };
        Box::pin(ready(expansion))
    }

    fn is_alias_domain(&self, domain: &Domain) -> bool {
        domain.ascii() == "lists.test"
    }
}

fn member(alias: &Address, text: &str) -> Member {
    let owner = format!("<owner-{alias}>");
    Member {
        address: text.trim_start_matches('!').parse().unwrap(),
        from: text.starts_with('!').then(|| owner.parse().unwrap()),
    }
}

fn table() -> Table {
    Table(vec![
        ("one@far.test", "only@near.test"),
        ("two@far.test", "a@near.test b@near.test"),
        ("own@far.test", "own@far.test archive@near.test"),
        ("list@lists.test", "!a@near.test !c@near.test"),
        ("mixed@lists.test", "!c@near.test d@near.test"),
        ("loop@lists.test", "loop"),
        ("down@lists.test", "down"),
        ("odd@lists.test", "odd"),
        ("big@lists.test", "big"),
        ("many@lists.test", "many"),
        ("more@lists.test", "many"),
        ("alice@sender.test", "alice@elsewhere.test"),
        ("pm@far.test", "root@near.test"),
    ])
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<Event>>);

impl History for Told {
    fn record(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    fn find<'a>(
        &'a self,
        _: &'a Wanted,
        _: usize,
    ) -> BoxFuture<'a, Result<Vec<Event>, StoreError>> {
        Box::pin(ready(Ok(Vec::new())))
    }
}

struct World {
    store: Arc<dyn Store>,
    config: Arc<Config>,
    told: Arc<Told>,
}

impl World {
    fn new() -> Self {
        let told = Arc::new(Told::default());
        let mut config = Config::new("mx.far.test".parse().unwrap(), "relay");
        config.aliases = Arc::new(table());
        config.postmaster = Some("pm@far.test".parse().unwrap());
        config.history = Arc::<Told>::clone(&told);
        Self {
            store: Arc::new(MemStore::new(1 << 24)),
            config: Arc::new(config),
            told,
        }
    }

    /// A message from a sender to `user@domain NOTIFY ORCPT`, each in a line of its own.
    async fn accept(&self, from: &str, to: &[&str]) {
        self.try_accept(from, to).await.unwrap();
    }

    async fn try_accept(&self, from: &str, to: &[&str]) -> Result<(), Reply> {
        let mut prelude = Prelude::new(NOW);
        let mut recipients = Vec::new();
        for to in to {
            let mut words = to.split(' ');
            let mut recipient = Recipient::new(words.next().unwrap().parse().unwrap());
            recipient.notify = words.next().map(|notify| notify.parse().unwrap());
            recipient.original = words.next().map(|original| original.parse().unwrap());
            prelude
                .recipient(&*self.config.aliases, &recipient.address)
                .await
                .unwrap();
            recipients.push(recipient);
        }
        let mut envelope = Envelope::new(from.parse().unwrap(), recipients[0].clone());
        envelope.replace_recipients(recipients);
        envelope.envid = Some("E1".to_owned());
        self.commit(prelude, envelope).await
    }

    async fn commit(&self, prelude: Prelude, envelope: Envelope) -> Result<(), Reply> {
        let peer = Peer {
            address: [192, 0, 2, 1].into(),
            trusted: false,
            tls: None,
        };
        let info = Info {
            peer,
            hello: None,
            identity: None,
        };
        let config = Arc::clone(&self.config);
        let intake = Intake::begin(NOW, config, &self.store, &info, envelope).unwrap();
        let mut intake = intake.after(prelude);
        let content = b"Message-ID: <x@sender.test>\r\nSubject: hi\r\n\r\nhello\r\n";
        intake.body(bytes::Bytes::from_static(content)).await;
        let routes: &dyn RoutePreview = &ByDomain;
        intake.commit(NOW, routes).await.map(drop)
    }

    async fn queue(&self) -> Vec<Listed> {
        self.store
            .page(&Filter::default(), None, 100)
            .await
            .unwrap()
    }

    async fn text(&self, message: &Listed) -> String {
        let content = self.store.content(message.id).await.unwrap();
        let mut text = Vec::new();
        while (text.len() as u64) < content.len() {
            let offset = text.len() as u64;
            text.extend_from_slice(&content.read(offset, 1 << 20).await.unwrap());
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// `address notify orcpt from`, a dash where there is none.
fn shown(message: &Listed) -> Vec<String> {
    let each = message.envelope.recipients().iter().map(|recipient| {
        let dash = || "-".to_owned();
        let notify = recipient.notify.map_or_else(dash, |n| n.to_string());
        let original = recipient.original.as_ref();
        let original = original.map_or_else(dash, ToString::to_string);
        let from = recipient
            .from
            .as_ref()
            .map_or_else(dash, ToString::to_string);
        format!("{} {notify} {original} {from}", recipient.address)
    });
    each.collect()
}

#[tokio::test]
async fn parameters_go_where_the_rules_say() {
    for (from, to, want, notices) in [
        // One: all of them, and no notice.
        (
            "<s@sender.test>",
            vec!["one@far.test SUCCESS,FAILURE rfc822;orig@x.test"],
            vec!["only@near.test SUCCESS,FAILURE rfc822;orig@x.test -"],
            vec![],
        ),
        (
            "<s@sender.test>",
            vec!["one@far.test"],
            vec!["only@near.test - rfc822;one@far.test -"],
            vec![],
        ),
        // Several: all but SUCCESS, which is for us to tell.
        (
            "<s@sender.test>",
            vec!["two@far.test SUCCESS,DELAY"],
            vec![
                "a@near.test DELAY rfc822;two@far.test -",
                "b@near.test DELAY rfc822;two@far.test -",
            ],
            vec!["expanded two@far.test"],
        ),
        (
            "<s@sender.test>",
            vec!["two@far.test SUCCESS"],
            vec![
                "a@near.test NEVER rfc822;two@far.test -",
                "b@near.test NEVER rfc822;two@far.test -",
            ],
            vec!["expanded two@far.test"],
        ),
        (
            "<s@sender.test>",
            vec!["two@far.test NEVER"],
            vec![
                "a@near.test NEVER rfc822;two@far.test -",
                "b@near.test NEVER rfc822;two@far.test -",
            ],
            vec![],
        ),
        // A list: none, its own reverse-path; it is delivered to with us.
        (
            "<s@sender.test>",
            vec!["list@lists.test SUCCESS,FAILURE rfc822;l@x.test"],
            vec![
                "a@near.test - - owner-list@lists.test",
                "c@near.test - - owner-list@lists.test",
            ],
            vec!["delivered list@lists.test"],
        ),
        (
            "<s@sender.test>",
            vec!["mixed@lists.test SUCCESS"],
            vec![
                "c@near.test - - owner-mixed@lists.test",
                "d@near.test NEVER rfc822;mixed@lists.test -",
            ],
            vec!["expanded mixed@lists.test"],
        ),
        // Each once; who was named by the sender is that.
        (
            "<s@sender.test>",
            vec!["list@lists.test", "two@far.test", "c@near.test DELAY"],
            vec![
                "a@near.test - - owner-list@lists.test",
                "b@near.test - rfc822;two@far.test -",
                "c@near.test DELAY - -",
            ],
            vec![],
        ),
        (
            "<s@sender.test>",
            vec!["own@far.test"],
            vec![
                "own@far.test - rfc822;own@far.test -",
                "archive@near.test - rfc822;own@far.test -",
            ],
            vec![],
        ),
        // A notification stays one, and asks for nothing.
        (
            "<>",
            vec!["list@lists.test SUCCESS"],
            vec![
                "a@near.test NEVER rfc822;list@lists.test -",
                "c@near.test NEVER rfc822;list@lists.test -",
            ],
            vec![],
        ),
    ] {
        let world = World::new();
        world.accept(from, &to).await;
        let queue = world.queue().await;
        assert_eq!(shown(&queue[0]), want, "{to:?}");
        let lanes: Vec<_> = queue[0]
            .recipients
            .iter()
            .map(|r| r.lane.as_str())
            .collect();
        let domains = queue[0].envelope.recipients().iter();
        let domains: Vec<_> = domains.map(|r| r.address.domain().ascii()).collect();
        assert_eq!(lanes, domains, "of those who get it");
        let mut told = Vec::new();
        for notice in &queue[1..] {
            let text = world.text(notice).await;
            let action = text.split("\r\nAction: ").nth(1).unwrap();
            let about = text.split("\r\nFinal-Recipient: rfc822; ").nth(1);
            let about = about.unwrap().lines().next().unwrap();
            told.push(format!("{} {about}", action.lines().next().unwrap()));
            assert!(text.contains("Original-Envelope-Id: E1"), "{text}");
            assert!(!text.contains("near.test"), "nobody is betrayed: {text}");
            assert!(notice.envelope.from.is_null());
            assert_eq!(
                notice.envelope.recipients()[0].address.to_string(),
                "s@sender.test"
            );
            assert_eq!(notice.origin.service, "bounce");
        }
        assert_eq!(told, notices, "{to:?}");
        // The trace field names whom the client has named, where it is one.
        let text = world.text(&queue[0]).await;
        assert!(!text.contains("near.test"), "{text}");
        assert_eq!(text.contains("for <"), to.len() == 1, "{text}");
    }
}

#[tokio::test]
async fn what_cannot_be_expanded_is_refused() {
    let aliases = table();
    let mut prelude = Prelude::new(NOW);
    for (address, reply) in [
        ("nobody@lists.test", replies::UNKNOWN_RECIPIENT),
        ("down@lists.test", replies::ALIAS_UNAVAILABLE),
        ("odd@lists.test", replies::ALIAS_UNUSABLE),
        ("loop@lists.test", replies::ALIAS_LOOP),
        ("big@lists.test", replies::ALIAS_TOO_LARGE),
    ] {
        let address: Address = address.parse().unwrap();
        let refused: Result<_, Reply> = prelude.recipient(&aliases, &address).await;
        assert_eq!(refused, Err(reply), "{address}");
    }
    let ask = async |prelude: &mut Prelude, address: &str| {
        prelude.recipient(&aliases, &address.parse().unwrap()).await
    };
    assert_eq!(ask(&mut prelude, "any@far.test").await, Ok(None));
    let only = ask(&mut prelude, "one@far.test").await.unwrap().unwrap();
    assert_eq!(only.to_string(), "only@near.test");
    // All of them together, and each counts once.
    assert_eq!(ask(&mut prelude, "many@lists.test").await, Ok(None));
    assert_eq!(ask(&mut prelude, "many@lists.test").await, Ok(None));
    const { assert!(EXPANDED_MAX < 12_000) };
    let full = ask(&mut prelude, "more@lists.test").await;
    assert_eq!(full, Err(replies::TOO_MANY_RECIPIENTS), "another message");
}

/// The postmaster's own address may be an alias, and a notice may go to one.
#[tokio::test]
async fn the_postmaster_and_notices_too() {
    let world = World::new();
    let mut prelude = Prelude::new(NOW);
    prelude.postmaster(&world.config).await;
    let to = Recipient::new("postmaster@mx.far.test".parse().unwrap());
    let envelope = Envelope::new("<s@sender.test>".parse().unwrap(), to);
    world.commit(prelude, envelope).await.unwrap();
    assert_eq!(
        shown(&world.queue().await[0]),
        ["root@near.test - rfc822;postmaster@mx.far.test -"]
    );

    let world = World::new();
    world
        .accept("<alice@sender.test>", &["list@lists.test SUCCESS"])
        .await;
    let notice = &world.queue().await[1];
    assert_eq!(
        notice.envelope.recipients()[0].address.to_string(),
        "alice@elsewhere.test"
    );
}

/// A message that owes its sender a notice is not taken while it cannot be told to whom that goes:
/// the client comes again. Where nothing is owed, or nothing will ever be told, it is.
#[tokio::test]
async fn notices_whose_way_is_not_known_now() {
    let world = World::new();
    let to = ["two@far.test SUCCESS"];
    let refused = world.try_accept("<down@lists.test>", &to).await;
    assert_eq!(refused, Err(replies::ALIAS_UNAVAILABLE));
    assert!(world.queue().await.is_empty());
    assert!(world.told.0.lock().unwrap().is_empty());
    world
        .accept("<down@lists.test>", &["two@far.test", "x@far.test SUCCESS"])
        .await;
    assert_eq!(world.queue().await.len(), 1);
    for from in ["odd@lists.test", "nobody@lists.test", "loop@lists.test"] {
        let world = World::new();
        world.accept(&format!("<{from}>"), &to).await;
        let notice = &world.queue().await[1];
        assert_eq!(shown(notice), [format!("{from} - - -")]);
    }
}

#[tokio::test]
async fn the_history_is_told() {
    let world = World::new();
    world
        .accept("<s@sender.test>", &["two@far.test SUCCESS", "b@x.test"])
        .await;
    let queue = world.queue().await;
    let told = world.told.0.lock().unwrap().clone();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|event| event.id == queue[0].id));
    let Happening::Accepted(accepted) = &told[0].what else {
        panic!("{told:?}")
    };
    assert_eq!(accepted.message_id.as_deref(), Some("x@sender.test"));
    assert_eq!(accepted.from, "s@sender.test");
    assert_eq!(
        accepted.recipients,
        ["a@near.test", "b@near.test", "b@x.test"]
    );
    assert_eq!(accepted.recipients_count, 3);
    assert_eq!(
        accepted.expansions,
        ["two@far.test -> a@near.test, b@near.test"]
    );
    assert_eq!((accepted.began, accepted.size), (NOW, queue[0].size));
    let Happening::Notice { kind, about, to } = &told[1].what else {
        panic!("{told:?}")
    };
    assert_eq!(
        [kind.as_str(), about, to],
        ["expanded", "two@far.test", "s@sender.test"]
    );
}
