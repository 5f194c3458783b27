//! Messages for hops without 8BITMIME: what they become, and that readers see the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

use std::fmt::Write as _;

use bytes::BytesMut;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{Encoding, MessageParser, PartType};
use postroad_message::downgrade::{Downgrade, NotLegal, Survey};
use postroad_message::fuzz;
use proptest::prelude::*;

fn downgrade(message: &[u8]) -> Result<Vec<u8>, NotLegal> {
    let mut survey = Survey::new();
    survey.push(message);
    let plan = survey.finish()?;
    let (mut downgrade, mut out) = (Downgrade::new(&plan), BytesMut::new());
    downgrade.push(message, &mut out);
    downgrade.finish(&mut out);
    fuzz::downgrade(message, &[1]);
    fuzz::downgrade(message, &[3, 1, 7]);
    Ok(out.to_vec())
}

/// With `\n` for CRLF, both ways.
fn becomes(message: &str, want: &str) {
    let result = downgrade(message.replace('\n', "\r\n").as_bytes()).unwrap();
    let result = String::from_utf8(result).unwrap();
    assert_eq!(result, want.replace('\n', "\r\n"), "{message}");
}

fn refused(message: &str, why: NotLegal) {
    let result = downgrade(message.replace('\n', "\r\n").as_bytes());
    assert_eq!(result.unwrap_err(), why, "{message}");
}

#[test]
fn a_message_without_mime() {
    becomes(
        "Subject: x\n\nGrüße \n-- \nme\n",
        "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe=20\n--=20\nme\n",
    );
}

#[test]
fn text_and_data() {
    let head = "MIME-Version: 1.0\nContent-Type: text/html;\n charset=utf-8\n";
    becomes(
        &format!("{head}content-transfer-encoding :\n 8bit\nSubject: x\n\nü=1\n"),
        &format!("{head}Content-Transfer-Encoding: quoted-printable\nSubject: x\n\n=C3=BC=3D1\n"),
    );
    becomes(
        "Content-Type: image/x\n\nü",
        "Content-Type: image/x\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nw7w=\n",
    );
    // Text that is no text.
    becomes(
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-16\n\na\0\n",
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-16\n\
         Content-Transfer-Encoding: base64\n\nYQANCg==\n",
    );
}

#[test]
fn of_seven_bits_already() {
    for message in [
        "",
        "no header\n",
        "Subject: x\n",
        "DKIM-Signature: x\nContent-Transfer-Encoding: 8bit\n\nhello\n",
        "Content-Type: multipart/mixed\n\nx\n",
        "Content-Type: multipart/mixed; boundary=b\n\n--b--b--\n--b\n",
    ] {
        becomes(message, message);
    }
}

#[test]
fn parts() {
    becomes(
        "Content-Type: multipart/mixed; boundary=\"b\"\n\
         Content-Transfer-Encoding: 8bit\nMIME-Version: 1.0\n\n\
         prelude ü\n\
         --b \n\
         Content-Type: text/plain\nContent-Transfer-Encoding: 8bit\n\nplain\n\n\
         --b\n\
         \nü\n\
         --b\n\
         Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\nw7w=\n\
         --b\n\
         Content-Type: application/pdf\nContent-Transfer-Encoding: BINARY\n\nü\n\n\
         --b--\n\
         epilogue ü\n",
        "Content-Type: multipart/mixed; boundary=\"b\"\n\
         Content-Transfer-Encoding: 7bit\nMIME-Version: 1.0\n\n\
         prelude ??\n\
         --b \n\
         Content-Type: text/plain\nContent-Transfer-Encoding: 7bit\n\nplain\n\n\
         --b\n\
         Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n\
         --b\n\
         Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\nw7w=\n\
         --b\n\
         Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\nw7wNCg==\n\
         --b--\n\
         epilogue ??\n",
    );
}

#[test]
fn messages_within() {
    let mixed = "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=o\n\n";
    becomes(
        &format!(
            "{mixed}--o\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n\
             DKIM-Signature: of the one within\nSubject: y\n\nü\n\
             --o\n\nSubject: z\nContent-Type: multipart/mixed; boundary=i\n\n--i\n\nü\n--i--\n\
             --o\nContent-Type: message/global\n\nSubject: ü\n\n\n--o--\n"
        ),
        &format!(
            "{mixed}--o\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\n\
             DKIM-Signature: of the one within\nSubject: y\nMIME-Version: 1.0\n\
             Content-Type: text/plain; charset=unknown-8bit\n\
             Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n\
             --o\n\nSubject: z\nContent-Type: multipart/mixed; boundary=i\nMIME-Version: 1.0\n\n\
             --i\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--i--\n\
             --o\nContent-Type: message/global\nContent-Transfer-Encoding: base64\n\n\
             U3ViamVjdDogw7wNCg0K\n--o--\n"
        ),
    );
}

#[test]
fn long_lines() {
    let long = "x".repeat(999);
    let lines = format!("{}=\n", "x".repeat(75)).repeat(13) + &"x".repeat(999 - 13 * 75);
    becomes(
        &format!("MIME-Version: 1.0\nContent-Type: text/plain\n\n{long}\n"),
        &format!(
            "MIME-Version: 1.0\nContent-Type: text/plain\n\
             Content-Transfer-Encoding: quoted-printable\n\n{lines}\n"
        ),
    );
    // Of a header they stay, and of what must not change, where they are all.
    let head = format!("MIME-Version: 1.0\nContent-Type: text/plain\nSubject: {long}\n");
    becomes(
        &format!("{head}\nü\n"),
        &format!("{head}Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n"),
    );
    for message in [
        format!("{head}\nx\n"),
        format!("DKIM-Signature: x\n{head}\n{long}\n"),
        format!("Content-Transfer-Encoding: x-unknown\n\n{long}\n"),
    ] {
        becomes(&message, &message);
    }
    let encoded = "YWFh".repeat(300);
    let wrapped: Vec<String> = encoded
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    let head = "MIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n";
    becomes(
        &format!("{head}{encoded}\n"),
        &format!("{head}{}\n", wrapped.join("\n")),
    );
}

#[test]
fn what_must_stay_as_it_is() {
    use NotLegal::*;
    for field in ["DKIM-Signature", "arc-seal", "ARC-Message-Signature"] {
        refused(&format!("{field}: x\n\nü\n"), Signed);
    }
    let signed = "Content-Type: multipart/signed; boundary=b\n\n--b\n\nü\n--b--\n";
    refused(signed, Signed);
    let outer = "Content-Type: multipart/mixed; boundary=o\n\n--o\n";
    refused(&format!("{outer}{signed}--o--\n"), Signed);
    refused("Content-Type: application/pkcs7-mime\n\nü\n", Signed);
    refused("Subject: ü\n\nx\n", EightBitHeader);
    refused(
        &format!("{outer}Content-Disposition: inline; filename=ü\n\nx\n--o--\n"),
        EightBitHeader,
    );
    refused(
        &format!("{outer}Content-Type: message/rfc822\n\nSubject: ü\n\nx\n--o--\n"),
        EightBitHeader,
    );
    for encoding in ["base64", "quoted-printable"] {
        refused(
            &format!("Content-Transfer-Encoding: {encoding}\n\nü\n"),
            Mislabelled,
        );
    }
    refused(
        "Content-Transfer-Encoding: x-uuencode\n\nü\n",
        UnknownEncoding,
    );
    refused("Content-Type: message/partial\n\nü\n", FixedEncoding);
    let deep = (0..40).fold(String::new(), |mut deep, n| {
        write!(
            deep,
            "Content-Type: multipart/mixed; boundary=b{n:03}\n\n--b{n:03}\n"
        )
        .unwrap();
        deep
    });
    refused(&format!("{deep}\nü\n"), TooDeep);
    let many = format!("{outer}\nü\n{}", "--o\n\n".repeat(10_000));
    let result = Survey::new();
    let mut survey = result;
    survey.push(many.replace('\n', "\r\n").as_bytes());
    assert_eq!(survey.finish().unwrap_err(), TooManyParts);
}

#[test]
fn what_readers_would_not_agree_on() {
    let outer = "Content-Type: multipart/mixed; boundary=o\n\n--o\n";
    for message in [
        "Content-Type: multipart/mixed\n\nü\n".to_owned(),
        "Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n\nü\n"
            .to_owned(),
        // Like a boundary, and none.
        format!("{outer}\nü\n--only\n--o--\n"),
        format!("{outer}\nü\n--o--\n--o\n\nx\n"),
        format!("{outer}\nü\n--o--x\n"),
        // No empty line.
        format!("{outer}ü\n--o--\n"),
        "Subject: x\nHello ü\n".to_owned(),
        " Subject: x\n\nü\n".to_owned(),
        "Content-Type: text/plain\nContent-Type: text/html\n\nü\n".to_owned(),
    ] {
        let result = downgrade(message.replace('\n', "\r\n").as_bytes());
        // A line that is none of the header's, and not of ASCII, is both.
        let why = result.unwrap_err();
        assert!(
            matches!(why, NotLegal::Malformed(_) | NotLegal::EightBitHeader),
            "{why}: {message}"
        );
    }
    for message in [
        &b"A: b\n\n\xfc\r\n"[..],
        b"A: b\rc\r\n\r\n\xfc",
        b"A: b\0\r\n\r\n\xfc",
    ] {
        let why = downgrade(message).unwrap_err();
        assert!(matches!(why, NotLegal::Malformed(_)), "{why}");
    }
}

#[test]
fn parts_that_are_signed_do_not_keep_others_from_it() {
    let outer = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=o\n\n--o\n";
    let signed = "Content-Type: multipart/signed; boundary=b\nContent-Transfer-Encoding: 8bit\n\n\
                  --b\nContent-Transfer-Encoding: 8bit\n\nx\n--b\n\nsignature\n--b--\n--o\n";
    becomes(
        &format!("{outer}{signed}\nü\n--o--\n"),
        &format!("{outer}{signed}Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--o--\n"),
    );
}

/// A part of a message, with what is not to be mistaken for a boundary.
#[derive(Clone, Debug)]
enum Part {
    Leaf {
        kind: &'static str,
        label: Option<&'static str>,
        body: Vec<u8>,
    },
    Encoded {
        label: &'static str,
        body: &'static str,
    },
    Multipart(&'static str, Vec<Self>),
    Message(Box<Self>),
}

fn octets() -> impl Strategy<Value = Vec<u8>> {
    let text = prop::collection::vec(
        prop_oneof![
            Just(b"hello ".to_vec()),
            Just(b"\r\n".to_vec()),
            Just("ü".as_bytes().to_vec()),
            Just(b" \t".to_vec()),
            Just(b"=20".to_vec()),
            Just(b".\r\n".to_vec()),
            Just(b"--\r\n".to_vec()),
            Just(vec![b'x'; 1200]),
        ],
        0..12,
    );
    prop_oneof![
        text.prop_map(|words| words.concat()),
        prop::collection::vec(any::<u8>(), 0..300)
            // The reader that is asked takes these for boundaries anywhere in a line.
            .prop_filter("no dashes", |octets| !octets.contains(&b'-')),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let leaf = (
        prop::sample::select(vec![
            "text/plain; charset=utf-8",
            "text/html",
            "image/png",
            "application/x",
        ]),
        prop::sample::select(vec![None, Some("7bit"), Some("8bit"), Some("binary")]),
        octets(),
    )
        .prop_map(|(kind, label, body)| Part::Leaf { kind, label, body });
    let encoded = prop::sample::select(vec![
        ("base64", "YWJj\r\nZGVm"),
        ("quoted-printable", "a=C3=BC=\r\nb"),
    ])
    .prop_map(|(label, body)| Part::Encoded { label, body });
    prop_oneof![4 => leaf, 1 => encoded].prop_recursive(4, 24, 4, |part| {
        prop_oneof![
            (
                prop::sample::select(vec!["mixed", "alternative", "related"]),
                prop::collection::vec(part.clone(), 1..4)
            )
                .prop_map(|(kind, parts)| Part::Multipart(kind, parts)),
            // The reader that is asked loses its way in a message that is all of a message.
            part.prop_map(|part| match part {
                Part::Message(_) => Part::Multipart("mixed", vec![part]),
                part => Part::Message(Box::new(part)),
            }),
        ]
    })
}

/// Writes an entity, its header behind what is there of it.
fn write(part: &Part, count: &mut usize, out: &mut Vec<u8>) {
    match part {
        Part::Leaf { kind, label, body } => {
            out.extend_from_slice(format!("Content-Type: {kind}\r\n").as_bytes());
            if let Some(label) = label {
                let field = format!("Content-Transfer-Encoding: {label}\r\n");
                out.extend_from_slice(field.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(body);
        }
        Part::Encoded { label, body } => {
            let field = format!("Content-Transfer-Encoding: {label}\r\n\r\n{body}");
            out.extend_from_slice(b"Content-Type: application/octet-stream\r\n");
            out.extend_from_slice(field.as_bytes());
        }
        Part::Multipart(kind, parts) => {
            *count += 1;
            let boundary = format!("=_{count:04}");
            let field =
                format!("Content-Type: multipart/{kind};\r\n boundary=\"{boundary}\"\r\n\r\n");
            out.extend_from_slice(field.as_bytes());
            for (n, part) in parts.iter().enumerate() {
                let before = if n == 0 { "" } else { "\r\n" };
                out.extend_from_slice(format!("{before}--{boundary}\r\n").as_bytes());
                write(part, count, out);
            }
            out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        }
        Part::Message(part) => {
            out.extend_from_slice(
                b"Content-Type: message/rfc822\r\n\r\nSubject: within\r\nMIME-Version: 1.0\r\n",
            );
            write(part, count, out);
        }
    }
}

/// The leaves as another reader sees them: decoded.
fn leaves(message: &[u8]) -> Vec<(String, Vec<u8>)> {
    fn walk(raw: &[u8], message: &mail_parser::Message<'_>, leaves: &mut Vec<(String, Vec<u8>)>) {
        for part in &message.parts {
            let kind = part.headers.iter().find(|h| h.name() == "Content-Type");
            let kind = kind.map_or("", |h| {
                let at = h.offset_start() as usize..h.offset_end() as usize;
                std::str::from_utf8(&raw[at]).unwrap().trim()
            });
            match &part.body {
                PartType::Multipart(_) => {}
                PartType::Message(inner) => walk(raw, inner, leaves),
                _ => {
                    let body = &raw[part.offset_body as usize..part.offset_end as usize];
                    let decoded = match part.encoding {
                        Encoding::None => body.to_vec(),
                        Encoding::Base64 => base64_decode(body).unwrap(),
                        Encoding::QuotedPrintable => quoted_printable_decode(body).unwrap(),
                    };
                    leaves.push((kind.to_owned(), decoded));
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(
        message,
        &MessageParser::new().parse(message).unwrap(),
        &mut found,
    );
    found
}

/// What messages are made of, as far as their structure goes.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n--a\r\n",
    b"Content-Type: ",
    b"Content-Transfer-Encoding: ",
    b"multipart/mixed; boundary=",
    b"message/rfc822",
    b"text/plain",
    b"8bit",
    b"base64",
    b"a",
    b"--a",
    b"--",
    b"-",
    b"\xfc",
    b"\n",
    b"\r",
    b" ",
    b":",
    b"x",
    b"\0",
    b"\"",
];

proptest! {
    #[test]
    fn readers_see_the_same(part in part(), cuts in prop::collection::vec(any::<u8>(), 1..8)) {
        let mut message = b"Subject: x\r\nMIME-Version: 1.0\r\n".to_vec();
        write(&part, &mut 0, &mut message);
        fuzz::downgrade(&message, &cuts);
        let result = downgrade(&message).unwrap();
        let (before, after) = (leaves(&message), leaves(&result));
        prop_assert_eq!(before, after, "{}", result.escape_ascii());
    }

    #[test]
    fn any_octets(message in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..40), cuts in prop::collection::vec(0u8..20, 1..6)) {
        fuzz::downgrade(&message.concat(), &cuts);
    }
}
