//! What is known of destinations, for people and for programs that watch.

use postroad_mail::Timestamp;
use postroad_queue::Lane;
use serde::{Deserialize, Serialize};

use super::Outbound;
use super::destinations::Destination;
use super::hosts::{HostKey, Hosts};

/// A destination at a glance: what limits its mail now, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationView {
    /// The lane: a domain, or the hosts of a route.
    pub lane: String,
    /// Attempts under way.
    pub in_flight: usize,
    /// Attempts that may be under way now; it grows with successes, and shrinks with failures.
    pub window: usize,
    /// What it may grow to: `per_destination` of the route, or of the configuration.
    pub window_max: usize,
    /// What went wrong last, with whom: peers' text in it is escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// When mail was last taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// Until when nothing is tried, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<Throttled>,
    /// Hosts that are dead; the first few of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_hosts: Vec<DeadHost>,
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
}

/// Why nothing is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// Before then.
    pub until: Timestamp,
    /// For this reason.
    pub why: String,
}

/// A host that could not be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadHost {
    /// Its name.
    pub name: String,
    /// Where it should listen.
    pub address: String,
    /// What was wrong: escaped.
    pub error: String,
    /// When that was found.
    pub found: Timestamp,
    /// From when on one attempt tries it again.
    pub next_probe: Timestamp,
}

impl DeadHost {
    pub(crate) fn find(hosts: &Hosts, host: &HostKey) -> Option<Self> {
        let dead = hosts.find(host)?;
        Some(Self {
            name: host.name.clone(),
            address: host.address.to_string(),
            error: dead.error.clone(),
            found: dead.at,
            next_probe: dead.until,
        })
    }
}

impl Outbound {
    /// What is known of a destination; none where nothing is, or it is forgotten.
    #[must_use]
    pub fn destination(&self, lane: &Lane) -> Option<DestinationView> {
        let one = self.known().find(lane).cloned()?;
        Some(self.view(lane, &one))
    }

    /// What is known of all destinations met lately, in order of their lanes; some tens of
    /// thousands, at most.
    #[must_use]
    pub fn destinations(&self) -> Vec<DestinationView> {
        let all: Vec<_> = {
            let destinations = self.known();
            let each = destinations.iter();
            each.map(|(lane, one)| (lane.clone(), one.clone()))
                .collect()
        };
        let mut views: Vec<_> = all.iter().map(|(lane, one)| self.view(lane, one)).collect();
        views.sort_by(|a, b| a.lane.cmp(&b.lane));
        views
    }

    fn view(&self, lane: &Lane, one: &Destination) -> DestinationView {
        let now = self.clock.now();
        let hosts = self.hosts();
        DestinationView {
            lane: lane.as_str().to_owned(),
            in_flight: one.in_flight,
            window: one.window.size(),
            window_max: one.window.max(),
            last_error: one
                .last_error
                .clone()
                .map(|(at, what)| LastError { at, what }),
            last_success: one.last_success,
            throttled: one
                .throttled
                .clone()
                .filter(|(until, _)| *until > now)
                .map(|(until, why)| Throttled { until, why }),
            dead_hosts: one
                .dead
                .iter()
                .filter_map(|host| DeadHost::find(&hosts, host))
                .collect(),
        }
    }
}
