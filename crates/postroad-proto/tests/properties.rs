//! What holds for any input: run here on random dialogues, and by a fuzzer on worse ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use proptest::collection::vec;
use proptest::prelude::*;

/// Lines that lead somewhere, among them octets that do not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<&'static [u8]> = vec![
        b"EHLO a.example\r\n",
        b"HELO a\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"MAIL FROM:<a@b> BODY=BINARYMIME SIZE=9\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"DATA\r\n",
        b"BDAT 5\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 7 LAST\r\n",
        b"BDAT 99999\r\n",
        b"BDAT 99999999999\r\n",
        b"BDAT 5\n",
        b"DATA\n",
        b"NOOP\rDATA\r\n",
        b"RSET\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"AUTH LOGIN\r\n",
        b"YQ==\r\n",
        b"*\r\n",
        b"HELP\r\n",
        b"VRFY a\r\n",
        b"NOOP\r\n",
        b"Subject: x\r\n\r\n",
        b"\r\n.\r\n",
        b".\r\n",
        b"\r",
        b"\n",
        b".",
        b"\0",
    ];
    prop_oneof![
        8 => proptest::sample::select(lines).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 0..15_000_usize).prop_map(|(octet, n)| vec![octet; n]),
    ]
}

/// A dialogue; most get as far as content.
fn dialogue(pieces: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let start: Vec<&'static [u8]> = vec![
        b"",
        b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
        b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
        b"EHLO a\r\nAUTH PLAIN AGEAYg==\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
        b"EHLO a\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\nBDAT 9\r\n",
    ];
    (proptest::sample::select(start), vec(piece(), pieces))
        .prop_map(|(start, pieces)| [start, &pieces.concat()].concat())
}

/// What a client may say to PLAIN or LOGIN, and what none should.
fn response() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-z]{0,2}\u{0}?[a-z\u{fc}]{0,3}\u{0}?[a-z]{0,3}\u{0}?".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_session_keeps_its_contract(
        input in dialogue(0..40),
        cuts in vec(any::<u8>(), 1..8),
        choices in vec(any::<u8>(), 2..12),
    ) {
        postroad_proto::fuzz::server_session(kit::start(), &input, &cuts, &choices);
    }

    #[test]
    fn commands_never_panic(line in vec(any::<u8>(), 0..200)) {
        postroad_proto::fuzz::command(&line);
    }

    #[test]
    fn sasl_exchanges_keep_their_contract(
        responses in vec(response(), 0..5),
        challenges in vec(vec(any::<u8>(), 0..20), 0..5),
    ) {
        let responses: Vec<_> = responses.iter().map(Vec::as_slice).collect();
        let challenges: Vec<_> = challenges.iter().map(Vec::as_slice).collect();
        postroad_proto::fuzz::sasl(&responses, &challenges);
    }

    #[test]
    fn the_split_of_the_input_changes_nothing(
        input in dialogue(0..25),
        at in any::<proptest::sample::Index>(),
        normalize in any::<bool>(),
    ) {
        let settings = if normalize { "submission tls normalize size=200 header=40" }
            else { "relay no-starttls size=200 header=40" };
        let settings = kit::Settings::parse(settings);
        let mut whole = kit::Player::new(&settings);
        whole.send(&input);
        let mut cut = kit::Player::new(&settings);
        let (a, b) = input.split_at(at.index(input.len() + 1));
        cut.send(a);
        cut.send(b);
        prop_assert_eq!(&whole.log, &cut.log);
        prop_assert_eq!(&whole.messages, &cut.messages);
    }
}
