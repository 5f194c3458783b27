//! The queue at a glance.

use std::cmp::Reverse;

use axum::extract::{Query, State};
use axum::response::Json;
use postroad_mta::{DestinationView, Outbound};
use postroad_queue::{Health, LaneSummary, Store, Totals};
use serde::{Deserialize, Serialize};

use super::Shared;

/// The queue at a glance.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Stats {
    /// In all.
    pub totals: Totals,
    /// By lane: those that most mail waits in come first.
    pub lanes: Vec<LaneSummary>,
    /// Lanes that there are in all.
    #[serde(default)]
    pub lanes_count: usize,
    /// What holds these lanes back, as far as it is known: only where a service runs, and only for
    /// destinations it has met.
    #[serde(default)]
    pub destinations: Vec<DestinationView>,
    /// How the store does.
    #[serde(default)]
    pub health: Health,
}

impl Stats {
    /// Of a store, and of delivery where it runs; at most so many lanes.
    #[must_use]
    pub fn of(store: &dyn Store, outbound: Option<&Outbound>, top: usize) -> Self {
        let mut lanes = store.lanes();
        let lanes_count = lanes.len();
        lanes.sort_by(|a, b| {
            let most = |lane: &LaneSummary| Reverse(lane.waiting.saturating_add(lane.in_flight));
            let by_mail = most(a).cmp(&most(b));
            by_mail.then_with(|| a.lane.as_str().cmp(b.lane.as_str()))
        });
        lanes.truncate(top);
        let known = lanes
            .iter()
            .filter_map(|lane| outbound?.destination(&lane.lane));
        Self {
            totals: store.totals(),
            destinations: known.collect(),
            lanes,
            lanes_count,
            health: store.health(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Asked {
    /// Lanes, at most; without it, all.
    top: Option<usize>,
}

pub(super) async fn stats(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Json<Stats> {
    let outbound = shared.parts.outbound.as_deref();
    let top = asked.top.unwrap_or(usize::MAX);
    Json(Stats::of(&*shared.store, outbound, top))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_queue::{MemStore, contract};

    #[tokio::test]
    async fn most_mail_comes_first() {
        let store = MemStore::new(1 << 20);
        for to in ["a@few.test", "b@many.test", "c@many.test", "d@also.test"] {
            contract::accept(&store, contract::START, &[to], b"x").await;
        }
        let stats = Stats::of(&store, None, 2);
        let names: Vec<_> = stats.lanes.iter().map(|lane| lane.lane.as_str()).collect();
        assert_eq!(
            (names, stats.lanes_count),
            (vec!["many.test", "also.test"], 3)
        );
        assert_eq!(Stats::of(&store, None, usize::MAX).lanes.len(), 3);
    }
}
