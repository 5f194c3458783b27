//! How long a run will take, roughly: said before it begins.

use crate::arguments::Arguments;
use crate::scenario::{Connections, Scenario};
use crate::servers::Kind;

/// Seconds to start and stop a server, and to wait until it is at rest.
const AROUND: u64 = 4;

/// Small messages a second that each server can be trusted to carry.
fn rate(kind: Kind) -> u64 {
    match kind {
        Kind::Loop => 10_000,
        Kind::Postroad => 3000,
        Kind::Postfix => 600,
        Kind::Exim => 120,
    }
}

/// Seconds that these scenarios take with these servers.
pub(crate) fn seconds(arguments: &Arguments, scenarios: &[Scenario], kinds: &[Kind]) -> u64 {
    let rounds = u64::try_from(arguments.rounds).unwrap_or(u64::MAX);
    let mut seconds = 0;
    for scenario in scenarios {
        for kind in kinds {
            seconds += match scenario {
                Scenario::S5 => 3 * AROUND,
                Scenario::S6 => {
                    let queued = match kind {
                        Kind::Loop => 0,
                        Kind::Postroad => arguments.queued,
                        _ => arguments.queued_peers,
                    };
                    // In and out, and three starts.
                    2 * queued / rate(*kind) + 3 * AROUND
                }
                // Peers, and half a minute for the dead.
                Scenario::S8 if matches!(kind, Kind::Loop | Kind::Exim) => 0,
                Scenario::S8 => 30 + 2 * arguments.destined / rate(*kind) + AROUND,
                Scenario::S4 => rounds * (AROUND + arguments.messages / 4000),
                _ => {
                    let turns = scenario.variants().into_iter().map(|variant| {
                        // Passwords are made to be slow to check.
                        let most = match (variant.submission, variant.connections) {
                            (false, _) => u64::MAX,
                            (true, Connections::Each) => 40,
                            (true, Connections::Kept(_)) => 200,
                        };
                        let rate = rate(*kind).min(most);
                        AROUND + variant.messages(*kind, arguments.messages) / rate
                    });
                    rounds * turns.sum::<u64>()
                }
            };
        }
    }
    seconds
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_run_is_bounded() {
        let minutes = |line: &[&str]| {
            let arguments = Arguments::try_parse_from(line).unwrap().settled();
            let (scenarios, kinds) = (arguments.scenarios(), arguments.kinds().0);
            seconds(&arguments, &scenarios, &kinds) / 60
        };
        let default = minutes(&["bench"]);
        assert!((2..25).contains(&default), "{default}");
        assert!(minutes(&["bench", "--quick"]) < 3);
        assert!(minutes(&["bench", "--all"]) > default + 5);
    }
}
