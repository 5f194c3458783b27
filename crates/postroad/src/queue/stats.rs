//! `postroad queue stats`.

use std::collections::HashMap;
use std::time::Duration;

use postroad_mail::{Timestamp, escape_peer_text};
use postroad_queue::{LaneState, LaneSummary};
use postroad_service::admin::{DestinationView, Stats};
use postroad_service::queue::{Queue, so_long_ago};

use crate::moments::from_now;
use crate::output::line;

/// Destinations that are shown, where not all are.
const SHOWN: usize = 20;

pub(super) async fn run(queue: &Queue, json: bool, all: bool) -> anyhow::Result<()> {
    let stats = queue.stats(if all { usize::MAX } else { SHOWN }).await?;
    if json {
        line(format_args!("{}", serde_json::to_string(&stats)?))?;
        return Ok(());
    }
    let totals = stats.totals;
    line(format_args!(
        "{} messages ({} held), {} octets, {} in flight",
        totals.messages, totals.held, totals.bytes, totals.in_flight
    ))?;
    super::whole::health(&stats.health)?;
    let now = so_long_ago(Duration::ZERO);
    for text in lanes(&stats, now) {
        line(format_args!("{text}"))?;
    }
    let more = stats.lanes_count.saturating_sub(stats.lanes.len());
    if more > 0 {
        line(format_args!(
            "and {more} more destinations (--all shows them)"
        ))?;
    }
    Ok(())
}

fn lanes(stats: &Stats, now: Timestamp) -> Vec<String> {
    let known: HashMap<_, _> = stats
        .destinations
        .iter()
        .map(|one| (one.lane.as_str(), one))
        .collect();
    let mut lines = Vec::new();
    for lane in &stats.lanes {
        let destination = known.get(lane.lane.as_str()).copied();
        lines.push(brief(lane, destination, now));
        if let Some(until) = lane.parked_until {
            lines.push(format!(
                "      left alone: not before {}",
                moment(until, now)
            ));
        }
        if let Some(destination) = destination {
            lines.extend(details(destination, now).map(|detail| format!("      {detail}")));
        }
    }
    lines
}

fn brief(lane: &LaneSummary, destination: Option<&DestinationView>, now: Timestamp) -> String {
    let tried = match lane.deferred {
        0 => String::new(),
        deferred => format!(" ({deferred} tried before)"),
    };
    let window = destination.map_or_else(String::new, |one| {
        format!(" of {} (at most {})", one.window, one.window_max)
    });
    let next = match lane.next_due {
        Some(due) if due <= now => "  due now".to_owned(),
        Some(due) => format!("  next {}", from_now(due, now)),
        None => String::new(),
    };
    let last = match lane.last_attempt {
        Some(LaneState::Failed) => "  last attempt failed",
        Some(LaneState::Well) => "  last attempt went well",
        None => "",
    };
    let name = escape_peer_text(lane.lane.as_str());
    format!(
        "  {name}  {} waiting{tried}  {} in flight{window}{next}{last}",
        lane.waiting, lane.in_flight
    )
}

fn details(one: &DestinationView, now: Timestamp) -> impl Iterator<Item = String> {
    let throttled = one.throttled.iter().map(move |throttled| {
        format!(
            "held back until {}: {}",
            moment(throttled.until, now),
            throttled.why
        )
    });
    let failed = one
        .last_error
        .iter()
        .map(move |error| format!("last error {}: {}", from_now(error.at, now), error.what));
    let dead = one.dead_hosts.iter().map(move |host| {
        format!(
            "dead host {} at {}, found {}: {}; tried again {}",
            host.name,
            host.address,
            from_now(host.found, now),
            host.error,
            from_now(host.next_probe, now)
        )
    });
    let lines: Vec<_> = throttled.chain(failed).chain(dead).collect();
    lines.into_iter()
}

fn moment(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", crate::moments::moment(at), from_now(at, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_destination_back_is_said() {
        let value = serde_json::json!({
            "totals": { "messages": 5, "held": 0, "bytes": 10, "in_flight": 1 },
            "lanes": [{
                "lane": "slow.test", "waiting": 4, "in_flight": 1, "deferred": 3,
                "next_due": 61_000, "parked_until": 91_000, "last_attempt": "failed"
            }, {
                "lane": "unmet.test", "waiting": 1, "in_flight": 0,
                "next_due": 500, "parked_until": null
            }],
            "lanes_count": 2,
            "destinations": [{
                "lane": "slow.test", "in_flight": 1, "window": 2, "window_max": 20,
                "last_error": { "at": 0, "what": "mx.slow.test: 421 4.7.0 slow down" },
                "throttled": { "until": 91_000, "why": "it said 421" },
                "dead_hosts": [{
                    "name": "mx2.slow.test", "address": "192.0.2.1:25", "error": "no answer",
                    "found": 0, "next_probe": 31_000
                }]
            }],
        });
        let stats: Stats = serde_json::from_value(value).unwrap();
        assert_eq!(
            lanes(&stats, Timestamp::from_millis(1000)),
            [
                "  slow.test  4 waiting (3 tried before)  1 in flight of 2 (at most 20)  next in 1m00s  last attempt failed",
                "      left alone: not before 1970-01-01 00:01:31.000Z (in 1m30s)",
                "      held back until 1970-01-01 00:01:31.000Z (in 1m30s): it said 421",
                "      last error 1.000s ago: mx.slow.test: 421 4.7.0 slow down",
                "      dead host mx2.slow.test at 192.0.2.1:25, found 1.000s ago: no answer; tried again in 30.000s",
                "  unmet.test  1 waiting  0 in flight  due now",
            ]
        );
    }
}
