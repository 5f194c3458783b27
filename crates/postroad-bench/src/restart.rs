//! S6: a queue fills while the next hop is down; the server is stopped and killed, and drains it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::clock;
use crate::machine::free_space;
use crate::measure::at_rest;
use crate::memory::Watch;
use crate::results::{Figures, Row};
use crate::servers::{Kind, Place, Running};
use crate::sink::Sink;
use crate::source::{Load, Opening, Sent};
use crate::statistics::figure;

/// Octets of each message.
const SIZE: usize = 4 << 10;

/// What a message of that size may take on the disk, with all that a server writes beside it: in
/// Postroad's segments, and as a file or two of a peer's.
const IN_SEGMENTS: u64 = 6 << 10;
const IN_FILES: u64 = 14 << 10;

/// Messages whose rate is taken by itself, at the beginning and at the end.
const SLICE: u64 = 10_000;

/// How long filling may take, in all.
const PATIENCE: Duration = Duration::from_secs(1800);

/// How long the sink waits for a next message.
const NEXT_MESSAGE: Duration = Duration::from_secs(120);

/// How long a first attempt after a restart is waited for; where none is made by itself for the
/// first seconds of it, an operator's order asks for one.
const FIRST_ATTEMPT: Duration = Duration::from_secs(20);
const BY_ITSELF: Duration = Duration::from_secs(3);

/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// Refuses what would fill the disk.
///
/// # Errors
/// Where there is not enough room.
pub(crate) fn room(place: &Place, queued: u64) -> anyhow::Result<()> {
    let each = match place.kind {
        Kind::Postroad => IN_SEGMENTS,
        Kind::Loop | Kind::Postfix | Kind::Exim => IN_FILES,
    };
    let (needed, free) = (queued * each, free_space(&place.directory)?);
    // Postroad itself stops below 512 MiB.
    if free < needed + (1 << 30) {
        bail!(
            "{queued} messages need {} MiB of disk and a GiB besides, {} MiB are free: \
             take fewer (--queued) or another place (--dir)",
            needed >> 20,
            free >> 20
        );
    }
    Ok(())
}

/// Measures a restart with that many messages.
///
/// # Errors
/// Where the server does not come back, or messages are lost.
pub(crate) fn measure(
    place: &Place,
    queued: u64,
    sessions: usize,
    row: &mut Row,
) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    let slice = SLICE.min(queued / 4).max(1);
    let running = place.start()?;
    figures.insert("1 start, empty, s", running.took.as_secs_f64());
    let empty = running.group.memory();
    let rates = fill(place, queued, slice, sessions, row)?;
    figures.insert("2 fill, first slice, msg/s", rates[0]);
    figures.insert("2 fill, last slice, msg/s", rates[1]);
    // What works on messages still is not what the queue itself takes.
    at_rest(&running.group)?;
    let full = running.group.memory();
    let per_message = |octets: u64| figure(octets) / figure(queued);
    figures.insert(
        "3 memory, octets a message, filled",
        per_message(full.saturating_sub(empty)),
    );
    figures.insert("3 disk, octets a message", per_message(place.on_disk()));
    figures.insert("4 stop, s", running.stop()?.as_secs_f64());

    let running = restart(place, &mut figures, STOPPED)?;
    let again = running.group.memory();
    figures.insert(
        "5 memory, octets a message, restarted",
        per_message(again.saturating_sub(empty)),
    );
    let rate = accept(place, queued, slice, sessions, row)?;
    figures.insert("6 accept with a full queue, msg/s", rate);
    running.kill();

    let running = restart(place, &mut figures, KILLED)?;
    drain(place, running, queued + slice, &mut figures, row)?;
    Ok(figures)
}

/// The names of the figures of a restart: until the greeting, and until the first attempt.
type Names = [&'static str; 2];

const STOPPED: Names = [
    "5 start after a stop, greets, s",
    "5 start after a stop, first attempt, s",
];
const KILLED: Names = [
    "7 start after kill -9, greets, s",
    "7 start after kill -9, first attempt, s",
];

/// Starts a server on a full queue; the next hop is down still, but notes who calls.
fn restart(place: &Place, figures: &mut Figures, names: Names) -> anyhow::Result<Running> {
    let sink = Sink::refusing(place.sink)?;
    let started = clock::now();
    let running = place.start()?;
    let [greets, attempt] = names;
    figures.insert(greets, running.took.as_secs_f64());
    // Whether anything is due by itself hangs on the time that filling took.
    let mut ordered = false;
    while started.elapsed() < running.took + FIRST_ATTEMPT {
        if let Some(first) = sink.tally().first_connection() {
            let took = first.saturating_duration_since(started);
            figures.insert(attempt, took.as_secs_f64());
            break;
        }
        if !ordered && started.elapsed() > running.took + BY_ITSELF {
            place.flush(&running)?;
            ordered = true;
        }
        std::thread::sleep(LOOK);
    }
    Ok(running)
}

/// Fills the queue; gives the rates of the first and the last slice.
fn fill(
    place: &Place,
    queued: u64,
    slice: u64,
    sessions: usize,
    row: &mut Row,
) -> anyhow::Result<[f64; 2]> {
    let middle = queued.saturating_sub(2 * slice);
    let first = send(place, 0, slice, sessions, row)?;
    if middle > 0 {
        send(place, slice, middle, sessions, row)?;
    }
    let last = send(place, slice + middle, slice, sessions, row)?;
    Ok([rate(&first), rate(&last)])
}

fn accept(
    place: &Place,
    queued: u64,
    slice: u64,
    sessions: usize,
    row: &mut Row,
) -> anyhow::Result<f64> {
    Ok(rate(&send(place, queued, slice, sessions, row)?))
}

fn send(
    place: &Place,
    first: u64,
    messages: u64,
    sessions: usize,
    row: &mut Row,
) -> anyhow::Result<Sent> {
    let load = Load {
        target: place.smtp,
        opening: Opening::Hello,
        sessions,
        first,
        messages,
        per_connection: 100,
        size: SIZE,
        destinations: 0,
        patience: PATIENCE,
    };
    let sent = load.run().with_context(|| log(place))?;
    if sent.errors > 0 || sent.acknowledged < messages {
        row.fault(format!("{} errors: {}", sent.errors, sent.texts.join("; ")));
        bail!("{} of {messages} messages were accepted", sent.acknowledged);
    }
    Ok(sent)
}

/// Brings the next hop up, and waits until all has come.
fn drain(
    place: &Place,
    running: Running,
    messages: u64,
    figures: &mut Figures,
    row: &mut Row,
) -> anyhow::Result<()> {
    let sink = Sink::start(place.sink, messages)?;
    let watch = Watch::start(std::sync::Arc::clone(&running.group))?;
    let usage = running.group.usage()?;
    let started = clock::now();
    let last = until_drained(place, &running, &sink, messages)?;
    let took = last.saturating_duration_since(started).as_secs_f64();
    figures.insert("8 drain, msg/s", figure(messages) / took);
    let used = running.group.usage()?.saturating_sub(usage).as_secs_f64();
    figures.insert("8 drain, CPU s/1,000", used * 1000.0 / figure(messages));
    let peak = watch.stop(&running.group);
    figures.insert("8 drain, peak PSS MiB", figure(peak) / f64::from(1 << 20));
    if sink.tally().duplicates() > 0 {
        row.note(format!(
            "{} messages came twice after kill -9",
            sink.tally().duplicates()
        ));
    }
    running.stop()?;
    Ok(())
}

/// Orders the queue to be tried until it is empty: a server that has just seen its next hop down
/// may leave messages for later again.
fn until_drained(
    place: &Place,
    running: &Running,
    sink: &Sink,
    messages: u64,
) -> anyhow::Result<Instant> {
    const ORDERS: u32 = 30;
    let mut in_vain = 0;
    loop {
        let before = sink.tally().distinct();
        place.flush(running)?;
        // It fails as soon as nothing has come for a while.
        match sink.tally().wait(messages, NEXT_MESSAGE / ORDERS) {
            Ok(last) => return Ok(last),
            Err(_) if sink.tally().distinct() > before => in_vain = 0,
            Err(_) if in_vain < ORDERS => in_vain += 1,
            Err(error) => return Err(error).with_context(|| log(place)),
        }
    }
}

fn rate(sent: &Sent) -> f64 {
    figure(sent.acknowledged) / sent.took.as_secs_f64()
}

fn log(place: &Place) -> String {
    match place.kind {
        Kind::Loop => String::new(),
        kind => format!("the log of {kind} ends:\n{}", place.log()),
    }
}
