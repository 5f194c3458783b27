//! A whole run: for each scenario rounds, in each of which every server has its turn.

use std::path::PathBuf;
use std::sync::Arc;

use crate::arguments::Arguments;
use crate::crosscheck;
use crate::fanout;
use crate::group::Method;
use crate::idle;
use crate::measure::{self, Amount};
use crate::peers::Programs;
use crate::ports;
use crate::restart;
use crate::results::{Figures, Results, Row, name};
use crate::scenario::{Connections, Scenario, Variant};
use crate::servers::{Kind, Place};

/// What the load generator and the sink have to reach by themselves, so that they are not what is
/// measured.
const LOOP_MIN: f64 = 20_000.0;

/// Above this share of the bare loop a server may be held up by it.
const LOOP_SHARE: f64 = 0.7;

/// A run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) arguments: Arguments,
    pub(crate) directory: PathBuf,
    pub(crate) method: Method,
    pub(crate) programs: Arc<Programs>,
    /// The servers that are here.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) results: Results,
}

impl Run {
    /// Measures a scenario. What goes wrong with a server is said in its row, and the others go
    /// on.
    pub(crate) fn scenario(&mut self, scenario: Scenario) {
        match scenario {
            Scenario::S5 => self.idle(),
            Scenario::S6 => self.restart(),
            Scenario::S8 => self.fanout(),
            _ => {
                for variant in scenario.variants() {
                    self.load(&variant);
                }
            }
        }
    }

    fn load(&mut self, variant: &Variant) {
        let (scenario, name) = (variant.scenario.to_string(), variant.name());
        let amount = Amount {
            messages: self.arguments.messages,
            sessions: self.arguments.sessions,
        };
        for round in 0..self.arguments.rounds {
            for kind in self.kinds.clone() {
                if kind == Kind::Loop && variant.submission {
                    continue;
                }
                self.turn(&scenario, &name, kind, round, |place, row| {
                    measure::load(place, variant, amount, row)
                });
            }
            let is_plain = variant.sink && !variant.submission && variant.size < 1 << 16;
            if self.kinds.contains(&Kind::Loop) && is_plain {
                self.crosscheck(variant, &scenario, &name, round);
            }
        }
        self.judge(variant, &scenario, &name);
    }

    fn idle(&mut self) {
        let scenario = Scenario::S5.to_string();
        for kind in self.servers() {
            let count = idle::connections(kind, self.arguments.idle);
            self.turn(&scenario, "", kind, 0, |place, _| {
                idle::measure(place, count)
            });
        }
    }

    fn restart(&mut self) {
        let scenario = Scenario::S6.to_string();
        let sessions = self.arguments.sessions;
        for kind in self.servers() {
            let queued = match kind {
                Kind::Postroad => self.arguments.queued,
                _ => self.arguments.queued_peers,
            };
            let variant = format!("{queued} queued");
            self.turn(&scenario, &variant, kind, 0, |place, row| {
                restart::room(place, queued)?;
                restart::measure(place, queued, sessions, row)
            });
        }
    }

    /// A round is long, and there is one. Exim, which makes a process for each delivery, would take
    /// hours.
    fn fanout(&mut self) {
        let scenario = Scenario::S8.to_string();
        let amount = fanout::Amount {
            messages: self.arguments.destined,
            destinations: self.arguments.destinations,
            sessions: self.arguments.sessions,
        };
        let variant = format!("{} to {}", amount.messages, amount.destinations);
        for kind in self.servers() {
            if kind == Kind::Exim {
                continue;
            }
            self.turn(&scenario, &variant, kind, 0, |place, row| {
                fanout::measure(place, amount, row)
            });
        }
    }

    fn servers(&self) -> Vec<Kind> {
        let servers = self.kinds.iter().copied();
        servers.filter(|kind| *kind != Kind::Loop).collect()
    }

    /// One server's turn in a round: a fresh place, and its figures into its row.
    fn turn(
        &mut self,
        scenario: &str,
        variant: &str,
        kind: Kind,
        round: usize,
        measure: impl FnOnce(&Place, &mut Row) -> anyhow::Result<Figures>,
    ) {
        let row = self.results.row(scenario, variant, &kind.to_string());
        if kind == Kind::Postfix && scenario == "s7" && !self.programs.sasl {
            row.note("not measured: saslpasswd2 is not installed (--fetch-peers does that)");
            return;
        }
        eprintln!("{scenario} {variant}: round {}, {kind}", round + 1);
        let figures = Place::make(kind, &self.directory, &self.method, &self.programs)
            .and_then(|place| measure(&place, row));
        match figures {
            Ok(figures) => row.add(round, &figures),
            Err(error) => {
                eprintln!("{error:#}");
                // The log that an error shows is for the terminal.
                row.fault(format!("round {}: {}", round + 1, error.root_cause()));
            }
        }
    }

    /// The other loop, beside ours.
    fn crosscheck(&mut self, variant: &Variant, scenario: &str, name: &str, round: usize) {
        let kept = variant.connections != Connections::Each;
        let Arguments {
            sessions, messages, ..
        } = self.arguments;
        let messages = variant.messages(Kind::Loop, messages);
        let rate = ports::free(1).and_then(|addresses| match &addresses[..] {
            [address] => crosscheck::rate(*address, sessions, messages, kept),
            _ => Ok(None),
        });
        let row = self.results.row(scenario, name, "smtp-source");
        match rate {
            Ok(Some(rate)) => row.add(round, &Figures::from([(name::RATE, rate)])),
            Ok(None) => row.note("smtp-source and smtp-sink are not installed"),
            Err(error) => row.fault(format!("{error:#}")),
        }
    }

    /// Says where the loop itself is too slow to measure with.
    fn judge(&mut self, variant: &Variant, scenario: &str, name: &str) {
        let bare = self.results.row(scenario, name, "loop");
        let Some(bare_rate) = bare.spread(name::RATE) else {
            self.results
                .rows
                .retain(|row| !(row.server == "loop" && row.figures.is_empty()));
            return;
        };
        let is_small = variant.size < 1 << 16;
        if is_small && variant.connections != Connections::Each && bare_rate.median < LOOP_MIN {
            bare.note(format!("below {LOOP_MIN} msg/s: slow to measure with"));
        }
        let row = self.results.row(scenario, name, "postroad");
        if let Some(rate) = row.spread(name::RATE)
            && rate.median > LOOP_SHARE * bare_rate.median
        {
            row.note("near the loop, which may hold it up");
        }
    }
}
