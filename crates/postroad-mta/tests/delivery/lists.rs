//! Members of lists: mail to them has a reverse-path of its own, and so have the notices.

use std::future::ready;
use std::sync::Arc;

use postroad_intake::{AliasPreview, Expansion, Member};
use postroad_mail::{Address, Domain, Ret};
use postroad_queue::BoxFuture;

use crate::hop::{Act, At, Hop, Tls};
use crate::kit::World;

/// Who looks after the list is an alias too.
#[derive(Debug)]
struct Owners;

impl AliasPreview for Owners {
    fn expand<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Expansion> {
        Box::pin(ready(if address.to_string() == "owner-l@lists.test" {
            Expansion::Members(vec![Member {
                address: "olga@s.test".parse().unwrap(),
                from: None,
            }])
        } else {
            Expansion::Itself
        }))
    }

    fn is_alias_domain(&self, domain: &Domain) -> bool {
        domain.ascii() == "lists.test"
    }
}

async fn with_owners() -> World {
    World::with(postroad_routing::SharedRouter::default(), |config| {
        config.aliases = Arc::new(Owners);
    })
    .await
}

fn some_are_unknown(command: &str, _: At) -> Act {
    if command.starts_with("RCPT TO:<bob") || command.starts_with("RCPT TO:<carl") {
        Act::Say("550 5.1.1 nobody of that name")
    } else {
        Act::Usual
    }
}

#[tokio::test]
async fn each_reverse_path_has_its_own_transaction_and_its_own_notice() {
    let world = with_owners().await;
    let sender = Hop::with(world.port, &[], Tls::None, |_, _| Act::Usual).await;
    let far = Hop::with(world.port, &["DSN"], Tls::None, some_are_unknown).await;
    world.mx("s.test", &[("mx.s.test", &[sender.address.ip()])]);
    world.mx("far.test", &[("mx.far.test", &[far.address.ip()])]);
    let to = [
        "ann@far.test",
        "bob@far.test",
        "carl@far.test",
        "dan@far.test",
    ];
    world
        .send_with(
            "me@s.test",
            &to,
            "Subject: x\r\n\r\nhello\r\n",
            |envelope| {
                envelope.envid = Some("E1".to_owned());
                envelope.ret = Some(Ret::Headers);
                let list = "<owner-l@lists.test>".parse().unwrap();
                for member in &mut envelope.recipients_mut()[2..] {
                    member.from = Some(Clone::clone(&list));
                }
            },
        )
        .await;
    world.run();
    world.empty().await;
    let mut sent: Vec<_> = far
        .taken()
        .into_iter()
        .map(|taken| format!("{} {}", taken.mail, taken.rcpt.join(" ")))
        .collect();
    sent.sort();
    assert_eq!(sent.len(), 2);
    assert!(
        sent[0].starts_with("MAIL FROM:<me@s.test> RET=HDRS ENVID=E1"),
        "{sent:?}"
    );
    assert!(
        sent[0].contains("<ann@far.test>") && !sent[0].contains("dan"),
        "{sent:?}"
    );
    assert!(
        sent[1].starts_with("MAIL FROM:<owner-l@lists.test>"),
        "{sent:?}"
    );
    assert!(
        !sent[1].contains("RET=") && !sent[1].contains("ENVID="),
        "{sent:?}"
    );
    assert!(
        sent[1].contains("<dan@far.test>") && !sent[1].contains("ann"),
        "{sent:?}"
    );

    let notices = sender.taken();
    assert_eq!(notices.len(), 2);
    for (to, about, other, envid) in [
        ("me@s.test", "bob@far.test", "carl@far.test", true),
        ("olga@s.test", "carl@far.test", "bob@far.test", false),
    ] {
        let to = format!("RCPT TO:<{to}>");
        let notice = notices.iter().find(|n| n.rcpt[0].starts_with(&to)).unwrap();
        assert!(notice.mail.starts_with("MAIL FROM:<>"));
        assert!(notice.data.contains(about) && !notice.data.contains(other));
        assert_eq!(notice.data.contains("Original-Envelope-Id: E1"), envid);
        // RET= was the sender's word.
        assert_eq!(notice.data.contains("hello"), !envid);
    }
}
