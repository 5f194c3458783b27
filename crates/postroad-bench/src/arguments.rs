//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::scenario::Scenario;
use crate::servers::Kind;

/// Measures Postroad beside Postfix, Exim and a bare loop of source and sink, in the same run.
///
/// Everything is on loopback; every server that is started is stopped, and its directory removed.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench", version)]
pub(crate) struct Arguments {
    /// Scenarios; by default all but s6, which fills a queue with a million messages, and s8, for
    /// which peers take long
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) scenario: Vec<Scenario>,
    /// All scenarios, s6 and s8 too
    #[arg(long, conflicts_with = "scenario")]
    pub(crate) all: bool,
    /// Servers; by default all that are there
    #[arg(
        long,
        visible_alias = "peers",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub(crate) servers: Vec<Kind>,
    /// Rounds, in each of which every server has its turn
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) rounds: usize,
    /// Connections at the same time
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) sessions: usize,
    /// Messages a round for the fastest server; Postfix gets a quarter, Exim a twentieth, and of
    /// 10 MiB each gets a two-hundredth
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub(crate) messages: u64,
    /// Idle connections in s5; peers get 200 at most
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub(crate) idle: usize,
    /// Messages that Postroad's queue holds in s6
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub(crate) queued: u64,
    /// Messages that the peers' queues hold in s6
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub(crate) queued_peers: u64,
    /// Messages in s8
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub(crate) destined: u64,
    /// Destinations in s8, half of them dead
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) destinations: u64,
    /// A smoke test of a minute: few messages, one round, Postroad and the loop only
    #[arg(long)]
    pub(crate) quick: bool,
    /// Install Postfix, and unpack Exim, first (apt, as root)
    #[arg(long)]
    pub(crate) fetch_peers: bool,
    /// Where the servers' queues are; by default `bench` in the target directory
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Postroad's program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    pub(crate) postroad: Option<PathBuf>,
    /// Where the results go; by default `results.json` beside the queues
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Results to compare with; by default `baseline.json` beside the queues, if it is there
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Keep the results as the baseline
    #[arg(long)]
    pub(crate) save_baseline: bool,
}

/// Messages of the smoke test.
const QUICK: u64 = 2000;
/// Their destinations in S8.
const QUICK_DESTINATIONS: u64 = 40;

impl Arguments {
    /// With what `--quick` stands for.
    pub(crate) fn settled(mut self) -> Self {
        if self.quick {
            self.rounds = 1;
            self.messages = self.messages.min(QUICK);
            self.idle = self.idle.min(200);
            self.queued = self.queued.min(QUICK);
            self.destined = self.destined.min(QUICK);
            self.destinations = self.destinations.min(QUICK_DESTINATIONS);
            if self.servers.is_empty() {
                self.servers = vec![Kind::Loop, Kind::Postroad];
            }
        }
        self.sessions = self.sessions.clamp(1, 1000);
        self.rounds = self.rounds.clamp(1, 100);
        self.destinations = self.destinations.clamp(4, 10_000);
        self.destined = self.destined.max(self.destinations);
        self
    }

    /// The scenarios in order, each once.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let wanted = |scenario: &Scenario| match &self.scenario[..] {
            // The smoke test's queue is so small that they are no matter of minutes.
            [] => {
                let is_long = matches!(scenario, Scenario::S6 | Scenario::S8);
                !is_long || self.all || self.quick
            }
            some => some.contains(scenario),
        };
        Scenario::ALL.into_iter().filter(wanted).collect()
    }

    /// The servers in order, each once, and whether they were asked for by name.
    pub(crate) fn kinds(&self) -> (Vec<Kind>, bool) {
        let all = [Kind::Loop, Kind::Postroad, Kind::Postfix, Kind::Exim];
        let named = !self.servers.is_empty();
        let wanted = |kind: &Kind| !named || self.servers.contains(kind);
        (all.into_iter().filter(wanted).collect(), named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Arguments::try_parse_from(words).unwrap().settled()
    }

    #[test]
    fn scenarios_and_servers() {
        let names = |line: &str| {
            let arguments = parse(line);
            let scenarios: String = arguments
                .scenarios()
                .iter()
                .map(ToString::to_string)
                .collect();
            let servers: Vec<String> = arguments
                .kinds()
                .0
                .iter()
                .map(ToString::to_string)
                .collect();
            (scenarios, servers.join(" "))
        };
        for (line, scenarios, servers) in [
            ("", "s1s2s3s4s5s7", "loop postroad postfix exim"),
            ("--all", "s1s2s3s4s5s6s7s8", "loop postroad postfix exim"),
            ("--scenario s3,s1,s3", "s1s3", "loop postroad postfix exim"),
            ("--quick", "s1s2s3s4s5s6s7s8", "loop postroad"),
            ("--quick --servers exim", "s1s2s3s4s5s6s7s8", "exim"),
            ("--peers postfix,loop", "s1s2s3s4s5s7", "loop postfix"),
        ] {
            assert_eq!(
                names(line),
                (scenarios.to_owned(), servers.to_owned()),
                "{line}"
            );
        }
        assert!(!parse("").kinds().1);
        assert!(parse("--servers exim").kinds().1);
    }

    #[test]
    fn amounts_have_bounds() {
        let quick = parse("--quick --messages 100000 --rounds 9");
        assert_eq!((quick.messages, quick.rounds), (QUICK, 1));
        assert_eq!(parse("--rounds 0").rounds, 1);
        assert_eq!(parse("--sessions 0").sessions, 1);
        assert!(Arguments::try_parse_from(["bench", "--scenario", "s9"]).is_err());
        assert!(Arguments::try_parse_from(["bench", "--all", "--scenario", "s1"]).is_err());
    }
}
