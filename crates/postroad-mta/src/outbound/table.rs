//! What a failed delivery means: the one table.
//!
//! The first row that fits counts. *Recipient*: what becomes of it. *Next host*: whether another
//! host is asked in the same attempt. *Destination*: whether it may get more attempts at a time
//! from now on (`well`), or fewer (`failed`); see [`super::window`]. *Retry*: `soon` is within five
//! minutes, at the first attempts; `later` not within the hour; else as the schedule says.
//!
//! | what happened | recipient | next host | destination | retry |
//! |---|---|---|---|---|
//! | the message was taken | delivered | no | well | – |
//! | the login was refused, or is not possible | deferred | yes | failed | usual |
//! | 5yz to the greeting (RFC 5321 section 3.1, RFC 7504) | deferred | yes | failed | usual |
//! | no connection, or none that comes to EHLO | deferred | yes | failed | usual |
//! | TLS is required and fails, or is not offered | deferred | yes | – | usual |
//! | 421 to the end of data | deferred | no | failed | usual |
//! | 421 anywhere else | deferred | yes | failed | usual |
//! | lost or silent after the end of data: it may have arrived (RFC 5321 section 4.5.4.1, RFC 1047) | deferred | no | failed | usual |
//! | lost or silent before | deferred | yes | failed | usual |
//! | 552 to RCPT, neither for a full mailbox nor for size (RFC 5321 section 4.5.3.1.10) | deferred | yes | – | usual |
//! | 5yz to RCPT, or to the end of data | failed | no | well | – |
//! | 5yz to MAIL or DATA | failed | no | – | – |
//! | greylisted: 4yz that says so, or 450 or 451 with 4.7.0 or 4.7.1 to RCPT or DATA | deferred | yes | – | soon |
//! | the mailbox is full: 4yz with 4.2.2, or that says so | deferred | no | – | later |
//! | 4yz to the end of data, or a reply that is none to it | deferred | no | – | usual |
//! | 4yz to MAIL, or about the system (4.3.z) | deferred | yes | failed | usual |
//! | 4yz else, 5yz to RSET, or a reply that is none to that command | deferred | yes | – | usual |
//!
//! Beside the table:
//!
//! - A login that a smarthost refuses (535) is a mistake in our configuration, or in the smarthost's:
//!   the log says so as an error, and no mail is bounced for it.
//! - 5yz to the greeting bounces a message where *every* host of an MX plan says it in the same
//!   attempt; one host that might have taken it is enough to keep it, and so is one that answered
//!   well within the minute before: it has more sessions than it likes. Hosts that a route names
//!   are ours to put right: they never bounce for it.
//! - What one host says for good of itself only (no such host, no REQUIRETLS) counts where all others
//!   were asked, too. What a host says of a recipient is not hidden by one that cannot be reached.
//! - STARTTLS that fails and is not required: the same address again, in plaintext.
//! - 452 to RCPT, or 552, while others were taken: the same connection again, as long as some are
//!   taken each time. 452 that brings no progress is of the last rows.
//! - Lost, or 421, at MAIL on a connection that has served before: the same address again, over a
//!   new connection.
//! - The message could not be read here: deferred, 4.3.0, of our own; no other host can mend that.
//! - The hop lacks what the message needs: failed, 5.6.3, 5.6.7, 5.3.4, 5.7.30; the next host is
//!   asked for REQUIRETLS only.

use postroad_mail::{Reply, Severity};
use postroad_proto::client::{Phase, SessionError};

use super::destinations::Verdict;

/// What becomes of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    Deferred,
    Failed,
}

/// When a deferred recipient is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Retry {
    /// As the schedule says.
    #[default]
    Usual,
    /// Within minutes.
    Soon,
    /// Not within the hour.
    Later,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) phase: Phase,
    pub(crate) how: How<'a>,
}

/// In which way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How<'a> {
    /// A reply.
    Reply(&'a Reply),
    /// The session broke: no connection, no reply, nonsense.
    Broken(&'a SessionError),
    /// No connection at all.
    NoConnection,
    /// TLS failed, or is against a policy.
    Tls,
}

/// A row of the table.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    fits: fn(&Said<'_>) -> bool,
    pub(crate) fate: Fate,
    pub(crate) next_host: bool,
    pub(crate) destination: Verdict,
    pub(crate) retry: Retry,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.what)
    }
}

/// The row for what happened.
pub(crate) fn row(said: &Said<'_>) -> &'static Row {
    TABLE.iter().find(|row| (row.fits)(said)).unwrap_or(&REST)
}

impl<'a> Said<'a> {
    const fn reply(&self) -> Option<&'a Reply> {
        match self.how {
            How::Reply(reply) | How::Broken(SessionError::Refused { reply }) => Some(reply),
            How::Broken(_) | How::NoConnection | How::Tls => None,
        }
    }

    fn severity(&self) -> Option<Severity> {
        self.reply().map(Reply::severity)
    }

    fn is_transient(&self) -> bool {
        self.severity() == Some(Severity::Transient)
    }

    fn code(&self) -> u16 {
        self.reply().map_or(0, |reply| reply.code.get())
    }

    /// Subject and detail of the enhanced code.
    fn enhanced(&self) -> Option<(u16, u16)> {
        let code = self.reply()?.enhanced?;
        Some((code.subject, code.detail))
    }

    fn is_at(&self, phases: &[Phase]) -> bool {
        phases.contains(&self.phase)
    }

    fn says(&self, words: &[&str]) -> bool {
        let Some(reply) = self.reply() else {
            return false;
        };
        let text = reply.text.to_ascii_lowercase();
        words.iter().any(|word| text.contains(word))
    }
}

fn is_permanent(said: &Said<'_>) -> bool {
    said.severity() == Some(Severity::Permanent)
}

fn is_about_the_login(said: &Said<'_>) -> bool {
    said.phase == Phase::Auth && is_permanent(said)
        || matches!(said.how, How::Broken(SessionError::NoAuth))
}

fn is_about_tls(said: &Said<'_>) -> bool {
    let starttls = said.phase == Phase::StartTls && said.reply().is_some() && !is_closing(said);
    starttls || matches!(said.how, How::Tls | How::Broken(SessionError::NoStartTls))
}

fn is_closing(said: &Said<'_>) -> bool {
    said.code() == 421
}

/// The server counts, and has counted enough: see [`super::classify::is_too_many`].
fn is_full_transaction(said: &Said<'_>) -> bool {
    let other = matches!(said.enhanced(), Some((2, 2) | (3, 4)));
    said.phase == Phase::Rcpt && said.code() == 552 && !other
}

fn is_greylisting(said: &Said<'_>) -> bool {
    if !said.is_transient() {
        return false;
    }
    let by_code = matches!(said.code(), 450 | 451)
        && matches!(said.enhanced(), Some((7, 0 | 1)))
        && said.is_at(&[Phase::Rcpt, Phase::Data]);
    by_code
        || said.says(&[
            "greylist",
            "graylist",
            "grey list",
            "gray list",
            "grey-list",
            "gray-list",
        ])
}

fn is_full_mailbox(said: &Said<'_>) -> bool {
    said.is_transient()
        && (said.enhanced() == Some((2, 2))
            || said.is_at(&[Phase::Rcpt, Phase::Data, Phase::EndOfData])
                && said.says(&[
                    "mailbox full",
                    "mailbox is full",
                    "over quota",
                    "quota exceeded",
                ]))
}

/// The session never came to EHLO's reply.
const fn is_before_hello(phase: Phase) -> bool {
    matches!(phase, Phase::Connect | Phase::Greeting | Phase::Hello)
}

const fn deferred(
    what: &'static str,
    fits: fn(&Said<'_>) -> bool,
    next_host: bool,
    destination: Verdict,
) -> Row {
    Row {
        what,
        fits,
        fate: Fate::Deferred,
        next_host,
        destination,
        retry: Retry::Usual,
    }
}

const fn failed(what: &'static str, fits: fn(&Said<'_>) -> bool, destination: Verdict) -> Row {
    Row {
        what,
        fits,
        fate: Fate::Failed,
        next_host: false,
        destination,
        retry: Retry::Usual,
    }
}

/// Where no other fits.
static REST: Row = deferred(
    "4yz else, 5yz to RSET, or a reply that is none to that command",
    |_| true,
    true,
    Verdict::Nothing,
);

static TABLE: [Row; 16] = [
    Row {
        what: "the message was taken",
        fits: |said| said.severity() == Some(Severity::Success) && said.phase == Phase::EndOfData,
        fate: Fate::Delivered,
        next_host: false,
        destination: Verdict::Well,
        retry: Retry::Usual,
    },
    deferred(
        "the login was refused, or is not possible",
        is_about_the_login,
        true,
        Verdict::Failed,
    ),
    deferred(
        "5yz to the greeting (RFC 5321 section 3.1, RFC 7504)",
        |said| said.phase == Phase::Greeting && is_permanent(said),
        true,
        Verdict::Failed,
    ),
    deferred(
        "no connection, or none that comes to EHLO",
        |said| matches!(said.how, How::NoConnection) || is_before_hello(said.phase),
        true,
        Verdict::Failed,
    ),
    deferred(
        "TLS is required and fails, or is not offered",
        is_about_tls,
        true,
        Verdict::Nothing,
    ),
    deferred(
        "421 to the end of data",
        |said| is_closing(said) && said.phase == Phase::EndOfData,
        false,
        Verdict::Failed,
    ),
    deferred("421 anywhere else", is_closing, true, Verdict::Failed),
    deferred(
        "lost or silent after the end of data: it may have arrived (RFC 5321 section 4.5.4.1, RFC 1047)",
        |said| said.reply().is_none() && said.phase == Phase::EndOfData,
        false,
        Verdict::Failed,
    ),
    deferred(
        "lost or silent before",
        |said| said.reply().is_none(),
        true,
        Verdict::Failed,
    ),
    deferred(
        "552 to RCPT, neither for a full mailbox nor for size (RFC 5321 section 4.5.3.1.10)",
        is_full_transaction,
        true,
        Verdict::Nothing,
    ),
    failed(
        "5yz to RCPT, or to the end of data",
        |said| is_permanent(said) && said.is_at(&[Phase::Rcpt, Phase::EndOfData]),
        Verdict::Well,
    ),
    failed(
        "5yz to MAIL or DATA",
        |said| is_permanent(said) && said.is_at(&[Phase::Mail, Phase::Data]),
        Verdict::Nothing,
    ),
    Row {
        retry: Retry::Soon,
        ..deferred(
            "greylisted: 4yz that says so, or 450 or 451 with 4.7.0 or 4.7.1 to RCPT or DATA",
            is_greylisting,
            true,
            Verdict::Nothing,
        )
    },
    Row {
        retry: Retry::Later,
        ..deferred(
            "the mailbox is full: 4yz with 4.2.2, or that says so",
            is_full_mailbox,
            false,
            Verdict::Nothing,
        )
    },
    deferred(
        "4yz to the end of data, or a reply that is none to it",
        |said| said.phase == Phase::EndOfData,
        false,
        Verdict::Nothing,
    ),
    deferred(
        "4yz to MAIL, or about the system (4.3.z)",
        |said| {
            let system = matches!(said.enhanced(), Some((3, _)));
            said.is_transient() && (said.phase == Phase::Mail || system)
        },
        true,
        Verdict::Failed,
    ),
];

#[cfg(test)]
mod tests;
