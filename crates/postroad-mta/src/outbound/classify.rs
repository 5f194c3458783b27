//! What a result means for a recipient, by [`super::table`], and the evidence of it.

use postroad_mail::{EnhancedCode, Reply, Severity, Timestamp};
use postroad_net::client::ConnectError;
use postroad_proto::client::{Missing, Phase, RecipientResult, SessionError};
use postroad_queue::{Evidence, Outcome};

use super::destinations::Verdict;
use super::replies;
use super::table::{Fate, How, Retry, Row, Said, row};

/// What a result means for a recipient.
#[derive(Clone, Debug)]
pub(crate) struct Classified {
    pub(crate) outcome: Outcome,
    /// Whether another host may be asked in the same attempt. What it says then counts, but for a
    /// failure that is no more than this host's.
    pub(crate) try_next: bool,
    /// What it says of the destination.
    pub(crate) destination: Verdict,
    /// When it is tried again, where it waits.
    pub(crate) retry: Retry,
}

/// What it means that there is no session with a host.
#[derive(Clone, Debug)]
pub(crate) struct Unconnected {
    pub(crate) evidence: Evidence,
    pub(crate) destination: Verdict,
    /// The host is dead.
    pub(crate) is_dead: bool,
    /// The system itself knows no way to it, which says nothing of the host.
    pub(crate) is_unreachable: bool,
    /// It says that it takes no mail: 5yz in its greeting.
    pub(crate) refuses: bool,
    /// It does not take our login.
    pub(crate) is_login: bool,
}

/// Whom we talked to.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub(crate) name: String,
    pub(crate) shown: String,
    pub(crate) tls: Option<String>,
}

impl Hop {
    pub(crate) fn evidence(&self, at: Timestamp, reply: Reply, remote: bool) -> Evidence {
        Evidence {
            at,
            hop: Some(self.shown.clone()),
            remote_mta: Some(self.name.clone()),
            reply: bounded(reply),
            remote,
            tls: self.tls.clone(),
        }
    }
}

/// Whether the server has taken as many recipients in this transaction as it takes in one: 452,
/// or the 552 of RFC 821, which says the same (RFC 5321 section 4.5.3.1.10). A mailbox that is
/// full (x.2.2) and a message that is too large (x.3.4) are no matter of numbers.
pub(crate) fn is_too_many(result: &RecipientResult) -> bool {
    let RecipientResult::Refused {
        phase: Phase::Rcpt,
        reply,
    } = result
    else {
        return false;
    };
    let other = |code: EnhancedCode| matches!((code.subject, code.detail), (2, 2) | (3, 4));
    matches!(reply.code.get(), 452 | 552) && !reply.enhanced.is_some_and(other)
}

/// Whether a connection had gone, or was about to, before the transaction began: nothing was
/// asked of it but MAIL and what was sent ahead of its reply.
pub(crate) fn is_stale(results: &[RecipientResult]) -> bool {
    results.iter().all(|result| {
        let RecipientResult::Broken {
            phase: Phase::Mail | Phase::Idle,
            error,
        } = result
        else {
            return false;
        };
        match error {
            SessionError::Lost => true,
            SessionError::Refused { reply } => reply.code.get() == 421,
            _ => false,
        }
    })
}

/// What is kept of a reply's text.
pub(crate) fn bounded(reply: Reply) -> Reply {
    const TEXT_MAX: usize = 512;
    if reply.text.len() <= TEXT_MAX {
        return reply;
    }
    let text: String = reply.text.chars().take(TEXT_MAX / 4).collect();
    reply.with_text(text)
}

/// `undowngraded`: why the message cannot become one that a host without 8BITMIME takes.
pub(crate) fn recipient(
    result: RecipientResult,
    hop: &Hop,
    at: Timestamp,
    undowngraded: Option<&str>,
) -> Classified {
    match result {
        RecipientResult::Accepted(reply) => {
            let how = How::Reply(&reply);
            let row = row(&Said {
                phase: Phase::EndOfData,
                how,
            });
            by_row(row, hop.evidence(at, reply, true))
        }
        RecipientResult::Refused { phase, reply } => {
            let how = How::Reply(&reply);
            let row = row(&Said { phase, how });
            by_row(row, hop.evidence(at, reply, true))
        }
        RecipientResult::Broken { phase, error } => {
            let how = How::Broken(&error);
            let row = row(&Said { phase, how });
            by_row(row, session(&error, phase, hop, at))
        }
        RecipientResult::Unsupported(missing) => {
            let mut reply = unsupported(missing, &hop.name);
            if let (Missing::EightBitMime | Missing::BinaryMime, Some(why)) =
                (missing, undowngraded)
            {
                let text = format!("{}: {why}", reply.text);
                reply = reply.with_text(text);
            }
            Classified {
                outcome: Outcome::Failed(hop.evidence(at, reply, false)),
                try_next: missing == Missing::RequireTls,
                destination: Verdict::Nothing,
                retry: Retry::Usual,
            }
        }
    }
}

fn by_row(row: &Row, evidence: Evidence) -> Classified {
    Classified {
        outcome: match row.fate {
            Fate::Delivered => Outcome::Delivered(evidence),
            Fate::Deferred => Outcome::Deferred(evidence),
            Fate::Failed => Outcome::Failed(evidence),
        },
        try_next: row.next_host,
        destination: row.destination,
        retry: row.retry,
    }
}

/// A session that ended too early.
fn session(error: &SessionError, phase: Phase, hop: &Hop, at: Timestamp) -> Evidence {
    let doing = match phase {
        Phase::Connect => "while connecting",
        Phase::Greeting => "before the greeting",
        Phase::Hello => "at EHLO",
        Phase::StartTls => "at STARTTLS",
        Phase::Auth => "at AUTH",
        Phase::Mail => "at MAIL",
        Phase::Rcpt => "at RCPT",
        Phase::Data => "while sending the message",
        Phase::EndOfData => "after the message had been sent: it may have arrived",
        Phase::Idle => "between messages",
    };
    match error {
        SessionError::Refused { reply } => hop.evidence(at, reply.clone(), true),
        SessionError::NoStartTls => hop.evidence(
            at,
            replies::NO_STARTTLS.with_text(format!("{error} by {}", hop.name)),
            false,
        ),
        SessionError::NoAuth => hop.evidence(
            at,
            replies::NO_AUTH.with_text(format!("{error}: {}", hop.name)),
            false,
        ),
        other => hop.evidence(
            at,
            replies::BROKEN.with_text(format!("{other} {doing} ({})", hop.name)),
            false,
        ),
    }
}

/// No session at all.
pub(crate) fn unconnected(error: &ConnectError, hop: &Hop, at: Timestamp) -> Unconnected {
    let (said, evidence) = match error {
        ConnectError::Session { phase, error, .. } => {
            let (phase, how) = (*phase, How::Broken(error));
            (Said { phase, how }, session(error, phase, hop, at))
        }
        ConnectError::Tls { detail, .. } => {
            let text = format!("TLS with {} failed: {detail}", hop.shown);
            let reply = replies::TLS_FAILED.with_text(text);
            let said = Said {
                phase: Phase::StartTls,
                how: How::Tls,
            };
            (said, hop.evidence(at, reply, false))
        }
        other => {
            let reply = replies::UNCONNECTED.with_text(other.to_string());
            let mut evidence = hop.evidence(at, reply, false);
            evidence.remote_mta = None;
            let said = Said {
                phase: Phase::Connect,
                how: How::NoConnection,
            };
            (said, evidence)
        }
    };
    // What the system itself does not reach says nothing of the host, and costs nothing.
    let is_unreachable = matches!(
        error,
        ConnectError::Connect {
            unreachable: true,
            ..
        }
    );
    let before_ehlo = matches!(said.phase, Phase::Connect | Phase::Greeting | Phase::Hello);
    Unconnected {
        destination: row(&said).destination,
        is_dead: before_ehlo && !is_unreachable,
        is_unreachable,
        refuses: said.phase == Phase::Greeting
            && evidence.remote
            && evidence.reply.severity() == Severity::Permanent,
        is_login: said.phase == Phase::Auth && row(&said).destination == Verdict::Failed,
        evidence,
    }
}

fn unsupported(missing: Missing, host: &str) -> Reply {
    match missing {
        Missing::EightBitMime => replies::EIGHT_BIT.with_text(format!(
            "The message holds 8-bit octets, which {host} does not take"
        )),
        Missing::BinaryMime => {
            replies::BINARY.with_text(format!("The message is binary, which {host} does not take"))
        }
        Missing::SmtpUtf8 => replies::UTF8.with_text(format!(
            "The message needs SMTPUTF8, which {host} does not have"
        )),
        Missing::RequireTls => replies::REQUIRE_TLS.with_text(format!(
            "The message needs REQUIRETLS, which {host} does not have"
        )),
        Missing::Size { limit } => replies::TOO_LARGE.with_text(format!(
            "The message is larger than the {limit} octets that {host} takes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_table_says() {
        let hop = Hop {
            name: "mx".to_owned(),
            shown: "mx[192.0.2.1]:25".to_owned(),
            tls: None,
        };
        let reply = |code: u16| Reply {
            code: postroad_mail::ReplyCode::new(code).unwrap(),
            enhanced: None,
            text: "x".into(),
        };
        let refused = |phase, code| RecipientResult::Refused {
            phase,
            reply: reply(code),
        };
        let broken = |phase| RecipientResult::Broken {
            phase,
            error: SessionError::Lost,
        };
        for (result, shown) in [
            (RecipientResult::Accepted(reply(250)), "delivered false"),
            (refused(Phase::Mail, 451), "deferred true"),
            (refused(Phase::Rcpt, 450), "deferred true"),
            (refused(Phase::Rcpt, 550), "failed false"),
            (refused(Phase::Rcpt, 452), "deferred true"),
            (refused(Phase::Rcpt, 552), "deferred true"),
            (refused(Phase::Mail, 552), "failed false"),
            (refused(Phase::EndOfData, 552), "failed false"),
            (refused(Phase::Data, 554), "failed false"),
            (refused(Phase::EndOfData, 452), "deferred false"),
            (refused(Phase::EndOfData, 554), "failed false"),
            (refused(Phase::EndOfData, 421), "deferred false"),
            (refused(Phase::Rcpt, 421), "deferred true"),
            (broken(Phase::Rcpt), "deferred true"),
            (broken(Phase::Data), "deferred true"),
            (broken(Phase::EndOfData), "deferred false"),
            (
                RecipientResult::Unsupported(Missing::Size { limit: 5 }),
                "failed false",
            ),
        ] {
            let classified = recipient(result.clone(), &hop, Timestamp::default(), None);
            let name = match classified.outcome {
                Outcome::Delivered(_) => "delivered",
                Outcome::Deferred(_) => "deferred",
                Outcome::Failed(_) => "failed",
            };
            assert_eq!(
                format!("{name} {}", classified.try_next),
                shown,
                "{result:?}"
            );
        }
    }

    #[test]
    fn too_many_recipients() {
        let refused = |phase, reply: &str| {
            let (code, rest) = reply.split_once(' ').unwrap();
            RecipientResult::Refused {
                phase,
                reply: Reply {
                    code: postroad_mail::ReplyCode::new(code.parse().unwrap()).unwrap(),
                    enhanced: rest.parse().ok(),
                    text: "x".into(),
                },
            }
        };
        for (phase, reply, yes) in [
            (Phase::Rcpt, "452 4.5.3", true),
            (Phase::Rcpt, "452 -", true),
            (Phase::Rcpt, "552 5.5.3", true),
            (Phase::Rcpt, "552 -", true),
            (Phase::Rcpt, "452 4.2.2", false),
            (Phase::Rcpt, "552 5.2.2", false),
            (Phase::Rcpt, "552 5.3.4", false),
            (Phase::Rcpt, "450 4.2.1", false),
            (Phase::Mail, "452 4.3.1", false),
            (Phase::EndOfData, "552 5.3.4", false),
        ] {
            assert_eq!(
                is_too_many(&refused(phase, reply)),
                yes,
                "{phase:?} {reply}"
            );
        }
    }

    /// A peer may say as much as its reply may hold; what is kept of each recipient is bounded,
    /// in octets, and stays text.
    #[test]
    fn what_is_kept_of_a_reply_is_bounded() {
        for (said, kept) in [
            ("x".repeat(512), 512),
            ("x".repeat(513), 128),
            ("x".repeat(100_000), 128),
            ("\u{1f4ee}".repeat(1000), 512),
            ("\u{fc}".repeat(256), 512),
            ("\u{fc}".repeat(257), 256),
        ] {
            let hop = Hop {
                name: "mx".to_owned(),
                shown: "mx[192.0.2.1]:25".to_owned(),
                tls: None,
            };
            let reply = replies::BINARY.with_text(said.clone());
            let refused = RecipientResult::Refused {
                phase: Phase::Rcpt,
                reply,
            };
            let outcome = recipient(refused, &hop, Timestamp::default(), None).outcome;
            let text = &outcome.evidence().reply.text;
            assert_eq!(text.len(), kept);
            assert!(said.starts_with(&**text));
        }
    }
}
