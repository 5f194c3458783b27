//! What a hop does, in words.

use std::str::FromStr;

/// What a hop does, in words: rules, with `;` between them.
///
/// ```text
/// RCPT bob: 550 5.1.1 no such user; END: cut 4
/// ```
///
/// A rule is about an event: `GREETING` (a connection has been made), a command (`EHLO`, `HELO`,
/// `LHLO`, `STARTTLS`, `AUTH`, `MAIL`, `RCPT`, `DATA`, `BDAT`, `RSET`, `QUIT`), `TLS` (the client is
/// about to begin its handshake), `RESPONSE` (a line of an AUTH dialogue), `END` (of the message: the final
/// dot, or the last chunk; under LMTP once for each recipient). A word behind it must be in the
/// line; `#2` means the second such event only, `#1` the first.
///
/// | what it does | |
/// |---|---|
/// | `550 5.1.1 no` | says that; ` / ` begins another line |
/// | `send "250 a\r\n" "x"*3` | sends these octets, with `\r`, `\n`, `\0`, `\"`, `\\`, `\xff`; three times what stands before `*3` |
/// | `flood "250-a\r\n"` | sends these octets without end |
/// | `cut 4` | sends so many octets of the usual reply, and closes |
/// | `drip` | sends the usual reply an octet at a time, slowly |
/// | `nothing` | says nothing, and reads on |
/// | `close`, `reset`, `stall` | says nothing, and closes, resets the connection, is silent |
/// | `offer A, B` | EHLO: says that it has these extensions, and no others |
/// | `with A, B without C` | EHLO: the usual ones, with and without some |
/// | `garbage`, `alert`, `close`, `expired`, `wrong-name`, `unknown` | TLS: no handshake, or one with such a certificate |
/// | `usual` | what a server does |
/// | `never` | as usual; that the event comes is a fault of the client |
///
/// `, close`, `, reset` or `, stall` may follow what it says or sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub(super) rules: Vec<Rule>,
}

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadScript(String);

impl std::fmt::Display for BadScript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadScript {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) text: String,
    event: String,
    word: Option<String>,
    nth: Option<usize>,
    pub(super) action: Action,
    pub(super) ending: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Usual,
    Never,
    Send(Vec<u8>),
    Flood(Vec<u8>),
    Cut(usize),
    Drip,
    Offer(Vec<String>),
    Change {
        with: Vec<String>,
        without: Vec<String>,
    },
    Handshake(Handshake),
}

impl Action {
    /// Whether it is an answer of 4yz or 5yz.
    pub(super) fn refuses(&self) -> bool {
        matches!(self, Self::Send(octets) if matches!(octets.first(), Some(b'4' | b'5')))
    }

    /// Whether it is an answer of 2yz, or none.
    pub(super) fn consents(&self) -> bool {
        match self {
            Self::Send(octets) => matches!(octets.first(), Some(b'2') | None),
            _ => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    Garbage,
    Alert,
    Expired,
    WrongName,
    Unknown,
}

/// What follows an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    GoOn,
    Close,
    Reset,
    Stall,
}

const EVENTS: &[&str] = &[
    "GREETING", "EHLO", "HELO", "LHLO", "STARTTLS", "TLS", "AUTH", "RESPONSE", "MAIL", "RCPT",
    "DATA", "BDAT", "END", "RSET", "QUIT",
];

impl Script {
    /// Whether the client is left without an answer somewhere: it must be in a hurry.
    #[must_use]
    pub fn tries_patience(&self) -> bool {
        self.rules
            .iter()
            .any(|r| r.ending == Ending::Stall || r.action == Action::Drip)
    }
}

impl FromStr for Script {
    type Err = BadScript;

    fn from_str(text: &str) -> Result<Self, BadScript> {
        let parts = text.split(';').map(str::trim).filter(|p| !p.is_empty());
        let rules = parts.map(Rule::from_str).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }
}

impl Rule {
    pub(super) fn is_about(&self, event: &str, line: &str, count: usize) -> bool {
        let line = line.to_ascii_lowercase();
        self.event == event
            && self.word.as_ref().is_none_or(|word| line.contains(word))
            && self.nth.is_none_or(|nth| nth == count)
    }
}

impl FromStr for Rule {
    type Err = BadScript;

    fn from_str(text: &str) -> Result<Self, BadScript> {
        let bad = |what: &str| BadScript(format!("{what} in {text:?}"));
        let (about, does) = text.split_once(':').ok_or_else(|| bad("no colon"))?;
        let (mut word, mut nth, mut event) = (None, None, None);
        for part in about.split_whitespace() {
            if let Some(number) = part.strip_prefix('#') {
                nth = Some(number.parse().map_err(|_| bad("a number"))?);
            } else if event.is_none() {
                event = EVENTS.contains(&part).then(|| part.to_owned());
                event.as_ref().ok_or_else(|| bad("an unknown event"))?;
            } else {
                word = Some(part.to_ascii_lowercase());
            }
        }
        let event = event.ok_or_else(|| bad("no event"))?;
        let (action, ending) =
            action(&event, does.trim()).ok_or_else(|| bad("an unknown action"))?;
        Ok(Self {
            text: text.to_owned(),
            event,
            word,
            nth,
            action,
            ending,
        })
    }
}

fn action(event: &str, text: &str) -> Option<(Action, Ending)> {
    let nothing = Action::Send(Vec::new());
    if let Some(ending) = ending(text) {
        return Some((nothing, ending));
    }
    let (what, ending) = match text.rsplit_once(", ") {
        Some((what, last)) if ending(last).is_some() => (what, ending(last)?),
        _ => (text, Ending::GoOn),
    };
    let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
    let action = match (word, event) {
        ("usual", _) => Action::Usual,
        ("never", _) => Action::Never,
        ("nothing", _) => nothing,
        ("drip", _) => Action::Drip,
        ("send", _) => Action::Send(octets(rest)?),
        ("flood", _) => Action::Flood(octets(rest)?),
        ("cut", _) => return Some((Action::Cut(rest.parse().ok()?), ends(ending))),
        ("offer", "EHLO" | "LHLO") => Action::Offer(list(rest)),
        ("with" | "without", "EHLO" | "LHLO") => {
            let (with, without) = what.split_once("without ").unwrap_or((what, ""));
            Action::Change {
                with: list(with.strip_prefix("with ").unwrap_or_default()),
                without: list(without),
            }
        }
        ("garbage", "TLS") => Action::Handshake(Handshake::Garbage),
        ("alert", "TLS") => Action::Handshake(Handshake::Alert),
        ("expired", "TLS") => Action::Handshake(Handshake::Expired),
        ("wrong-name", "TLS") => Action::Handshake(Handshake::WrongName),
        ("unknown", "TLS") => Action::Handshake(Handshake::Unknown),
        (code, _) if code.starts_with(|c: char| c.is_ascii_digit()) => {
            Action::Send(format!("{}\r\n", what.replace(" / ", "\r\n")).into())
        }
        _ => return None,
    };
    Some((action, ending))
}

/// What is cut ends somehow.
fn ends(ending: Ending) -> Ending {
    if ending == Ending::GoOn {
        Ending::Close
    } else {
        ending
    }
}

fn ending(word: &str) -> Option<Ending> {
    Some(match word {
        "close" => Ending::Close,
        "reset" => Ending::Reset,
        "stall" => Ending::Stall,
        _ => return None,
    })
}

fn list(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    parts.map(str::to_owned).collect()
}

/// Octets between quotes, with escapes; `*1000` behind the quotes means so many times. There may
/// be several such pieces.
fn octets(text: &str) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while let Some(inner) = rest.strip_prefix('"') {
        let (piece, behind) = quoted(inner)?;
        let (times, behind) = match behind.strip_prefix('*') {
            Some(number) => {
                let (number, behind) = number.split_once(' ').unwrap_or((number, ""));
                (number.parse().ok()?, behind)
            }
            None => (1, behind),
        };
        all.extend(piece.repeat(times));
        rest = behind.trim_start();
    }
    rest.is_empty().then_some(all)
}

/// What stands before the closing quote, and what behind it.
fn quoted(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut octets = Vec::new();
    let mut rest = text.chars();
    loop {
        let c = match rest.next()? {
            '"' => return Some((octets, rest.as_str())),
            '\\' => match rest.next()? {
                'r' => b'\r',
                'n' => b'\n',
                '0' => 0,
                'x' => {
                    let digits: String = rest.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).ok()?
                }
                other => u8::try_from(other).ok()?,
            },
            other => u8::try_from(other).ok()?,
        };
        octets.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Action, Ending) {
        let script: Script = text.parse().unwrap();
        let [rule] = &script.rules[..] else {
            panic!("{script:?}");
        };
        (rule.action.clone(), rule.ending)
    }

    #[test]
    fn scripts_are_read() {
        let send = |text: &str| Action::Send(text.into());
        for (text, action, ending) in [
            (
                "RCPT bob: 550 5.1.1 no, he is not, close",
                send("550 5.1.1 no, he is not\r\n"),
                Ending::Close,
            ),
            (
                "EHLO: 250-a / 250 b",
                send("250-a\r\n250 b\r\n"),
                Ending::GoOn,
            ),
            (
                r#"END: send "25\0\"\n", stall"#,
                send("25\0\"\n"),
                Ending::Stall,
            ),
            ("END: cut 4", Action::Cut(4), Ending::Close),
            ("END: cut 4, stall", Action::Cut(4), Ending::Stall),
            ("DATA: reset", send(""), Ending::Reset),
            ("DATA: nothing", send(""), Ending::GoOn),
            ("QUIT: never", Action::Never, Ending::GoOn),
        ] {
            assert_eq!(of(text), (action, ending), "{text}");
        }
        let raw = Action::Send(vec![0xff, 0]);
        assert_eq!(of(r#"END: send "\xff\0""#), (raw, Ending::GoOn));
        let (with, without) = (vec!["A 1".to_owned(), "B".to_owned()], vec!["C".to_owned()]);
        assert_eq!(
            of("EHLO: with A 1, B without C").0,
            Action::Change { with, without }
        );
        assert_eq!(of(r#"END: send "ab"*3 "c" "d"*2"#).0, send("abababcdd"));
    }

    #[test]
    fn what_is_no_script_is_refused() {
        for text in [
            "RCPT 550 no",
            "RCTP: 550 no",
            "RCPT: explode",
            "MAIL: offer X",
            "END: cut x",
        ] {
            assert!(text.parse::<Script>().is_err(), "{text}");
        }
    }

    #[test]
    fn rules_are_about_events() {
        let script: Script = "RCPT bob #2: 450 no".parse().unwrap();
        let about = |event, line, n| script.rules[0].is_about(event, line, n);
        assert!(about("RCPT", "RCPT TO:<Bob@x>", 2));
        assert!(!about("RCPT", "RCPT TO:<bob@x>", 1));
        assert!(!about("RCPT", "RCPT TO:<ann@x>", 2));
        assert!(!about("MAIL", "MAIL FROM:<bob@x>", 2));
    }
}
