//! What peers send must not spoil what we write.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first thing that is not as it must be"
)]

use postroad_mail::*;
use postroad_message::dsn::*;
fn notice(
    from: &str,
    to: Recipient,
    body: BodyKind,
    smtputf8: bool,
    original: &[u8],
    body_at: usize,
) -> (Vec<u8>, Written) {
    let mut envelope = Envelope::new(format!("<{from}>").parse().unwrap(), to);
    envelope.body = body;
    envelope.smtputf8 = smtputf8;
    let at = Timestamp::from_millis(1_795_524_541_000);
    let report = Report {
        action: Action::Failed,
        reporting_mta: "mx.test",
        id: "06a1",
        serial: 2,
        envelope: &envelope,
        arrived: at,
        now: at,
        to: from,
        recipients: vec![RecipientReport {
            recipient: &envelope.recipients()[0],
            status: "5.1.1".parse().unwrap(),
            remote_mta: None,
            diagnostic: "x",
            remote: false,
            last_attempt: at,
            will_retry_until: None,
        }],
        original,
        body_at,
        whole: true,
    };
    let w = report.write();
    ([w.head.clone(), w.body.clone()].concat(), w)
}
#[test]
fn binary_originals_do_not_make_an_untransmittable_notice() {
    let original = b"A: b\r\n\r\nx\ny\0z";
    let (_, w) = notice(
        "me@s.test",
        Recipient::new("b@r.test".parse().unwrap()),
        BodyKind::BinaryMime,
        false,
        original,
        8,
    );
    assert!(
        !w.body.contains(&0),
        "NUL in a notice declared {:?}",
        w.body_kind
    );
}
#[test]
fn a_utf8_original_recipient_is_named() {
    let mut r = Recipient::new("\u{fc}@r.test".parse().unwrap());
    r.original = Some(OriginalRecipient {
        address_type: "utf-8".into(),
        address: "\u{fc}@old.test".into(),
    });
    let (t, _) = notice(
        "me@s.test",
        r,
        BodyKind::EightBitMime,
        true,
        b"A: b\r\n\r\nx\r\n",
        8,
    );
    let t = String::from_utf8(t).unwrap();
    assert!(
        t.contains("Original-Recipient: utf-8; \u{fc}@old.test")
            || t.contains("Original-Recipient: utf-8;\u{fc}@old.test"),
        "{t}"
    );
}
#[test]
fn a_latin1_header_is_not_called_utf8() {
    let (t, _) = notice(
        "me@s.test",
        Recipient::new("b@r.test".parse().unwrap()),
        BodyKind::EightBitMime,
        false,
        b"A: \xfc\r\n\r\nx\r\n",
        8,
    );
    assert!(!String::from_utf8_lossy(&t).contains("message/global"));
}
#[test]
fn a_boundary_in_the_original_is_avoided() {
    let (t, _) = notice(
        "me@s.test",
        Recipient::new("b@r.test".parse().unwrap()),
        BodyKind::SevenBit,
        false,
        b"A: b\r\n\r\n--=_06a1_2--\r\n",
        8,
    );
    let m = mail_parser::MessageParser::default().parse(&t).unwrap();
    let ct = |s: &str| String::from_utf8_lossy(&t).matches(s).count();
    let _ = m;
    assert_eq!(ct("\r\n--=_06a1_2--"), 1);
}
