//! S8: mail to many destinations, half of them dead: what that costs those that live.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clock;
use crate::dead::{Calls, Network, Silent};
use crate::measure::at_rest;
use crate::memory::Watch;
use crate::results::{Figures, Row, name};
use crate::servers::Place;
use crate::sink::Sink;
use crate::source::{Load, Opening, domain};
use crate::statistics::figure;

/// Octets of each message.
const SIZE: usize = 4 << 10;
/// Messages over a connection.
const PER_CONNECTION: u64 = 100;
/// How long accepting all of it may take: this, and a second for so many messages.
const PATIENCE: Duration = Duration::from_secs(300);
const SLOWEST: u64 = 100;
/// How long the sink waits for a next message: a server may have all its hands at dead hosts for a
/// while.
const NEXT_MESSAGE: Duration = Duration::from_secs(300);

/// A run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    /// Half of them are dead.
    pub(crate) destinations: u64,
    pub(crate) sessions: usize,
}

/// What becomes of the mail for a destination: those of even numbers live.
fn host(number: u64) -> (Network, usize) {
    let network = match number % 4 {
        1 => Network::Refusing,
        3 => Network::Silent,
        _ => Network::Live,
    };
    (network, usize::try_from(number / 2).unwrap_or(usize::MAX))
}

impl Amount {
    /// Messages for destinations that live.
    fn live(self) -> u64 {
        (0..self.destinations)
            .step_by(2)
            .map(|first| (self.messages.saturating_sub(first)).div_ceil(self.destinations))
            .sum()
    }
}

/// Measures a server.
///
/// # Errors
/// Where it does not run, or mail for a live destination does not arrive.
pub(crate) fn measure(place: &Place, amount: Amount, row: &mut Row) -> anyhow::Result<Figures> {
    let port = place.sink.port();
    let (mut routes, mut live) = (Vec::new(), Vec::new());
    for number in 0..amount.destinations {
        let (network, nth) = host(number);
        let address = SocketAddr::new(network.host(nth), port);
        if matches!(network, Network::Live) {
            live.push(address);
        }
        routes.push((domain(number), address));
    }
    place.destinations(&routes)?;
    let sink = Sink::start_at(&live, amount.messages)?;
    let silent = usize::try_from(amount.destinations / 2)?;
    let _silent = Silent::make(silent, port)?;
    let running = place.start()?;
    let load = Load {
        target: place.smtp,
        opening: Opening::Hello,
        sessions: amount.sessions,
        first: 0,
        messages: amount.messages,
        per_connection: PER_CONNECTION,
        size: SIZE,
        destinations: amount.destinations,
        patience: PATIENCE + Duration::from_secs(amount.messages / SLOWEST),
    };
    let watch = Watch::start(Arc::clone(&running.group))?;
    let usage = running.group.usage()?;
    let (calls, started) = (Calls::now()?, clock::now());
    let sent = load.run().with_context(|| log(place))?;
    if sent.acknowledged < amount.messages || sent.errors > 0 {
        row.fault(format!("{} errors: {}", sent.errors, sent.texts.join("; ")));
        bail!(
            "{} of {} messages were accepted",
            sent.acknowledged,
            amount.messages
        );
    }
    let arrived = sink.tally().wait(amount.live(), NEXT_MESSAGE);
    let last = arrived.with_context(|| log(place))?;
    let calls = Calls::now()?.unanswered_since(calls);
    let took = last.saturating_duration_since(started);
    let used = at_rest(&running.group)?.saturating_sub(usage);
    let peak = watch.stop(&running.group);
    if sink.tally().duplicates() > 0 {
        row.fault(format!("{} messages came twice", sink.tally().duplicates()));
    }
    // The dead half waits; a stop need not wait for it.
    running.kill();
    let live = figure(amount.live());
    Ok(Figures::from([
        ("all accepted after, s", sent.took.as_secs_f64()),
        ("live half delivered after, s", took.as_secs_f64()),
        (name::RATE, live / took.as_secs_f64()),
        ("connections to dead hosts until then", figure(calls)),
        (
            name::CPU,
            used.as_secs_f64() * 1000.0 / figure(amount.messages),
        ),
        (name::PEAK, figure(peak) / f64::from(1 << 20)),
    ]))
}

fn log(place: &Place) -> String {
    format!("the log of {} ends:\n{}", place.kind, place.log())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_mail_is_for_the_living() {
        for (messages, destinations, live) in [(100_000, 1000, 50_000), (10, 4, 5), (3, 4, 2)] {
            let amount = Amount {
                messages,
                destinations,
                sessions: 1,
            };
            assert_eq!(amount.live(), live, "{messages} to {destinations}");
            let lives = |n: &u64| matches!(host(n % destinations).0, Network::Live);
            let counted = (0..messages).filter(lives).count();
            assert_eq!(u64::try_from(counted).unwrap(), live);
        }
    }
}
