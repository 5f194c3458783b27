//! Addresses that stand for others, through the whole service.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::peers::parse_dsn;
use postroad_tests::process::{free_port, loopback};
use postroad_tests::site::Site;
use postroad_tests::socketmap::Socketmap;

use crate::world::World;

const ALIASES: &str = "[[alias]]\ntable = \"aliases.txt\"\ndomains = [\"lists.test\"]\n";

/// A site with such a file.
fn site(file: &str) -> Site {
    let site = Site::new();
    std::fs::write(site.path("aliases.txt"), file).unwrap();
    site
}

/// Mail to a list goes to its members, in the name of its owner: who gets its bounces is the
/// owner, not who wrote to it.
#[tokio::test]
async fn a_list_with_an_owner() {
    let file = "list@lists.test ann@far.test, bob@far.test, boss@lists.test\nowner-list@lists.test boss@lists.test\nboss@lists.test chief@boss.test\n";
    let world = World::configured(site(file), ALIASES).await;
    let far = world.domain("far.test").await;
    far.reply_always("RCPT TO:<bob@far.test>", "550 5.1.1 no Bob here");
    let boss = world.domain("boss.test").await;
    world.send(&["<list@lists.test>"], "").await;
    let to_ann = far.wait_for(1).await.remove(0);
    assert_eq!(to_ann.to, ["ann@far.test"]);
    assert_eq!(to_ann.from, "owner-list@lists.test");
    let mail = boss.wait_for(2).await;
    let (notices, lists): (Vec<_>, Vec<_>) = mail.iter().partition(|m| m.from.is_empty());
    assert_eq!((notices.len(), lists.len()), (1, 1), "{mail:?}");
    assert_eq!(lists[0].from, "owner-list@lists.test");
    let dsn = parse_dsn(&notices[0].data).await.unwrap();
    assert_eq!(
        dsn["recipients"][0]["final-recipient"],
        "rfc822; bob@far.test"
    );
    assert_eq!(dsn["recipients"][0]["status"], "5.1.1");
    world.log(&["failed", "bob@far.test"]).await;
    assert!(world.sender.received().is_empty(), "the writer is told");
}

/// A person's alias has no owner: the sender stays the sender.
#[tokio::test]
async fn an_alias_of_a_person() {
    let world = World::configured(site("bob@lists.test robert@far.test\n"), ALIASES).await;
    let far = world.domain("far.test").await;
    far.reply_always("RCPT", "550 5.1.1 nobody");
    world.send(&["<bob@lists.test>"], "").await;
    let (_, dsn) = world.notice().await;
    assert_eq!(dsn["recipients"][0]["status"], "5.1.1");
    let original = dsn["recipients"][0]["original-recipient"].as_str();
    assert_eq!(original, Some("rfc822; bob@lists.test"), "{dsn}");
}

/// What is in no table is not there; what leads back to itself is refused; what cannot be looked
/// up waits with the client.
#[tokio::test]
async fn who_is_not_there_is_refused() {
    let file =
        "bob@lists.test robert@far.test\na@lists.test b@lists.test\nb@lists.test a@lists.test\n";
    let world = World::configured(site(file), ALIASES).await;
    let mut dialogue = Dialogue::open(world.address).await.unwrap();
    dialogue
        .say("MAIL FROM:<me@sender.test>", "250")
        .await
        .unwrap();
    for (to, reply) in [
        ("nobody@lists.test", "550 5.1.1"),
        ("a@lists.test", "550 5.4.6"),
        ("BOB@Lists.test", "250 2.1.5"),
        ("postmaster@lists.test", "250 2.1.5"),
    ] {
        dialogue
            .say(&format!("RCPT TO:<{to}>"), reply)
            .await
            .unwrap();
    }
    dialogue.say("QUIT", "221").await.unwrap();
}

/// More than a few levels, and each address once.
#[tokio::test]
async fn lists_in_lists() {
    let file = "all@lists.test some@lists.test, others@lists.test, eve@far.test\nsome@lists.test ann@far.test, bob@far.test\nothers@lists.test bob@far.test, @far.test\n";
    let world = World::configured(site(file), ALIASES).await;
    let far = world.domain("far.test").await;
    world.send(&["<all@lists.test>"], "").await;
    let mut to = far.wait_for(1).await.remove(0).to;
    to.sort();
    assert_eq!(
        to,
        [
            "ann@far.test",
            "bob@far.test",
            "eve@far.test",
            "others@far.test"
        ]
    );
}

/// While a table cannot be asked, the client comes again; nobody is told that nobody is there.
#[tokio::test]
async fn aliases_that_cannot_be_looked_up() {
    let map = Socketmap::start(free_port(loopback())).await;
    map.put("aliases", "bob@map.test", "OK robert@far.test");
    let alias = format!(
        "[[alias]]\ntable = {{ kind = \"socketmap\", socket = \"{}\", map = \"aliases\", cache = \"0s\", cache_negative = \"0s\" }}\ndomains = [\"map.test\"]\n",
        map.address()
    );
    let world = World::configured(Site::new(), &alias).await;
    let far = world.domain("far.test").await;
    world.send(&["<bob@map.test>"], "").await;
    assert_eq!(far.wait_for(1).await[0].to, ["robert@far.test"]);
    let mut dialogue = Dialogue::open(world.address).await.unwrap();
    let mail = "MAIL FROM:<me@sender.test>";
    dialogue.say(mail, "250").await.unwrap();
    let unknown = "RCPT TO:<eve@map.test>";
    dialogue.say(unknown, "550 5.1.1").await.unwrap();
    drop(map);
    for to in ["bob", "eve"] {
        let line = format!("RCPT TO:<{to}@map.test>");
        dialogue.say(&line, "451 4.4.3").await.unwrap();
    }
}
