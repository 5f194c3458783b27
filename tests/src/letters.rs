//! Letters that tell, when they arrive, which they are and whether they are whole.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::dialogue::Dialogue;
use crate::sink::Received;

/// Lines of a letter whose body the store gives a file of its own: of 25 octets at least, so that
/// they exceed the 256 KiB from which it does.
pub const LINES_BIG: u64 = 12_000;

/// One letter in so many is late.
const LATE_ONE_IN: u64 = 16;

/// Numbers that look random and are the same in every run.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next, below that.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }

    /// A time below that.
    pub fn time(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(limit))
    }
}

/// A letter. Its recipient's address says which it is and how long, so that it can be told by
/// itself whether it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Letter {
    /// No other letter of a run has it.
    pub number: u64,
    /// Of its body.
    pub lines: u64,
    /// For `late.test`, which a test lets take nothing before the end; others are for `sink.test`.
    pub late: bool,
}

impl Letter {
    /// The letter of that number, of a length that looks random: a few lines, or hundreds, or
    /// [`LINES_BIG`].
    #[must_use]
    pub fn prompt(number: u64) -> Self {
        let mut dice = Dice(number);
        let lines = match dice.below(20) {
            0 => LINES_BIG,
            1..4 => 500,
            _ => dice.below(40),
        };
        Self {
            number,
            lines,
            late: false,
        }
    }

    /// The same, and some are late.
    #[must_use]
    pub fn any(number: u64) -> Self {
        Self {
            late: Dice(!number).below(LATE_ONE_IN) == 0,
            ..Self::prompt(number)
        }
    }

    /// Whether the store gives its body a file of its own.
    #[must_use]
    pub const fn is_big(&self) -> bool {
        self.lines >= LINES_BIG
    }

    /// Where it goes.
    #[must_use]
    pub fn address(&self) -> String {
        let (name, domain) = if self.late {
            ("late", "late.test")
        } else {
            ("m", "sink.test")
        };
        format!("{name}{}-{}@{domain}", self.number, self.lines)
    }

    /// The letter that goes there.
    #[must_use]
    pub fn to(address: &str) -> Option<Self> {
        let (local, domain) = address.split_once('@')?;
        let late = domain == "late.test";
        let name = if late { "late" } else { "m" };
        let (number, lines) = local.strip_prefix(name)?.split_once('-')?;
        Some(Self {
            number: number.parse().ok()?,
            lines: lines.parse().ok()?,
            late,
        })
    }

    /// A body that only this letter has, with dots at the start of some lines.
    #[must_use]
    pub fn body(&self) -> String {
        let (number, mut dice) = (self.number, Dice(self.number));
        let mut body = String::new();
        for line in 0..self.lines {
            let dot = if dice.below(9) == 0 { "." } else { "" };
            let random = dice.below(u64::MAX >> 34);
            body.push_str(&format!("{dot}{number:08} {line:05} {random:08x}\r\n"));
        }
        body
    }

    /// Hands it over: an error where it does not get its 250.
    ///
    /// # Errors
    /// Where the answer is another, or none.
    pub async fn send(&self, dialogue: &mut Dialogue) -> anyhow::Result<()> {
        let address = self.address();
        dialogue
            .send(format!(
                "MAIL FROM:<sender@load.test>\r\nRCPT TO:<{address}>\r\nDATA\r\n"
            ))
            .await?;
        dialogue.expect("250").await?;
        dialogue.expect("250").await?;
        dialogue.expect("354").await?;
        let reply = self.send_content(dialogue).await?;
        ensure!(reply.starts_with("250"), "expected 250, got {reply}");
        Ok(())
    }

    /// What follows DATA; gives the reply.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn send_content(&self, dialogue: &mut Dialogue) -> anyhow::Result<String> {
        let body = self.body();
        let mut stuffed = format!("Subject: {}\r\n\r\n", self.number);
        for line in body.split_inclusive('\n') {
            stuffed.push_str(if line.starts_with('.') { "." } else { "" });
            stuffed.push_str(line);
        }
        stuffed.push_str(".\r\n");
        dialogue.send(stuffed).await?;
        dialogue.reply().await
    }

    /// The letter that has arrived, whole.
    ///
    /// # Errors
    /// Where it is not what was sent.
    pub fn arrived(message: &Received) -> anyhow::Result<Self> {
        let letter = match message.to.as_slice() {
            [address] => Self::to(address).with_context(|| format!("a letter to {address}"))?,
            others => bail!("a letter to {others:?}"),
        };
        let text = String::from_utf8_lossy(&message.data);
        let (head, content) = text
            .split_once("\r\n\r\n")
            .with_context(|| format!("{}: no end of its header", letter.address()))?;
        let subject = format!("Subject: {}", letter.number);
        if !head.lines().any(|line| line == subject) {
            bail!("{}: no `{subject}` in {head}", letter.address());
        }
        if content != letter.body() {
            bail!(
                "{} is not whole: {} octets",
                letter.address(),
                content.len()
            );
        }
        Ok(letter)
    }
}
