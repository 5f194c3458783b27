//! One server under one load.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clock;
use crate::group::Group;
use crate::memory::Watch;
use crate::results::{Figures, Row, name};
use crate::scenario::{Connections, Variant};
use crate::servers::{Kind, Place};
use crate::sink::Sink;
use crate::source::{Load, Opening, Sent};
use crate::statistics::{figure, percentile};

/// How long a load may take: this, and a second for so many messages.
const PATIENCE: Duration = Duration::from_secs(300);
const SLOWEST: u64 = 20;

/// How long the sink waits for a next message.
const NEXT_MESSAGE: Duration = Duration::from_secs(60);

/// A server is at rest when it used less than a twentieth of a core for this long.
const REST: Duration = Duration::from_millis(200);
const REST_SHARE: u32 = 20;
/// When its work is not waited for any longer.
const REST_MAX: Duration = Duration::from_secs(5);

/// How much load there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Messages for the fastest server.
    pub(crate) messages: u64,
    pub(crate) sessions: usize,
}

/// Starts a server, puts it under a load, and stops it; gives the figures.
///
/// # Errors
/// Where the server does not run, or messages are lost.
pub(crate) fn load(
    place: &Place,
    variant: &Variant,
    amount: Amount,
    row: &mut Row,
) -> anyhow::Result<Figures> {
    let messages = variant.messages(place.kind, amount.messages);
    let warm_up = variant.warm_up(place.kind, amount.sessions);
    let is_loop = place.kind == Kind::Loop;
    let sink = if variant.sink || is_loop {
        Some(Sink::start(place.sink, warm_up + messages)?)
    } else {
        None
    };
    let running = if is_loop { None } else { Some(place.start()?) };
    let mut load = Load {
        target: match (is_loop, variant.submission) {
            (true, _) => place.sink,
            (false, true) => place.submission,
            (false, false) => place.smtp,
        },
        opening: if variant.submission {
            place.login()
        } else {
            Opening::Hello
        },
        sessions: amount.sessions,
        first: 0,
        messages: warm_up,
        per_connection: match variant.connections {
            Connections::Each => 1,
            Connections::Kept(messages) => messages,
        },
        size: variant.size,
        destinations: 0,
        patience: PATIENCE + Duration::from_secs(messages / SLOWEST),
    };
    let sent = load.run().context("before the measurement")?;
    let before = sent.acknowledged;
    if let Some(sink) = &sink {
        sink.tally().wait(before, NEXT_MESSAGE)?;
    }
    load.first = warm_up;
    load.messages = messages;
    let group = running.as_ref().map(|running| Arc::clone(&running.group));
    let measured = measure(&load, before, sink.as_ref(), group.as_ref(), row);
    let figures = measured.with_context(|| match place.kind {
        Kind::Loop => String::new(),
        kind => format!("the log of {kind} ends:\n{}", place.log()),
    })?;
    if let Some(running) = running {
        running.stop()?;
    }
    Ok(figures)
}

/// Sends a load and waits until it has arrived, watching the server's processes.
fn measure(
    load: &Load,
    before: u64,
    sink: Option<&Sink>,
    group: Option<&Arc<Group>>,
    row: &mut Row,
) -> anyhow::Result<Figures> {
    let watch = group.map(|group| Watch::start(Arc::clone(group)));
    let watch = watch.transpose()?;
    let usage = group.map(|group| group.usage()).transpose()?;
    let started = clock::now();
    let sent = load.run()?;
    if sent.acknowledged == 0 {
        bail!("nothing was accepted: {}", sent.texts.join("; "));
    }
    let took = match sink {
        Some(sink) => {
            let tally = sink.tally();
            let last = tally.wait(before + sent.acknowledged, NEXT_MESSAGE)?;
            last.saturating_duration_since(started)
        }
        None => sent.took,
    };
    let mut figures = Figures::new();
    if let (Some(group), Some(usage)) = (group, usage) {
        let used = at_rest(group)?.saturating_sub(usage);
        let thousands = figure(sent.acknowledged) / 1000.0;
        figures.insert(name::CPU, used.as_secs_f64() / thousands);
        if let Some(watch) = watch {
            let peak = watch.stop(group);
            figures.insert(name::PEAK, figure(peak) / f64::from(1 << 20));
        }
    }
    let rate = figure(sent.acknowledged) / took.as_secs_f64();
    figures.insert(name::RATE, rate);
    figures.insert(name::BYTES, rate * figure(u64::try_from(load.size)?) / 1e6);
    for (name, percent) in [(name::P50, 50), (name::P99, 99)] {
        if let Some(reply) = percentile(&sent.replies, percent) {
            figures.insert(name, reply.as_secs_f64() * 1000.0);
        }
    }
    tell(&sent, load.messages, sink, row);
    Ok(figures)
}

/// Waits until a server has done what it still had to; gives the CPU time it has used.
pub(crate) fn at_rest(group: &Group) -> anyhow::Result<Duration> {
    let started = clock::now();
    let mut usage = group.usage()?;
    loop {
        std::thread::sleep(REST);
        let now = group.usage()?;
        if now.saturating_sub(usage) < REST / REST_SHARE || started.elapsed() > REST_MAX {
            return Ok(now);
        }
        usage = now;
    }
}

/// Whatever went wrong is said in the row.
fn tell(sent: &Sent, messages: u64, sink: Option<&Sink>, row: &mut Row) {
    if sent.errors > 0 {
        let texts = sent.texts.join("; ");
        row.fault(format!(
            "{} errors, {} of {messages} accepted: {texts}",
            sent.errors, sent.acknowledged
        ));
    }
    let Some(tally) = sink.map(Sink::tally) else {
        return;
    };
    if tally.duplicates() > 0 {
        row.fault(format!("{} messages came twice", tally.duplicates()));
    }
    if tally.strange() > 0 {
        row.note(format!("{} messages that nobody sent", tally.strange()));
    }
}
