//! Dialogues as files: each is played as it stands, then with the client's octets cut anywhere.
//!
//! `UPDATE=1 cargo test -p postroad-proto --test transcripts` writes the server's side anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use kit::{Player, Settings, unescape};
use postroad_mail::replies;
use postroad_proto::command::{Command, Verb};

/// Rows that a role's answers or the driver bring, never the session of itself; those that a
/// transcript shows are shown as such an answer.
const OF_ROLES: &[&str] = &[
    "TOO_MANY_CONNECTIONS",
    "LOOKUP_FAILED",
    "CONNECTION_REFUSED",
    "NO_SUCH_DOMAIN",
    "NO_MAIL_HOST",
    "MX_LOOP",
    "NULL_MX",
    "ALIAS_UNAVAILABLE",
    "ALIAS_UNUSABLE",
    "ALIAS_LOOP",
    "ALIAS_TOO_LARGE",
];

/// What the client's side of a transcript does.
enum Act {
    Keep(String),
    Send(String, Vec<u8>),
    Event(String),
}

struct Transcript {
    settings: String,
    acts: Vec<Act>,
    answers: Vec<(String, String)>,
}

fn parse(text: &str) -> Transcript {
    let mut lines = text.lines();
    let settings = lines.next().unwrap().strip_prefix("= ").unwrap().to_owned();
    let (mut acts, mut answers) = (Vec::new(), Vec::new());
    let mut group: Option<(String, Vec<u8>)> = None;
    for line in lines {
        let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
        match tag {
            "C:" | "C+:" | "C>:" => {
                let (mut shown, mut octets) = group.take().unwrap_or_default();
                shown.push_str(line);
                shown.push('\n');
                octets.extend(unescape(rest));
                if tag != "C>:" {
                    octets.extend(b"\r\n");
                }
                if tag == "C+:" {
                    group = Some((shown, octets));
                } else {
                    acts.push(Act::Send(shown, octets));
                }
            }
            "@" => acts.push(Act::Event(rest.to_owned())),
            "?" => {
                if let Some((question, answer)) = rest.split_once(" -> ") {
                    answers.push((question.to_owned(), answer.to_owned()));
                }
            }
            "#" | "" => acts.push(Act::Keep(line.to_owned())),
            "S:" | "!" | "M:" | "M>:" => {}
            _ => panic!("what is this? {line}"),
        }
    }
    Transcript {
        settings,
        acts,
        answers,
    }
}

fn player(transcript: &Transcript) -> Player {
    let mut player = Player::new(&Settings::parse(&transcript.settings));
    player.answers.clone_from(&transcript.answers);
    player
}

/// Plays the transcript and writes it down as it went.
fn play_straight(transcript: &Transcript) -> (String, Player) {
    let mut player = player(transcript);
    let mut text = format!("= {}\n", transcript.settings);
    let mut shown = 0;
    let mut greeted = false;
    for act in &transcript.acts {
        if !greeted && !matches!(act, Act::Keep(_)) {
            greeted = true;
            if !matches!(act, Act::Event(e) if e == "early") {
                player.run();
            }
            flush(&player, &mut shown, &mut text);
        }
        match act {
            Act::Keep(line) => text += line,
            Act::Send(line, octets) => {
                text += line.trim_end_matches('\n');
                player.send(octets);
            }
            Act::Event(event) => {
                text += &format!("@ {event}");
                player.event(event);
            }
        }
        text.push('\n');
        flush(&player, &mut shown, &mut text);
    }
    assert!(
        player.answers.is_empty(),
        "never asked: {:?}",
        player.answers
    );
    (text, player)
}

fn flush(player: &Player, shown: &mut usize, text: &mut String) {
    for line in &player.log[*shown..] {
        *text += line;
        text.push('\n');
    }
    *shown = player.log.len();
}

/// Plays it again, each write of the client cut by `pieces`.
fn play_cut(transcript: &Transcript, mut cut: impl FnMut(&mut Player, &[u8])) -> Player {
    let mut player = player(transcript);
    if !matches!(transcript.acts.iter().find(|a| !matches!(a, Act::Keep(_))),
        Some(Act::Event(e)) if e == "early")
    {
        player.run();
    }
    for act in &transcript.acts {
        match act {
            Act::Keep(_) => {}
            Act::Send(_, octets) => cut(&mut player, octets),
            Act::Event(event) => player.event(event),
        }
    }
    player
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "smtp"))
        .collect();
    files.sort();
    files
}

#[test]
fn as_they_stand() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let (played, _) = play_straight(&parse(&text));
        if update {
            std::fs::write(&path, played).unwrap();
        } else if played != text {
            let at = played.lines().zip(text.lines()).find(|(a, b)| a != b);
            wrong.push(format!("{}: {at:?}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "(played, written) differ:\n{}",
        wrong.join("\n")
    );
}

/// What comes in one write with STARTTLS is thrown away, and what comes after it is not: where
/// something stands behind STARTTLS, the places between the two, counted over all the client's
/// octets, are those where a cut matters, by design.
fn behind_starttls(transcript: &Transcript) -> Vec<Range<usize>> {
    const STARTTLS: &[u8] = b"STARTTLS\r\n";
    let mut start = 0;
    let mut ranges = Vec::new();
    for act in &transcript.acts {
        let Act::Send(_, octets) = act else { continue };
        let found = octets.windows(STARTTLS.len()).position(|w| w == STARTTLS);
        if let Some(at) = found {
            ranges.push(start + at + STARTTLS.len()..start + octets.len());
        }
        start += octets.len();
    }
    ranges.retain(|range| !range.is_empty());
    ranges
}

#[test]
fn however_the_input_is_cut() {
    let mut over_starttls = 0;
    for path in files() {
        let transcript = parse(&std::fs::read_to_string(&path).unwrap());
        let whole = behind_starttls(&transcript);
        let matters = |at: usize| whole.iter().any(|range| range.contains(&at));
        over_starttls += whole.len();
        let (_, straight) = play_straight(&transcript);
        let same = |cut: Player, how: String| {
            assert_eq!(cut.log, straight.log, "{} {how}", path.display());
            assert_eq!(cut.messages, straight.messages, "{} {how}", path.display());
        };
        let mut at = 0;
        let single = play_cut(&transcript, |player, octets| {
            let mut piece = Vec::new();
            for octet in octets {
                piece.push(*octet);
                at += 1;
                if !matters(at) {
                    player.send(&std::mem::take(&mut piece));
                }
            }
        });
        same(single, "octet by octet".to_owned());
        let sent: Vec<u8> = transcript
            .acts
            .iter()
            .filter_map(|act| match act {
                Act::Send(_, octets) => Some(octets.as_slice()),
                Act::Keep(_) | Act::Event(_) => None,
            })
            .collect::<Vec<_>>()
            .concat();
        let places = (0..=sent.len()).filter(|&at| !matters(at) && !within_filling(&sent, at));
        for at in places {
            let mut before = 0;
            let cut = play_cut(&transcript, |player, octets| {
                let (a, b) = octets.split_at(at.saturating_sub(before).min(octets.len()));
                before += octets.len();
                player.send(a);
                player.send(b);
            });
            same(cut, format!("cut at {at}"));
        }
    }
    assert!(
        over_starttls > 0,
        "no transcript has anything behind STARTTLS"
    );
}

/// Whether a place is deep inside a run of one octet, over and over: all such places are alike,
/// and the only ones where the input is not cut in two.
fn within_filling(octets: &[u8], at: usize) -> bool {
    const DEEP: usize = 64;
    // Except where a limit on lines is reached within one.
    let near_a_limit = [512, 1048, 12_288].iter().any(|limit| {
        let line = octets[..at]
            .rsplit(|&b| b == b'\n')
            .next()
            .unwrap_or_default();
        line.len().abs_diff(*limit) <= 4
    });
    at.checked_sub(DEEP)
        .and_then(|from| octets.get(from..at + DEEP))
        .is_some_and(|around| around.iter().all(|octet| octet == &octets[at]))
        && !near_a_limit
}

#[test]
fn every_reply_of_the_session_is_shown() {
    let mut said = BTreeSet::new();
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        said.extend(
            text.lines()
                .filter_map(|line| line.strip_prefix("S: "))
                .map(str::to_owned),
        );
    }
    let mut missing = Vec::new();
    for (name, reply) in replies::ALL {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        let out = String::from_utf8(out).unwrap();
        let line = out.lines().next().unwrap().to_owned();
        // Rows whose text is replaced are known by their codes.
        let shown = match *name {
            "GREETING" => said.iter().any(|l| l.ends_with("ESMTP Postroad")),
            "HELLO" => said.contains("250 mx.example.org"),
            "CHALLENGE" => said.iter().any(|l| l.starts_with("334 ")),
            "BAD_ARGUMENTS" => said.iter().any(|l| l.starts_with("501 5.5.4 Syntax")),
            "UNKNOWN_PARAMETER" => said.iter().any(|l| l.starts_with("555 5.5.4 Parameter")),
            "WILL_FORWARD" => said.iter().any(|l| l.starts_with(&format!("{line} <"))),
            "QUEUED" => said.contains("250 2.0.0 Queued as Q1"),
            _ => said.contains(&line),
        };
        if !shown && !OF_ROLES.contains(name) {
            missing.push(*name);
        }
    }
    assert!(missing.is_empty(), "no transcript shows {missing:?}");
}

/// Each verb, as a line that the session has answered and knew: no line of content, no 500.
#[test]
fn every_command_is_shown_on_both_services() {
    for service in ["relay", "submission"] {
        let mut shown = BTreeSet::new();
        for path in files() {
            let text = std::fs::read_to_string(&path).unwrap();
            let settings = text.lines().next().unwrap();
            if settings.split(' ').nth(1) != Some(service) {
                continue;
            }
            for (line, next) in text.lines().zip(text.lines().skip(1)) {
                let command = line
                    .strip_prefix("C: ")
                    .and_then(|line| Command::parse(line.as_bytes()));
                let answered = next.starts_with("? ") || next.starts_with("S: ");
                if let Some(command) = command
                    && answered
                    && !next.starts_with("S: 500")
                {
                    shown.insert(command.verb.name());
                }
            }
        }
        let missing: Vec<_> = Verb::ALL
            .iter()
            .map(|verb| verb.name())
            .filter(|name| !shown.contains(name))
            .collect();
        assert!(
            missing.is_empty(),
            "no {service} transcript shows {missing:?}"
        );
    }
}
