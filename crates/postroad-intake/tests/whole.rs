//! Whole messages through intake: what is stored, however the content was cut.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first thing that is not as it must be"
)]

use postroad_intake::{ByDomain, Config, Intake, RcptAsked, RoutePreview, shown_recipients};
use postroad_mail::{BodyKind, Envelope, Origin, Recipient, Reply, Timestamp};
use postroad_proto::server::{Hello, Info, Peer};
use postroad_queue::{BoxFuture, Filter, Lane, MemStore, Store};
use std::sync::Arc;

async fn run(
    config: Config,
    helo: &str,
    body: BodyKind,
    to: &str,
    pieces: &[&[u8]],
) -> Result<(Vec<u8>, Envelope), String> {
    let store: Arc<dyn Store> = Arc::new(MemStore::new(1 << 20));
    let peer = Peer {
        address: [192, 0, 2, 1].into(),
        trusted: false,
        tls: None,
    };
    let info = Info {
        peer,
        hello: Some(Hello {
            name: helo.to_owned(),
            extended: true,
        }),
        identity: None,
    };
    let mut envelope = Envelope::new(
        "<a@b.example>".parse().unwrap(),
        Recipient::new(to.parse().unwrap()),
    );
    envelope.body = body;
    let now = Timestamp::from_millis(1_795_524_541_000);
    let mut intake =
        Intake::begin(now, Arc::new(config), &store, &info, envelope).map_err(|r| r.to_string())?;
    for piece in pieces {
        intake.body(bytes::Bytes::copy_from_slice(piece)).await;
    }
    let (id, _) = intake
        .commit(now, &ByDomain)
        .await
        .map_err(|r| r.to_string())?;
    let content = store.content(id).await.unwrap();
    let mut out = Vec::new();
    while (out.len() as u64) < content.len() {
        out.extend_from_slice(&content.read(out.len() as u64, 1 << 20).await.unwrap());
    }
    let listed = store.page(&Default::default(), None, 10).await.unwrap();
    let text = String::from_utf8_lossy(&out)
        .replace(&id.to_string(), "ID")
        .into_bytes();
    Ok((text, listed.first().unwrap().envelope.clone()))
}
fn config(host: &str) -> Config {
    Config::new(host.parse().unwrap(), "relay")
}

#[tokio::test]
async fn any_cut_gives_the_same_message() {
    for message in [
        "A: b\r\n\r\nbody\r\n",
        "no header\r\n\r\nx",
        "A: b\r\nnot a field\r\n",
        "",
        "\r\n",
        "A: b",
        "A: b\r\n\r",
    ] {
        let m = message.as_bytes();
        let whole = run(
            config("mx.example"),
            "c",
            BodyKind::SevenBit,
            "c@d.example",
            &[m],
        )
        .await
        .unwrap()
        .0;
        for a in 0..=m.len() {
            for b in a..=m.len() {
                let cut = run(
                    config("mx.example"),
                    "c",
                    BodyKind::SevenBit,
                    "c@d.example",
                    &[&m[..a], &m[a..b], &m[b..]],
                )
                .await
                .unwrap()
                .0;
                assert_eq!(cut, whole, "{message:?} {a} {b}");
            }
        }
    }
}
#[tokio::test]
async fn an_eight_bit_helo_does_not_make_the_header_eight_bit() {
    let (m, e) = run(
        config("mx.example"),
        "b\u{fc}cher",
        BodyKind::EightBitMime,
        "c@d.example",
        &[b"A: b\r\n\r\nx\r\n"],
    )
    .await
    .unwrap();
    assert!(
        m.is_ascii(),
        "declared {:?}: {}",
        e.body,
        String::from_utf8_lossy(&m)
    );
}
#[tokio::test]
async fn a_u_label_hostname_is_written_in_a_labels() {
    let mut c = config("b\u{fc}cher.example");
    c.fix_up = true;
    let (m, _) = run(
        c,
        "c",
        BodyKind::SevenBit,
        "c@d.example",
        &[b"A: b\r\n\r\nx\r\n"],
    )
    .await
    .unwrap();
    assert!(m.is_ascii(), "{}", String::from_utf8_lossy(&m));
}
/// RFC 5321 section 6.4: a relay adds its trace and mends nothing; a submission server does.
#[tokio::test]
async fn only_a_submission_is_given_a_date_and_an_id() {
    for (service, fields) in [
        ("relay", &["Received", "A"][..]),
        ("submission", &["Received", "Date", "Message-ID", "A"]),
    ] {
        let config = Config::new("mx.example".parse().unwrap(), service);
        let (message, _) = run(
            config,
            "c",
            BodyKind::SevenBit,
            "c@d.example",
            &[b"A: b\r\n\r\nx\r\n"],
        )
        .await
        .unwrap();
        let text = String::from_utf8(message).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let names: Vec<_> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .filter_map(|line| line.split(':').next())
            .collect();
        assert_eq!((names.as_slice(), body), (fields, "x\r\n"), "{service}");
    }
}
#[tokio::test]
async fn bare_lf_binary_content_keeps_its_bytes() {
    let (m, _) = run(
        config("mx.example"),
        "c",
        BodyKind::BinaryMime,
        "c@d.example",
        &[b"A: b\n\nx\n"],
    )
    .await
    .unwrap();
    assert!(
        m.ends_with(b"A: b\n\nx\n"),
        "{:?}",
        String::from_utf8_lossy(&m)
    );
}
#[tokio::test]
async fn the_postmasters_own_address_stays_private() {
    let mut c = config("mx.example");
    c.postmaster = Some("secret@inside.example".parse().unwrap());
    let (m, e) = run(
        c,
        "c",
        BodyKind::SevenBit,
        "postmaster@mx.example",
        &[b"A: b\r\n\r\nx\r\n"],
    )
    .await
    .unwrap();
    assert_eq!(
        e.recipients()[0].address.to_string(),
        "secret@inside.example"
    );
    assert!(
        !String::from_utf8_lossy(&m).contains("secret@"),
        "{}",
        String::from_utf8_lossy(&m)
    );
}
#[tokio::test]
async fn a_loop_and_a_large_header_are_refused() {
    let looped = "Received: x\r\n".repeat(100) + "\r\nx";
    assert!(
        run(
            config("mx.example"),
            "c",
            BodyKind::SevenBit,
            "c@d.example",
            &[looped.as_bytes()]
        )
        .await
        .unwrap_err()
        .starts_with("554 5.4.6")
    );
    let big = format!("A: {}\r\n\r\nx", "y".repeat(300_000));
    assert!(
        run(
            config("mx.example"),
            "c",
            BodyKind::SevenBit,
            "c@d.example",
            &[big.as_bytes()]
        )
        .await
        .unwrap_err()
        .starts_with("554 5.6.0")
    );
}
#[tokio::test]
async fn the_line_of_an_mbox_is_kept_and_is_no_field() {
    let (m, _) = run(
        config("mx.example"),
        "c",
        BodyKind::SevenBit,
        "c@d.example",
        &[b"From a@b Tue Nov 24 2026\r\nA: b\r\n\r\nFrom x\r\n"],
    )
    .await
    .unwrap();
    let text = String::from_utf8(m).unwrap();
    assert!(
        text.ends_with("\r\nX-Mailbox-Line: From a@b Tue Nov 24 2026\r\nA: b\r\n\r\nFrom x\r\n"),
        "{text}"
    );
}
#[tokio::test]
async fn orcpt_keeps_the_postmasters_name_that_the_sender_knows() {
    let mut c = config("mx.example");
    c.postmaster = Some("secret@inside.example".parse().unwrap());
    for (to, original) in [
        (
            "postmaster@mx.example",
            Some("rfc822;postmaster@mx.example"),
        ),
        ("secret@inside.example", None),
    ] {
        let (_, e) = run(
            c.clone(),
            "c",
            BodyKind::SevenBit,
            to,
            &[b"A: b\r\n\r\nx\r\n"],
        )
        .await
        .unwrap();
        let recipient = &e.recipients()[0];
        assert_eq!(recipient.address.to_string(), "secret@inside.example");
        let shown = recipient.original.as_ref().map(ToString::to_string);
        assert_eq!(shown.as_deref(), original);
    }
}

/// Lanes are the router's word; it hears of the whole message.
#[derive(Debug)]
struct Alternating;
impl RoutePreview for Alternating {
    fn lanes<'a>(
        &'a self,
        envelope: &'a Envelope,
        origin: &'a Origin,
        size: u64,
    ) -> BoxFuture<'a, Vec<Lane>> {
        assert_eq!(origin.service, "relay");
        assert!(size > 20);
        let lane = |n: usize| Lane::new(["even", "odd"][n % 2]);
        let count = envelope.recipients().len();
        Box::pin(std::future::ready((0..count).map(lane).collect()))
    }
    fn refusal<'a>(&'a self, _: &'a RcptAsked<'a>) -> BoxFuture<'a, Option<Reply>> {
        Box::pin(std::future::ready(None))
    }
}
#[tokio::test]
async fn the_routes_choose_the_lanes_and_two_recipients_are_not_told_of_each_other() {
    let store: Arc<dyn Store> = Arc::new(MemStore::new(1 << 20));
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
    let now = Timestamp::from_millis(1_795_524_541_000);
    let mut envelope = Envelope::new(
        "<a@b.example>".parse().unwrap(),
        Recipient::new("one@d.example".parse().unwrap()),
    );
    envelope.push(Recipient::new("two@d.example".parse().unwrap()));
    for (routes, lanes) in [
        (&Alternating as &dyn RoutePreview, "even odd"),
        (&ByDomain, "d.example d.example"),
    ] {
        let config = Arc::new(config("mx.example"));
        let mut intake = Intake::begin(now, config, &store, &info, envelope.clone()).unwrap();
        intake.body("A: b\r\n\r\nx\r\n".into()).await;
        let (id, _) = intake.commit(now, routes).await.unwrap();
        let content = store
            .content(id)
            .await
            .unwrap()
            .read(0, 4096)
            .await
            .unwrap();
        let head = String::from_utf8_lossy(&content);
        assert!(
            !head.contains(" for ") && !head.contains("one@") && !head.contains("two@"),
            "{head}"
        );
        let filter = Filter {
            ids: vec![id],
            ..Filter::default()
        };
        let listed = store.page(&filter, None, 1).await.unwrap().remove(0);
        let found: Vec<_> = listed.recipients.iter().map(|r| r.lane.as_str()).collect();
        assert_eq!(found.join(" "), lanes);
    }
}
#[test]
fn a_log_line_names_a_few_recipients() {
    let recipient = |n: usize| Recipient::new(format!("r{n}@d.example").parse().unwrap());
    let mut envelope = Envelope::new("<>".parse().unwrap(), recipient(0));
    assert_eq!(shown_recipients(&envelope), "r0@d.example");
    (1..1000).for_each(|n| envelope.push(recipient(n)));
    let shown = shown_recipients(&envelope);
    assert!(shown.starts_with("r0@d.example r1@d.example "));
    assert!(shown.ends_with(" r9@d.example \u{2026}"), "{shown}");
}
