//! What is bounded, at its bounds: reading on after a failure, and lines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use base64::Engine as _;
use kit::{Player, Settings};

const BEGUN: &str = "EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n";

fn begun(settings: &str) -> Player {
    let mut player = Player::new(&Settings::parse(settings));
    player.send(BEGUN.as_bytes());
    player.log.clear();
    player
}

/// The codes of all replies so far.
fn codes(player: &Player) -> Vec<&str> {
    let replies = player
        .log
        .iter()
        .filter_map(|line| line.strip_prefix("S: "));
    replies.map(|reply| &reply[..9]).collect()
}

/// `Limits::read_on_max` for messages of 1000 octets.
const READ_ON: usize = 2000 + (1 << 20);

#[test]
fn a_failed_message_is_not_read_for_ever() {
    for (fault, code) in [
        ("a\0b\r\n", "554 5.6.0"),
        ("a\nb\r\n", "554 5.6.0"),
        ("\r\n", "552 5.3.4"),
    ] {
        // Where it ends within the bound, the session goes on, unless by a bare newline.
        let filling = |octets: usize| format!("{fault}{}", "x".repeat(octets - fault.len()));
        for (octets, ends) in [(READ_ON - 2, fault == "a\nb\r\n"), (READ_ON - 1, true)] {
            for piece in [1000, usize::MAX] {
                let mut player = begun("relay size=1000 header=900");
                player.send(b"DATA\r\n");
                let said = format!("{}\r\n.\r\nNOOP\r\n", filling(octets));
                for piece in said.as_bytes().chunks(piece) {
                    player.send(piece);
                }
                assert_eq!(player.closed, ends, "{fault:?} {octets}");
                let then = if ends { vec![] } else { vec!["250 2.0.0"] };
                let want = [vec!["354 Start", code], then].concat();
                assert_eq!(codes(&player), want, "{fault:?} {octets}");
            }
        }
        // And where no end comes, it is given up at once.
        let mut player = begun("relay size=1000 header=900");
        player.send(b"DATA\r\n");
        player.send(filling(READ_ON).as_bytes());
        assert!(!player.closed, "{fault:?}");
        player.send(b"x");
        assert!(player.closed, "{fault:?}");
        assert_eq!(codes(&player), ["354 Start", code]);
    }
}

#[test]
fn a_refused_chunk_is_not_read_for_ever() {
    for (size, ends) in [(READ_ON, false), (READ_ON + 1, true)] {
        let mut player = begun("relay size=1000");
        player.send(format!("BDAT {size} LAST\r\n").as_bytes());
        assert_eq!(player.closed, ends, "{size}");
        if !ends {
            assert_eq!(codes(&player), [""; 0]);
            player.send(&vec![b'x'; size]);
            player.send(b"NOOP\r\n");
            assert_eq!(codes(&player), ["552 5.3.4", "250 2.0.0"]);
        } else {
            assert_eq!(codes(&player), ["552 5.3.4"]);
        }
    }
    for limits in [
        "relay size=18446744073709551615",
        "relay size=9223372036854775808",
    ] {
        // What no limit could hold does not overflow either.
        assert!(!begun(limits).closed);
    }
}

/// A legal RCPT line of so many octets, its end included.
fn rcpt(length: usize) -> String {
    let head = "RCPT TO:<";
    let parameters = "> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=";
    let orcpt = 500.min(length - head.len() - parameters.len() - "l@d.example\r\n".len());
    let rest = length - head.len() - parameters.len() - orcpt - "\r\n".len();
    let domain = format!("{}.example", vec!["d".repeat(60); 4].join("."));
    let path = if rest > domain.len() + 1 {
        format!("{}@{domain}", "l".repeat(rest - domain.len() - 1))
    } else {
        format!("{}@d.example", "l".repeat(rest - "@d.example".len()))
    };
    let original = format!("rfc822;{}", "o".repeat(orcpt - "rfc822;".len()));
    format!("{head}{path}{parameters}{original}\r\n")
}

#[test]
fn a_legal_recipient_may_take_a_long_line() {
    for length in 513..=1048 {
        let line = rcpt(length);
        assert_eq!(line.len(), length);
        let mut player = begun("relay");
        player.send(line.as_bytes());
        assert_eq!(codes(&player), ["250 2.1.5"], "{line}");
    }
    // Spaces are no matter: the last octet that may be one, and the first that may not.
    for (length, code) in [(1048, "250 2.1.5"), (1049, "500 5.5.2")] {
        let line = rcpt(700);
        let padded = line.replace(" NOTIFY", &format!("{} NOTIFY", " ".repeat(length - 700)));
        assert_eq!(padded.len(), length);
        let mut player = begun("relay");
        player.send(padded.as_bytes());
        assert_eq!(codes(&player), [code], "{length}");
    }
    // Without DSN there is nothing to make a line longer.
    let mut player = begun("relay no-extensions");
    player.send(rcpt(513).as_bytes());
    assert_eq!(codes(&player), ["500 5.5.2"]);
}

#[test]
fn other_lines_do_not_grow_with_the_parameters_of_some() {
    for (octets, code) in [(512, "250 2.0.0"), (513, "500 5.5.2")] {
        let mut player = begun("submission tls");
        player.send(format!("NOOP {}\r\n", "x".repeat(octets - 7)).as_bytes());
        assert_eq!(codes(&player), [code], "{octets}");
    }
}

#[test]
fn a_line_of_auth_may_be_as_long_as_the_rfc_says() {
    let head = "AUTH PLAIN ";
    for (octets, code) in [(12_288, "235 2.7.0"), (12_289, "500 5.5.6")] {
        let mut player = Player::new(&Settings::parse("submission tls"));
        player.send(b"EHLO c.example\r\n");
        player.log.clear();
        let room = (12_288 - head.len()) / 4 * 3;
        let message = format!("\0u\0{}", "p".repeat(room - 3));
        let encoded = base64::engine::general_purpose::STANDARD.encode(message);
        let spaces = " ".repeat(octets - head.len() - encoded.len());
        player.send(format!("{head}{spaces}{encoded}\r\n").as_bytes());
        assert_eq!(codes(&player), [code], "{octets}");
    }
    // The same where the response has a line to itself.
    for (octets, code) in [(12_288, "235 2.7.0"), (12_289, "500 5.5.6")] {
        let mut player = Player::new(&Settings::parse("submission tls"));
        player.send(b"EHLO c.example\r\nAUTH PLAIN\r\n");
        player.log.clear();
        let message = format!("\0u\0{}", "p".repeat(12_288 / 4 * 3 - 3));
        let mut encoded = base64::engine::general_purpose::STANDARD.encode(message);
        encoded.extend(std::iter::repeat_n('A', octets - encoded.len()));
        player.send(format!("{encoded}\r\n").as_bytes());
        assert_eq!(codes(&player), [code], "{octets}");
    }
}
