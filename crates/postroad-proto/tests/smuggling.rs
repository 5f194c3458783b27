//! The published SMTP smuggling sequences: none of them ends DATA.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use kit::{Player, Settings};

/// What was used as a false end of data, by line end before and behind the dot.
fn sequences() -> Vec<Vec<u8>> {
    let ends: [&[u8]; 10] = [
        b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\r\n\0", b"\0\r\n", b"\r\0\n", b"\n\n",
        b"\r\r",
    ];
    let mut all = Vec::new();
    for before in ends {
        for after in ends {
            for dots in [&b"."[..], b".\0", b"\0."] {
                all.push([before, dots, after].concat());
            }
        }
    }
    // The true end, alone or with an empty line around it, is no smuggling; nor is what holds it.
    all.retain(|sequence| !sequence.windows(5).any(|w| w == b"\r\n.\r\n"));
    all
}

fn play(settings: &str, octets: &[u8], step: usize) -> Player {
    let mut player = Player::new(&Settings::parse(settings));
    player.send(b"EHLO a.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    for piece in octets.chunks(step) {
        player.send(piece);
    }
    player
}

fn smuggled(sequence: &[u8]) -> Vec<u8> {
    [
        b"Subject: outer\r\n\r\nouter",
        sequence,
        b"MAIL FROM:<evil@b>\r\nRCPT TO:<victim@d>\r\nDATA\r\nSubject: inner\r\n\r\nx\r\n.\r\nNOOP\r\n",
    ]
    .concat()
}

#[test]
fn refused_by_default() {
    for sequence in sequences() {
        let name = sequence.escape_ascii().to_string();
        for step in [1, 2, 3, 1000] {
            let player = play("relay", &smuggled(&sequence), step);
            assert!(player.messages.is_empty(), "{name}: a message was taken");
            let mails = player
                .log
                .iter()
                .filter(|l| l.starts_with("? Mail"))
                .count();
            assert_eq!(mails, 1, "{name}: the inner commands were obeyed");
            let refused = player
                .log
                .iter()
                .filter(|l| l.starts_with("S: 554 5.6.0"))
                .count();
            assert_eq!(refused, 1, "{name}: {:?}", player.log);
        }
    }
}

#[test]
fn normalized_without_ending() {
    for sequence in sequences() {
        let name = sequence.escape_ascii().to_string();
        for step in [1, 2, 3, 1000] {
            let player = play("relay normalize", &smuggled(&sequence), step);
            let mails = player
                .log
                .iter()
                .filter(|l| l.starts_with("? Mail"))
                .count();
            assert_eq!(mails, 1, "{name}: the inner commands were obeyed");
            if sequence.contains(&0) {
                assert!(player.messages.is_empty(), "{name}: a NUL was taken");
                continue;
            }
            let [message] = player.messages.as_slice() else {
                panic!("{name}: {} messages", player.messages.len());
            };
            let text = String::from_utf8(message.clone()).unwrap();
            assert!(text.contains("MAIL FROM:<evil@b>"), "{name}");
            let bare = text.replace("\r\n", "");
            assert!(
                !bare.contains(['\r', '\n']),
                "{name}: a bare newline was kept"
            );
        }
    }
}

#[test]
fn chunks_are_counted_whatever_they_hold() {
    for sequence in sequences() {
        let octets = smuggled(&sequence);
        for settings in ["relay", "relay normalize"] {
            for step in [1, 1000] {
                let mut player = Player::new(&Settings::parse(settings));
                player.send(b"EHLO a.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
                let command = format!("BDAT {} LAST\r\n", octets.len());
                let stream = [command.as_bytes(), &octets].concat();
                for piece in stream.chunks(step) {
                    player.send(piece);
                }
                let mails = player
                    .log
                    .iter()
                    .filter(|l| l.starts_with("? Mail"))
                    .count();
                assert_eq!(mails, 1, "{}", sequence.escape_ascii());
            }
        }
    }
}
