//! Which host is called: MX records from a DNS server in process.

use postroad_tests::peers::parse_dsn;
use postroad_tests::process::loopback;

use crate::world::World;

#[tokio::test]
async fn the_second_mx_takes_what_the_first_does_not() {
    let world = World::new("retry = [\"1s\"]").await;
    // Nobody listens at the first; the second greets with 421; the third takes it.
    world.dns.a("mx1.far.test", loopback());
    let second = world.host("mx2.far.test").await;
    second.reply_always("GREETING", "421 4.3.2 overloaded");
    let third = world.host("mx3.far.test").await;
    for (preference, name) in [
        (10, "mx1.far.test"),
        (20, "mx2.far.test"),
        (30, "mx3.far.test"),
    ] {
        world.dns.mx("far.test", preference, name);
    }
    world.send(&["<bob@far.test>"], "").await;
    assert_eq!(third.wait_for(1).await[0].to, ["bob@far.test"]);
    let line = world.log(&["delivered", "bob@far.test"]).await;
    assert!(line.contains("mx3.far.test"), "{line}");
}

#[tokio::test]
async fn domains_that_take_no_mail() {
    let world = World::new("").await;
    world.dns.mx("null.test", 0, ".");
    world.send(&["<bob@null.test>"], "").await;
    let (_, dsn) = world.notice().await;
    assert_eq!(dsn["recipients"][0]["status"], "5.1.10");
    world.send(&["<bob@nowhere.test>"], "").await;
    let notices = world.sender.wait_for(2).await;
    let dsn = parse_dsn(&notices[1].data).await.unwrap();
    assert_eq!(dsn["recipients"][0]["status"], "5.1.2");
    // Hosts that have no address, and a domain that has neither.
    world.dns.mx("hollow.test", 10, "mx.hollow.test");
    world.send(&["<bob@hollow.test>"], "").await;
    let notices = world.sender.wait_for(3).await;
    let dsn = parse_dsn(&notices[2].data).await.unwrap();
    assert_eq!(dsn["recipients"][0]["status"], "5.4.4");
    // An address without MX is its own.
    let implicit = world.host("host.test").await;
    world.send(&["<bob@host.test>"], "").await;
    implicit.wait_for(1).await;
    // A name server in trouble is no reason to bounce.
    world.dns.servfail("broken.test");
    world.send(&["<bob@broken.test>"], "").await;
    let line = world.log(&["deferred", "bob@broken.test"]).await;
    assert!(line.contains("4.4.3"), "{line}");
}

/// An alias stands for what it points to, be it a domain or a host (RFC 5321 section 5.1).
#[tokio::test]
async fn aliases_are_followed() {
    let world = World::new("").await;
    let sink = world.domain("real.test").await;
    world.dns.cname("alias.test", "real.test");
    world.send(&["<bob@alias.test>"], "").await;
    assert_eq!(sink.wait_for(1).await[0].to, ["bob@alias.test"]);
    // The host itself under another name.
    world.dns.mx("other.test", 10, "mx.other.test");
    world.dns.cname("mx.other.test", "mx.real.test");
    world.send(&["<bob@other.test>"], "").await;
    assert_eq!(sink.wait_for(2).await[1].to, ["bob@other.test"]);
    // A name without mail exchanger that is an alias of a host.
    world.dns.cname("www.test", "mx.real.test");
    world.send(&["<bob@www.test>"], "").await;
    assert_eq!(sink.wait_for(3).await[2].to, ["bob@www.test"]);
}

/// Hosts of one preference share the load, and none of a higher one is called while they answer.
#[tokio::test]
async fn equals_share_the_load() {
    // 40 messages to two hosts all go to the same one once in 5 * 10^11 runs.
    const MESSAGES: usize = 40;
    let world = World::new("").await;
    let mut equals = Vec::new();
    for name in ["mx1.even.test", "mx2.even.test"] {
        world.dns.mx("even.test", 10, name);
        equals.push(world.host(name).await);
    }
    world.dns.mx("even.test", 20, "mx3.even.test");
    let spare = world.host("mx3.even.test").await;
    for n in 0..MESSAGES {
        world.send(&[&format!("<user{n}@even.test>")], "").await;
    }
    world
        .relay
        .log()
        .wait_for_many(MESSAGES, &["delivered", "@even.test"])
        .await
        .unwrap();
    let shares: Vec<_> = equals.iter().map(|sink| sink.received().len()).collect();
    assert_eq!(shares.iter().sum::<usize>(), MESSAGES, "{shares:?}");
    assert!(shares.iter().all(|&share| share > 0), "{shares:?}");
    assert!(spare.received().is_empty());
}

/// An exchanger that is ourselves, at the best preference, is a loop; at a later one, the end of the list.
#[tokio::test]
async fn we_are_no_next_hop_of_ours() {
    let world = World::new("").await;
    world.dns.mx("loop.test", 10, "relay.test");
    world.dns.a("relay.test", world.address.ip());
    world.send(&["<bob@loop.test>"], "").await;
    let (_, dsn) = world.notice().await;
    assert_eq!(dsn["recipients"][0]["status"], "5.4.6");
    let best = world.domain("backup.test").await;
    world.dns.mx("backup.test", 20, "relay.test");
    world.dns.mx("backup.test", 30, "mx3.backup.test");
    let behind_us = world.host("mx3.backup.test").await;
    best.reply_always("RCPT", "450 4.2.0 not now");
    world.send(&["<bob@backup.test>"], "").await;
    world
        .log(&["deferred", "bob@backup.test", "450 4.2.0"])
        .await;
    assert!(behind_us.received().is_empty());
}
