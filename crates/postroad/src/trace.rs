//! `postroad trace`: a timeline.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use postroad_mail::{Timestamp, escape_peer_text};
use postroad_queue::history::{Accepted, Attempt, Event, Happening, RecipientOutcome, Wanted};
use postroad_queue::{Listed, Outcome, QueueId};
use postroad_service::config::Loaded;
use postroad_service::queue::Queue;
use postroad_service::trace::Trace;

use crate::cli;
use crate::moments::{from_now, moment, span};
use crate::output::{line, text};
use crate::queue::attempts;

/// What stands in front of a line that has no time of its own.
const INDENT: usize = 38;

pub(crate) async fn run(arguments: &cli::Trace, loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let wanted = &arguments.id;
    let queue = Queue::of(&loaded.config).await?;
    let trace = queue.trace(wanted).await;
    queue.close().await?;
    let trace = trace?;
    if trace.events.is_empty() && trace.queued.is_empty() {
        bail!("{}", unknown(wanted, &trace));
    }
    if arguments.json {
        line(format_args!("{}", serde_json::to_string(&trace)?))?;
    } else {
        text(&shown(&trace))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown(wanted: &Wanted, trace: &Trace) -> String {
    let what = match wanted {
        Wanted::Id(id) => format!("nothing is known of a message {id}"),
        Wanted::MessageId(id) => {
            format!(
                "nothing is known of a message with the Message-ID <{}>",
                escape_peer_text(id)
            )
        }
    };
    let kept = Duration::from_secs(trace.kept_seconds);
    if kept.is_zero() {
        format!("{what}: no history is kept (`[log] history`), and it is not in the queue")
    } else {
        format!(
            "{what}: it is not in the queue, and what happened is kept for {} (`[log] history`)",
            span(kept)
        )
    }
}

/// Message by message, each in order of time.
fn shown(trace: &Trace) -> String {
    let mut ids: Vec<QueueId> = Vec::new();
    let all = trace.events.iter().map(|event| event.id);
    for id in all.chain(trace.queued.iter().map(|message| message.id)) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let mut out = String::new();
    for (n, id) in ids.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let _ = writeln!(out, "Message {id}");
        let events: Vec<_> = trace
            .events
            .iter()
            .filter(|event| event.id == *id)
            .collect();
        let queued = trace.queued.iter().find(|message| message.id == *id);
        if events.is_empty() {
            let _ = writeln!(out, "no history of it is kept");
        }
        timeline(&mut out, &events);
        if let Some(message) = queued {
            now(&mut out, message, trace.asked);
        }
    }
    out
}

fn timeline(out: &mut String, events: &[&Event]) {
    let first = events.first();
    let start = first.map_or(Timestamp::default(), |event| match &event.what {
        Happening::Accepted(accepted) if accepted.began.as_millis() > 0 => accepted.began,
        Happening::Attempt(attempt) => attempt.began,
        _ => event.at,
    });
    for event in events {
        match &event.what {
            Happening::Accepted(accepted) => arrival(out, accepted, event.at, start),
            Happening::Attempt(attempt) => tried(out, attempt, event.at, start),
            Happening::Notice { kind, about, to } => {
                let (about, to) = (escape_peer_text(about), escape_peer_text(to));
                let what = format!("notice ({kind}) about {about} to {to} is in the queue");
                at(out, event.at, start, &what);
            }
            Happening::Operator { operation } => {
                at(out, event.at, start, &format!("an operator: {operation}"));
            }
            Happening::Left => at(out, event.at, start, "left the queue: no recipient waits"),
            _ => at(
                out,
                event.at,
                start,
                "something that this version does not know",
            ),
        }
    }
}

fn at(out: &mut String, at: Timestamp, start: Timestamp, what: &str) {
    let after = format!("+{}", span(at.since(start)));
    let _ = writeln!(out, "{}  {after:>10}  {what}", moment(at));
}

fn below(out: &mut String, what: &str) {
    let _ = writeln!(out, "{:INDENT$}{what}", "");
}

fn arrival(out: &mut String, accepted: &Accepted, taken: Timestamp, start: Timestamp) {
    let origin = &accepted.origin;
    let mut from = origin.service.clone();
    if let Some(address) = origin.address {
        let _ = write!(from, " from {address}");
    }
    if let Some(helo) = &origin.helo {
        let _ = write!(from, " ({})", escape_peer_text(helo));
    }
    if let Some(user) = &origin.user {
        let _ = write!(from, ", user {}", escape_peer_text(user));
    }
    let tls = origin.tls.as_ref().map_or_else(
        || ", no TLS".to_owned(),
        |tls| format!(", {} {}", tls.version, tls.cipher),
    );
    if origin.address.is_some() {
        from.push_str(&tls);
    }
    if accepted.began.as_millis() > 0 {
        at(out, accepted.began, start, &format!("MAIL: {from}"));
        at(
            out,
            taken,
            start,
            &format!("accepted, {} octets", accepted.size),
        );
    } else {
        at(
            out,
            taken,
            start,
            &format!("accepted, {} octets: {from}", accepted.size),
        );
    }
    below(out, &format!("from <{}>", escape_peer_text(&accepted.from)));
    if let Some(id) = &accepted.message_id {
        below(out, &format!("Message-ID <{}>", escape_peer_text(id)));
    }
    for recipient in &accepted.recipients {
        below(out, &format!("to <{}>", escape_peer_text(recipient)));
    }
    let more = accepted
        .recipients_count
        .saturating_sub(accepted.recipients.len());
    if more > 0 {
        below(out, &format!("and {more} more recipients"));
    }
    for expansion in &accepted.expansions {
        below(out, &format!("alias {}", escape_peer_text(expansion)));
    }
}

fn tried(out: &mut String, attempt: &Attempt, ended: Timestamp, start: Timestamp) {
    let lane = escape_peer_text(&attempt.lane);
    let what = format!("attempt {} (lane {lane})", attempt.number);
    at(out, attempt.began, start, &what);
    for step in &attempt.steps {
        let hop = step
            .hop
            .as_ref()
            .map_or_else(String::new, |hop| format!("{}  ", escape_peer_text(hop)));
        let after = format!("+{}", span(step.at.since(start)));
        let _ = writeln!(
            out,
            "{}  {after:>10}    {hop}{}",
            moment(step.at),
            step.what
        );
    }
    let after = format!("+{}", span(ended.since(start)));
    for outcome in &attempt.outcomes {
        let _ = writeln!(
            out,
            "{}  {after:>10}    {}",
            moment(ended),
            came_of(outcome)
        );
    }
    if let Some(due) = attempt.next_due {
        below(out, &format!("  next attempt {}", moment(due)));
    }
}

fn came_of(outcome: &RecipientOutcome) -> String {
    let (word, evidence) = match &outcome.outcome {
        Outcome::Delivered(evidence) => ("delivered", evidence),
        Outcome::Deferred(evidence) => ("deferred", evidence),
        Outcome::Failed(evidence) => ("failed", evidence),
    };
    let expired = if outcome.expired {
        ", its time was up"
    } else {
        ""
    };
    let mut text = format!(
        "<{}> {word}{expired}: {}",
        escape_peer_text(&outcome.recipient),
        escape_peer_text(&evidence.reply.to_string())
    );
    if let Some(hop) = &evidence.hop {
        let _ = write!(text, "; {}", escape_peer_text(hop));
    }
    if let Some(tls) = &evidence.tls {
        let _ = write!(text, ", {}", escape_peer_text(tls));
    }
    text
}

/// Where a message that is still in the queue stands.
fn now(out: &mut String, message: &Listed, now: Timestamp) {
    let held = if message.held { ", held" } else { "" };
    let _ = writeln!(out, "now in the queue{held}:");
    for recipient in message.recipients.iter().filter(|r| !r.state.is_final()) {
        let next = match recipient.due {
            Some(due) => format!("next attempt {} ({})", moment(due), from_now(due, now)),
            None if message.held => "not tried until released".to_owned(),
            None => "being tried".to_owned(),
        };
        let _ = writeln!(
            out,
            "  <{}> waits, lane {}, {}, {next}",
            escape_peer_text(&recipient.address),
            recipient.lane,
            attempts(recipient.attempts)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_queue::Evidence;
    use postroad_queue::history::Step;

    const START: u64 = 1_795_524_541_000;

    fn event(after: u64, what: Happening) -> Event {
        Event {
            id: "01jdk7e2m8qv3tw5xyz9abcdef".parse().unwrap(),
            at: Timestamp::from_millis(START + after),
            what,
        }
    }

    #[test]
    fn a_timeline() {
        let accepted = Accepted {
            began: Timestamp::from_millis(START),
            origin: postroad_mail::Origin {
                service: "relay".to_owned(),
                address: Some([192, 0, 2, 7].into()),
                helo: Some("c.test\u{1b}".to_owned()),
                ..Default::default()
            },
            from: "a@b.test".to_owned(),
            recipients: vec!["bob@c.test".to_owned()],
            recipients_count: 2,
            size: 123,
            message_id: Some("x@b.test".to_owned()),
            expansions: vec!["list@c.test -> bob@c.test, d@c.test".to_owned()],
        };
        let attempt = Attempt {
            number: 1,
            lane: "c.test".to_owned(),
            began: Timestamp::from_millis(START + 100),
            steps: vec![Step {
                at: Timestamp::from_millis(START + 150),
                hop: Some("mx.c.test[192.0.2.9]:25".to_owned()),
                what: "connected".to_owned(),
            }],
            outcomes: vec![RecipientOutcome {
                recipient: "bob@c.test".to_owned(),
                outcome: Outcome::Delivered(Evidence {
                    at: Timestamp::from_millis(START + 1200),
                    hop: Some("mx.c.test[192.0.2.9]:25".to_owned()),
                    remote_mta: None,
                    reply: postroad_mail::replies::OK,
                    remote: true,
                    tls: Some("TLS1.3".to_owned()),
                }),
                expired: false,
            }],
            next_due: None,
        };
        let trace = Trace {
            events: vec![
                event(50, Happening::Accepted(accepted)),
                event(1200, Happening::Attempt(attempt)),
                event(1201, Happening::Left),
            ],
            queued: Vec::new(),
            kept_seconds: 60,
            asked: Timestamp::from_millis(START + 9999),
        };
        let text = shown(&trace);
        for expected in [
            "Message 01jdk7e2m8qv3tw5xyz9abcdef\n2026-11-24 12:49:01.000Z        +0ms  MAIL: relay from 192.0.2.7 (c.test\\u{1b}), no TLS\n",
            "2026-11-24 12:49:01.050Z       +50ms  accepted, 123 octets\n",
            "  from <a@b.test>\n",
            "  Message-ID <x@b.test>\n",
            "  to <bob@c.test>\n",
            "  and 1 more recipients\n",
            "  alias list@c.test -> bob@c.test, d@c.test\n",
            "2026-11-24 12:49:01.100Z      +100ms  attempt 1 (lane c.test)\n",
            "2026-11-24 12:49:01.150Z      +150ms    mx.c.test[192.0.2.9]:25  connected\n",
            "2026-11-24 12:49:02.200Z     +1.200s    <bob@c.test> delivered: 250 ",
            "; mx.c.test[192.0.2.9]:25, TLS1.3\n",
            "2026-11-24 12:49:02.201Z     +1.201s  left the queue",
        ] {
            assert!(text.contains(expected), "{expected}\n--\n{text}");
        }
    }

    #[test]
    fn what_is_not_known() {
        let trace = |kept_seconds| Trace {
            events: Vec::new(),
            queued: Vec::new(),
            kept_seconds,
            asked: Timestamp::default(),
        };
        let wanted = Wanted::MessageId("x@y".to_owned());
        assert!(unknown(&wanted, &trace(7 * 86_400)).contains("kept for 7d00h"));
        assert!(unknown(&wanted, &trace(0)).contains("no history is kept"));
    }
}
