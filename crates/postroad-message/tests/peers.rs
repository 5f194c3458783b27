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
/// To an ASCII address nothing goes that would need 8BITMIME: it could not be told of its failure.
#[test]
fn a_notice_to_an_ascii_address_is_seven_bit() {
    let recipient = || {
        let mut recipient = Recipient::new("\u{fc}@r.test".parse().unwrap());
        recipient.original = Some(OriginalRecipient {
            address_type: "utf-8".into(),
            address: "\u{fc}@old.test".into(),
        });
        recipient
    };
    for (original, body_at, kind, encoding, back) in [
        // 8-bit in the body only.
        (
            &b"Subject: x\r\n\r\n\xc3\xbc\r\n"[..],
            14,
            "rfc822-headers",
            "7bit",
            "Subject: x\r\n",
        ),
        // In the header too: no octet of it is lost.
        (
            b"Subject: \xc3\xbc =\r\n\r\n\xc3\xbc\r\n",
            17,
            "rfc822-headers",
            "quoted-printable",
            "Subject: =C3=BC =3D\r\n",
        ),
        // Latin-1 is no UTF-8, and nothing calls it so.
        (
            b"Subject: \xfc\r\n\r\nx\r\n",
            14,
            "rfc822-headers",
            "quoted-printable",
            "Subject: =FC\r\n",
        ),
        (
            b"Subject: x\r\n\r\nx\r\n",
            14,
            "rfc822",
            "7bit",
            "Subject: x\r\n\r\nx\r\n",
        ),
    ] {
        let (notice, written) = notice(
            "me@s.test",
            recipient(),
            BodyKind::EightBitMime,
            true,
            original,
            body_at,
        );
        assert_eq!(written.body_kind, BodyKind::SevenBit);
        assert!(notice.is_ascii());
        let text = String::from_utf8(notice).unwrap();
        for part in [
            "Final-Recipient: utf-8; \\x{FC}@r.test\r\n",
            "Original-Recipient: utf-8; \\x{FC}@old.test\r\n",
            "Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit\r\n",
            &format!("/{kind}\r\nContent-Transfer-Encoding: {encoding}\r\n"),
            &format!("\r\n\r\n{back}"),
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("global"), "{text}");
        let parsed = mail_parser::MessageParser::default().parse(&text).unwrap();
        assert_eq!(parsed.parts.len(), 4);
    }
}

/// To an address that needs SMTPUTF8 all goes as it is: the way has 8BITMIME (RFC 6531 section 3.1).
#[test]
fn a_notice_to_an_international_address_is_eight_bit() {
    let mut recipient = Recipient::new("\u{fc}@r.test".parse().unwrap());
    recipient.original = Some(OriginalRecipient {
        address_type: "utf-8".into(),
        address: "\u{fc}@old.test".into(),
    });
    let (notice, written) = notice(
        "m\u{fc}@s.test",
        recipient,
        BodyKind::EightBitMime,
        true,
        "Subject: \u{fc}\r\n\r\n\u{fc}\r\n".as_bytes(),
        15,
    );
    assert_eq!(written.body_kind, BodyKind::EightBitMime);
    let text = String::from_utf8(notice).unwrap();
    for part in [
        "\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: multipart/report",
        "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n",
        "Final-Recipient: utf-8; \u{fc}@r.test\r\n",
        "Original-Recipient: utf-8; \u{fc}@old.test\r\n",
        "Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n",
        "\r\n\r\nSubject: \u{fc}\r\n\r\n\u{fc}\r\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
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
