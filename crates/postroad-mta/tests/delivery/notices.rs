//! What is owed to senders, and that they get it.

use std::time::Duration;

use mail_parser::{MessageParser, MimeHeaders as _};
use postroad_mail::{Envelope, Notify, Ret};
use postroad_queue::RecipientState;

use crate::hop::{Act, Hop, Taken, Tls};
use crate::kit::World;

const MESSAGE: &str = "Subject: x\r\nMessage-ID: <1@s.test>\r\n\r\nhello\r\n";

fn no_bob(command: &str, _: crate::hop::At) -> Act {
    if command.starts_with("RCPT TO:<bob") {
        Act::Say("550 5.1.1 no Bob here")
    } else {
        Act::Usual
    }
}

fn notify(words: &str) -> impl FnOnce(&mut Envelope) {
    let notify: Notify = words.parse().unwrap();
    move |envelope| {
        for recipient in envelope.recipients_mut() {
            recipient.notify = Some(notify);
        }
    }
}

/// A sender's host that has no extensions at all, and a host that knows no Bob.
async fn hosts(world: &World, extensions: &'static [&'static str]) -> (Hop, Hop) {
    let sender = Hop::with(world.port, &[], Tls::None, |_, _| Act::Usual).await;
    let far = Hop::with(world.port, extensions, Tls::None, no_bob).await;
    world.mx("s.test", &[("mx.s.test", &[sender.address.ip()])]);
    world.mx("far.test", &[("mx.far.test", &[far.address.ip()])]);
    (sender, far)
}

fn fields<'a>(notice: &'a Taken, name: &str) -> Vec<&'a str> {
    let lines = notice.data.lines();
    lines
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .collect()
}

#[tokio::test]
async fn eight_bit_mail_bounces_to_a_host_without_8bitmime() {
    let world = World::new().await;
    let (sender, _far) = hosts(&world, &["8BITMIME"]).await;
    world
        .send_with(
            "me@s.test",
            &["bob@far.test"],
            "Subject: \u{fc}\r\n\r\n\u{fc}\r\n",
            |envelope| envelope.body = postroad_mail::BodyKind::EightBitMime,
        )
        .await;
    world.run();
    world.empty().await;
    let notice = sender.taken().remove(0);
    assert!(notice.data.is_ascii(), "{}", notice.data);
    assert!(notice.mail.starts_with("MAIL FROM:<>"));
    let parsed = MessageParser::default().parse(&notice.data).unwrap();
    let returned = parsed.parts.last().unwrap();
    assert_eq!(
        returned.content_type().unwrap().subtype(),
        Some("rfc822-headers")
    );
    // Decoded, it is the header again.
    assert!(
        returned
            .text_contents()
            .unwrap()
            .contains("Subject: \u{fc}")
    );
}

#[tokio::test]
async fn success_is_told_by_whoever_sees_the_last_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let rule = postroad_routing::RouteRule {
        recipient: Some("here.test".parse().unwrap()),
        ..postroad_routing::RouteRule::new(
            format!("maildir:{}", directory.path().display())
                .parse()
                .unwrap(),
        )
    };
    let router = postroad_routing::StaticRouter::new(vec![rule]);
    let world = World::routed(postroad_routing::SharedRouter::new(router)).await;
    let (sender, _plain) = hosts(&world, &[]).await;
    let dsn = Hop::with(world.port, &["DSN"], Tls::None, |_, _| Act::Usual).await;
    world.mx("dsn.test", &[("mx.dsn.test", &[dsn.address.ip()])]);
    world.run();
    for (to, action) in [
        ("a@far.test", Some("relayed")),
        ("b@here.test", Some("delivered")),
        ("c@dsn.test", None),
    ] {
        let before = sender.taken().len();
        world
            .send_with("me@s.test", &[to], MESSAGE, |envelope| {
                notify("SUCCESS")(envelope);
                envelope.envid = Some("env+1".to_owned());
                let original = "rfc822;o+2Bx@old.test".parse().unwrap();
                envelope.recipients_mut()[0].original = Some(original);
            })
            .await;
        world.empty().await;
        let notices = &sender.taken()[before..];
        let Some(action) = action else {
            assert!(notices.is_empty());
            continue;
        };
        let notice = &notices[0];
        assert_eq!(fields(notice, "Action"), [action]);
        assert!(fields(notice, "Status")[0].starts_with("2."));
        assert_eq!(
            fields(notice, "Original-Recipient"),
            ["rfc822; o+x@old.test"]
        );
        assert_eq!(fields(notice, "Original-Envelope-Id"), ["env+1"]);
        // Neither the message nor where on our disks it is.
        let path = directory.path().display().to_string();
        assert!(!notice.data.contains(&path) && !notice.data.contains("hello"));
    }
    let passed_on = dsn.taken().remove(0);
    assert_eq!(passed_on.mail, "MAIL FROM:<me@s.test> ENVID=env+2B1");
    assert_eq!(
        passed_on.rcpt,
        ["RCPT TO:<c@dsn.test> NOTIFY=SUCCESS ORCPT=rfc822;o+2Bx@old.test"]
    );
}

#[tokio::test]
async fn what_of_the_message_is_returned() {
    let large = format!("Subject: x\r\n\r\n{}", "hello\r\n".repeat(10_000));
    for (ret, message, whole) in [
        (None, MESSAGE, true),
        (Some(Ret::Full), MESSAGE, true),
        (Some(Ret::Headers), MESSAGE, false),
        (Some(Ret::Full), large.as_str(), false),
    ] {
        let world = World::new().await;
        let (sender, _far) = hosts(&world, &[]).await;
        world
            .send_with("me@s.test", &["bob@far.test"], message, |e| e.ret = ret)
            .await;
        world.run();
        world.empty().await;
        let notice = sender.taken().remove(0);
        assert_eq!(notice.data.contains("hello"), whole, "{ret:?}");
        assert!(notice.data.contains("\r\nSubject: x\r\n"));
    }
}

#[tokio::test]
async fn the_postmaster_hears_once_of_what_nobody_else_can_be_told() {
    let world = World::new().await;
    let (_sender, _far) = hosts(&world, &[]).await;
    let admin = Hop::start(world.port).await;
    world.mx("admin.test", &[("mx.admin.test", &[admin.address.ip()])]);
    world.send("", &["bob@far.test"]).await;
    world.run();
    world.empty().await;
    let notice = admin.taken().remove(0);
    assert_eq!(notice.to(), ["secret@admin.test"]);
    assert_eq!(notice.mail.split(' ').nth(1), Some("FROM:<>"));
    assert_eq!(fields(&notice, "Action"), ["failed"]);
}

#[tokio::test]
async fn a_notice_that_the_postmaster_cannot_get_ends_there() {
    let world = World::new().await;
    let (_sender, _far) = hosts(&world, &[]).await;
    let admin = Hop::scripted(world.port, |command, _| match command.get(..4) {
        Some("RCPT") => Act::Say("550 5.1.1 nobody"),
        _ => Act::Usual,
    })
    .await;
    world.mx("admin.test", &[("mx.admin.test", &[admin.address.ip()])]);
    world.send("", &["bob@far.test"]).await;
    world.run();
    world.empty().await;
    assert_eq!(admin.count("RCPT"), 1);
}

#[tokio::test]
async fn when_its_time_is_up() {
    let world = World::new().await;
    let (sender, _far) = hosts(&world, &[]).await;
    let busy = greeting(&world, "421 4.3.2 busy").await;
    // As long as there is a host that might take it, it is delayed, whatever others say.
    let closed = greeting(&world, "554 5.7.1 go away").await;
    world.mx(
        "grey.test",
        &[
            ("mx1.grey.test", &[busy.address.ip()]),
            ("mx2.grey.test", &[closed.address.ip()]),
        ],
    );
    let id = world.send("me@s.test", &["bob@grey.test"]).await;
    world.run();
    world.settled(id, 1).await;
    world.advance(Duration::from_secs(5 * 3600)).await;
    world.settled(id, 2).await;
    world
        .until(async || (sender.taken().len() == 1).then_some(()))
        .await;
    let delayed = sender.taken().remove(0);
    assert_eq!(fields(&delayed, "Action"), ["delayed"]);
    assert_eq!(fields(&delayed, "Status"), ["4.7.1"]);
    assert_eq!(fields(&delayed, "Will-Retry-Until").len(), 1);
    world.advance(Duration::from_secs(5 * 24 * 3600)).await;
    world.empty().await;
    let failed = sender.taken().remove(1);
    assert_eq!(fields(&failed, "Action"), ["failed"]);
    assert_eq!(fields(&failed, "Status"), ["5.4.7"]);
}

/// RFC 5321 section 3.1, RFC 7504: where every host says that it takes no mail, so be it.
#[tokio::test]
async fn when_no_host_takes_mail_at_all() {
    let world = World::new().await;
    let (sender, _far) = hosts(&world, &[]).await;
    let first = greeting(&world, "521 5.3.2 no mail here").await;
    let second = greeting(&world, "554 5.7.1 go away").await;
    world.mx(
        "none.test",
        &[
            ("mx1.none.test", &[first.address.ip()]),
            ("mx2.none.test", &[second.address.ip()]),
        ],
    );
    world.send("me@s.test", &["bob@none.test"]).await;
    world.run();
    world.empty().await;
    let failed = sender.taken().remove(0);
    assert_eq!(fields(&failed, "Action"), ["failed"]);
    assert_eq!(fields(&failed, "Status"), ["5.7.1"]);
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

/// A host that greets like this.
async fn greeting(world: &World, says: &'static str) -> Hop {
    Hop::scripted(world.port, move |command, _| match command {
        "GREETING" => Act::Say(says),
        _ => Act::Usual,
    })
    .await
}

#[tokio::test]
async fn the_postmasters_own_address_stays_private() {
    let world = World::new().await;
    let (sender, _far) = hosts(&world, &[]).await;
    let admin = Hop::scripted(world.port, |command, _| match command.get(..4) {
        Some("RCPT") => Act::Say("550 5.1.1 <Secret@admin.test>: no such user"),
        _ => Act::Usual,
    })
    .await;
    world.mx("admin.test", &[("mx.admin.test", &[admin.address.ip()])]);
    world.run();
    // As intake has rewritten it; and as somebody who knows it has written it.
    for (original, shown) in [
        (Some("rfc822;postmaster@mx.test"), "postmaster@mx.test"),
        (None, "secret@admin.test"),
    ] {
        world
            .send_with("me@s.test", &["secret@admin.test"], MESSAGE, |envelope| {
                envelope.recipients_mut()[0].original = original.map(|o| o.parse().unwrap());
            })
            .await;
        world.empty().await;
        let notice = sender.taken().pop().unwrap();
        assert_eq!(
            fields(&notice, "Final-Recipient"),
            [format!("rfc822; {shown}")]
        );
        let data = notice.data.to_lowercase();
        for private in ["secret", "admin.test"] {
            assert_eq!(data.contains(private), original.is_none(), "{data}");
        }
        assert_eq!(fields(&notice, "Status"), ["5.1.1"]);
    }
}

#[tokio::test]
async fn a_notice_goes_by_its_own_route() {
    let hop = Hop::scripted(0, |command, at| match command {
        c if c.starts_with("MAIL FROM:<>") => Act::Say("451 4.3.2 not yet"),
        _ => no_bob(command, at),
    })
    .await;
    let world = World::routed(crate::routes::hops(&[hop.address])).await;
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    world.settled(id, 1).await;
    let notice = world.queue().await.remove(0).id;
    let listed = world.settled(notice, 1).await.unwrap();
    let lane = format!("smtp://[{}]:{}", hop.address.ip(), hop.address.port());
    assert_eq!(listed.recipients[0].lane.as_str(), lane);
    assert_eq!(listed.origin.service, "bounce");
}

/// Where a notice cannot be queued, what was delivered stays so, and what failed is tried again.
#[tokio::test]
async fn a_notice_that_finds_no_room() {
    let world = World::small(1000).await;
    let (_, far) = hosts(&world, &["PIPELINING"]).await;
    let id = world
        .send("me@s.test", &["bob@far.test", "ann@far.test"])
        .await;
    world.run();
    let listed = world.settled(id, 1).await.unwrap();
    let states: Vec<_> = listed.recipients.iter().map(|r| r.state).collect();
    assert_eq!(states, [RecipientState::Waiting, RecipientState::Delivered]);
    assert!(
        listed.recipients[0]
            .due
            .is_some_and(|due| due > listed.arrived)
    );
    world.advance(Duration::from_secs(1)).await;
    world.settled(id, 2).await.unwrap();
    let taken = far.taken();
    assert_eq!(taken.len(), 1, "Ann has it once");
}
