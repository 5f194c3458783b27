//! Writes out what each command does in each state: the table to review a change by.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use std::fmt::Write as _;

use kit::{Player, Settings};

/// Each state, and how a client gets there.
const STATES: &[(&str, &str)] = &[
    ("Refused", ""),
    ("Start", ""),
    ("Ready", "EHLO c\r\n"),
    (
        "Transaction (no recipient)",
        "EHLO c\r\nMAIL FROM:<a@b>\r\n",
    ),
    (
        "Transaction (all refused)",
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<no@d>\r\n",
    ),
    (
        "Transaction",
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
    ),
    (
        "Transaction (BINARYMIME)",
        "EHLO c\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\n",
    ),
    (
        "Chunks",
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1\r\nx",
    ),
    (
        "Broken",
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1\r\n\0",
    ),
    ("Authenticating", "EHLO c\r\nAUTH LOGIN\r\n"),
    (
        "Data",
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
    ),
];

const COMMANDS: &[&str] = &[
    "HELO c",
    "EHLO c",
    "MAIL FROM:<a@b>",
    "RCPT TO:<e@f>",
    "DATA",
    "BDAT 1",
    "BDAT 1 LAST",
    "RSET",
    "VRFY x",
    "EXPN x",
    "NOOP",
    "HELP",
    "QUIT",
    "STARTTLS",
    "AUTH PLAIN AGEAYg==",
    "AUTH LOGIN",
    "WHAT",
];

fn row(settings: &str, state: &str, path: &str, command: &str) -> String {
    let mut player = Player::new(&Settings::parse(settings));
    if state == "Refused" {
        player
            .answers
            .push(("Connect".to_owned(), "CONNECTION_REFUSED".to_owned()));
    }
    player
        .answers
        .push(("Rcpt <no@d>".to_owned(), "UNKNOWN_RECIPIENT".to_owned()));
    if state == "Refused" || state != "Transaction (all refused)" {
        player.answers.truncate(usize::from(state == "Refused"));
    }
    player.run();
    player.send(path.as_bytes());
    let before = player.log.len();
    let from = player.session.state_name();
    assert!(state.starts_with(from), "{state} is not {from}");
    let chunk = if command.starts_with("BDAT") { "x" } else { "" };
    player.send(format!("{command}\r\n{chunk}").as_bytes());
    let mut said: Vec<&str> = player.log[before..]
        .iter()
        .filter(|line| !line.starts_with(['?', 'M']))
        .map(|line| line.strip_prefix("S: ").unwrap_or(line))
        .map(|line| {
            if line.starts_with('!') {
                line
            } else {
                codes(line)
            }
        })
        .collect();
    said.dedup();
    let to = player.session.state_name();
    let to = if to == from {
        "-".to_owned()
    } else {
        format!("-> {to}")
    };
    format!("  {command:<20} {:<28} {to}", said.join(", "))
}

/// The codes of a reply.
fn codes(line: &str) -> &str {
    let enhanced = line.get(4..).and_then(|rest| rest.split(' ').next());
    match enhanced {
        Some(word)
            if word.split('.').count() == 3 && !word.contains(|c: char| c.is_alphabetic()) =>
        {
            &line[..4 + word.len()]
        }
        _ => &line[..3],
    }
}

fn table(settings: &str) -> String {
    let mut text = String::new();
    for (state, path) in STATES {
        let submission = settings.starts_with("submission");
        let logged_in = settings.contains("logged-in");
        if submission && (path.contains("MAIL") && !logged_in || *state == "Refused") {
            continue;
        }
        if (!submission || logged_in) && *state == "Authenticating" {
            continue;
        }
        // Nobody has logged in who has not said hello.
        if logged_in && *state == "Start" {
            continue;
        }
        writeln!(text, "{state}").unwrap();
        let path = if logged_in {
            path.replacen("EHLO c\r\n", "EHLO c\r\nAUTH PLAIN AGEAYg==\r\n", 1)
        } else {
            (*path).to_owned()
        };
        let settings = settings.replace(" logged-in", "");
        for command in COMMANDS {
            writeln!(text, "{}", row(&settings, state, &path, command).trim_end()).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_table_of_states_and_commands() {
    let mut text =
        "What each command does in each state: the reply, then the next state.\n".to_owned();
    for (title, settings) in [
        ("RELAY", "relay"),
        ("RELAY, under TLS", "relay tls"),
        ("RELAY with AUTH, before AUTH, under TLS", "relay auth tls"),
        ("SUBMISSION, before AUTH, under TLS", "submission tls"),
        ("SUBMISSION, before AUTH, without TLS", "submission"),
        (
            "SUBMISSION, after AUTH, under TLS",
            "submission tls logged-in",
        ),
        (
            "SUBMISSION, after AUTH, under TLS, verify on",
            "submission tls verify logged-in",
        ),
    ] {
        if settings == "submission" {
            writeln!(text, "\n==== {title}\n\nReady").unwrap();
            for command in COMMANDS {
                let line = row(settings, "Ready", "EHLO c\r\n", command);
                writeln!(text, "{}", line.trim_end()).unwrap();
            }
        } else {
            write!(text, "\n==== {title}\n\n{}", table(settings)).unwrap();
        }
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("server_matrix", text);
    });
}
