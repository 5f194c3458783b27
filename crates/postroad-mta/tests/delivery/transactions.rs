//! Which recipients travel together, and what of them is sent again.

use std::time::Duration;

use postroad_mail::BodyKind;
use postroad_queue::RecipientState;
use postroad_routing::{RouteRule, SharedRouter, StaticRouter};

use crate::hop::{ALL, Act, Hop, Tls};
use crate::kit::World;

fn smarthost(address: std::net::SocketAddr) -> SharedRouter {
    let via = format!("smtp://{address}").parse().unwrap();
    SharedRouter::new(StaticRouter::new(vec![RouteRule::new(via)]))
}

const FOUR: [&str; 4] = ["1@one.test", "2@one.test", "3@two.test", "4@three.test"];

#[tokio::test]
async fn three_domains_behind_one_hop_are_one_transaction() {
    let hop = Hop::start(0).await;
    let world = World::routed(smarthost(hop.address)).await;
    let id = world.send("me@s.test", &FOUR).await;
    let lane = format!("smtp://[{}]:{}", hop.address.ip(), hop.address.port());
    for recipient in world.listed(id).await.unwrap().recipients {
        assert_eq!(recipient.lane.as_str(), lane);
    }
    world.run();
    world.empty().await;
    let taken = hop.taken();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].to(), FOUR);
}

#[tokio::test]
async fn by_mx_each_domain_is_a_transaction() {
    let world = World::new().await;
    let hop = Hop::start(world.port).await;
    for domain in ["one.test", "two.test", "three.test"] {
        world.mx(domain, &[("mx.far.test", &[hop.address.ip()])]);
    }
    world.send("me@s.test", &FOUR).await;
    world.run();
    world.empty().await;
    let mut all: Vec<_> = hop.taken().iter().map(|t| t.to().join(" ")).collect();
    all.sort();
    assert_eq!(all, ["1@one.test 2@one.test", "3@two.test", "4@three.test"]);
}

#[tokio::test]
async fn too_many_recipients_go_in_further_transactions_at_once() {
    for refusal in ["452 4.5.3 too many", "552 too many"] {
        let hop = Hop::scripted(0, move |command, at| {
            if command.starts_with("RCPT") && at.recipients >= 3 {
                Act::Say(refusal)
            } else {
                Act::Usual
            }
        })
        .await;
        let world = World::routed(smarthost(hop.address)).await;
        let to: Vec<_> = (0..8).map(|n| format!("r{n}@far.test")).collect();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        world.send("me@s.test", &to).await;
        world.run();
        world.empty().await;
        let taken = hop.taken();
        let sizes: Vec<_> = taken.iter().map(|t| t.rcpt.len()).collect();
        assert_eq!(sizes, [3, 3, 2], "{refusal}");
        assert_eq!(hop.connections(), 1);
        let mut all: Vec<_> = taken.iter().flat_map(|t| t.to()).collect();
        all.sort_unstable();
        assert_eq!(all, to);
    }
}

#[tokio::test]
async fn who_is_refused_without_progress_waits() {
    // Nobody is taken at all; and one whose mailbox is full, among others.
    for (refusal, others) in [("452 4.5.3 no", 0), ("452 4.2.2 full", 1), ("552 no", 0)] {
        let hop = Hop::scripted(0, move |command, _| {
            if command.starts_with("RCPT TO:<no") {
                Act::Say(refusal)
            } else {
                Act::Usual
            }
        })
        .await;
        let world = World::routed(smarthost(hop.address)).await;
        let to = &["no@far.test", "yes@far.test"][..=others];
        let id = world.send("me@s.test", to).await;
        world.run();
        assert!(world.last(id, 1).await.starts_with(&refusal[..3]));
        assert_eq!(hop.count("MAIL"), 1);
        assert_eq!(hop.taken().len(), others);
    }
}

#[tokio::test]
async fn several_hops_and_a_message_that_may_have_arrived() {
    let first = Hop::scripted(0, |command, _| match command {
        "END" => Act::Close,
        _ => Act::Usual,
    })
    .await;
    let second = Hop::start(0).await;
    let world = World::routed(crate::routes::hops(&[first.address, second.address])).await;
    let id = world.send("me@s.test", &["bob@far.test"]).await;
    world.run();
    let said = world.last(id, 1).await;
    assert!(said.contains("it may have arrived"), "{said}");
    // Not sent to the second as well: it would come twice.
    assert_eq!((first.taken().len(), second.connections()), (1, 0));
}

#[tokio::test]
async fn several_hops_one_after_the_other() {
    let first = Hop::scripted(0, |command, _| match command {
        c if c.starts_with("RCPT TO:<later") => Act::Say("451 4.7.1 later"),
        c if c.starts_with("RCPT TO:<no") => Act::Say("550 5.1.1 no"),
        _ => Act::Usual,
    })
    .await;
    let second = Hop::start(0).await;
    let world = World::routed(crate::routes::hops(&[first.address, second.address])).await;
    let to = ["a@far.test", "later@far.test", "no@far.test"];
    let id = world
        .send_with("me@s.test", &to, "A: b\r\n\r\nx\r\n", |envelope| {
            for recipient in envelope.recipients_mut() {
                recipient.notify = Some(postroad_mail::Notify::NEVER);
            }
        })
        .await;
    world.run();
    assert!(world.settled(id, 1).await.is_none());
    assert_eq!(first.taken()[0].to(), ["a@far.test"]);
    assert_eq!(second.taken()[0].to(), ["later@far.test"]);
}

#[tokio::test]
async fn a_deferral_is_tried_again_and_the_rest_is_not() {
    let hop = Hop::scripted(0, |command, at| {
        if command.starts_with("RCPT TO:<grey") && at.messages == 0 {
            Act::Say("451 4.7.1 greylisted")
        } else {
            Act::Usual
        }
    })
    .await;
    let world = World::routed(smarthost(hop.address)).await;
    let id = world
        .send("me@s.test", &["grey@far.test", "yes@far.test"])
        .await;
    world.run();
    let listed = world.settled(id, 1).await.unwrap();
    assert_eq!(listed.recipients[1].state, RecipientState::Delivered);
    world.advance(Duration::from_secs(120)).await;
    world.empty().await;
    let to: Vec<_> = hop.taken().iter().map(|t| t.to().join(" ")).collect();
    assert_eq!(to, ["yes@far.test", "grey@far.test"]);
}

/// RFC 3030 section 3: as it is, in chunks that are said to be binary; or converted; or, where a
/// signature forbids that, back to its sender.
#[tokio::test]
async fn binary_mail_goes_in_chunks_or_converted_or_not_at_all() {
    const BINARY: &str = "\0\u{e9}\nbare\r.\n.\r\n\r\n.\r\nend";
    const IMAGE: &str = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: image/x\r\n\r\n";
    const SIGNED: &str = "DKIM-Signature: v=1; b=x\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: image/x\r\n\r\n";
    let all: &[&str] = &["PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME"];
    let no_binary: &[&str] = &["PIPELINING", "8BITMIME", "CHUNKING", "SMTPUTF8"];
    let no_chunks: &[&str] = &["PIPELINING", "8BITMIME", "BINARYMIME", "SMTPUTF8"];
    for (extensions, head, goes) in [
        (all, IMAGE, "as it is"),
        (all, SIGNED, "as it is"),
        (no_binary, IMAGE, "converted"),
        (no_chunks, IMAGE, "converted"),
        (no_chunks, SIGNED, "back"),
    ] {
        let octets = [head, BINARY].concat();
        let octets = octets.as_bytes();
        let world = World::new().await;
        let sender = Hop::start(world.port).await;
        let far = Hop::with(world.port, extensions, Tls::None, |_, _| Act::Usual).await;
        world.mx("s.test", &[("mx.s.test", &[sender.address.ip()])]);
        world.mx("far.test", &[("mx.far.test", &[far.address.ip()])]);
        let binary = |envelope: &mut postroad_mail::Envelope| envelope.body = BodyKind::BinaryMime;
        world
            .send_octets("me@s.test", &["bob@far.test"], octets, binary)
            .await;
        world.run();
        world.empty().await;
        if goes == "back" {
            assert_eq!((far.count("MAIL"), far.count("BDAT")), (0, 0));
            let notice = sender.taken().remove(0);
            assert!(notice.data.contains("\r\nStatus: 5.6.3\r\n"), "{notice:?}");
            continue;
        }
        let taken = far.taken().remove(0);
        assert!(sender.taken().is_empty());
        if goes == "as it is" {
            assert!(taken.mail.contains(" BODY=BINARYMIME"), "{}", taken.mail);
            assert_eq!(taken.octets, octets);
            assert_eq!(far.count("DATA"), 0);
        } else {
            assert!(!taken.mail.contains("BODY="), "{}", taken.mail);
            assert!(taken.data.is_ascii() && !taken.data.contains('\0'));
            assert!(
                taken
                    .data
                    .contains("\r\nContent-Transfer-Encoding: base64\r\n")
            );
        }
    }
}

/// A header that is not ASCII and lines that are too long are none of our business: nothing is
/// encoded, folded or cut on the way.
#[tokio::test]
async fn what_is_odd_of_a_message_goes_as_it_is() {
    let odd = [
        b"Subject: \xfc\r\n\r\n".as_slice(),
        &[b'y'; 2000],
        b"\r\n\xfc \t\r\n",
    ]
    .concat();
    for extensions in [ALL, &["8BITMIME", "CHUNKING"]] {
        let world = World::new().await;
        let hop = Hop::with(world.port, extensions, Tls::None, |_, _| Act::Usual).await;
        world.mx("far.test", &[("mx.far.test", &[hop.address.ip()])]);
        let eight = |envelope: &mut postroad_mail::Envelope| envelope.body = BodyKind::EightBitMime;
        world
            .send_octets("me@s.test", &["bob@far.test"], &odd, eight)
            .await;
        world.run();
        world.empty().await;
        let taken = hop.taken().remove(0);
        assert!(taken.mail.contains(" BODY=8BITMIME"), "{}", taken.mail);
        assert_eq!(taken.octets, odd, "{extensions:?}");
    }
}
