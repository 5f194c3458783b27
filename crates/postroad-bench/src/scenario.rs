//! What is measured.

use std::fmt;

use clap::ValueEnum;

use crate::servers::Kind;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Accept only: the next hop is down
    S1,
    /// End to end, a connection for each message
    S2,
    /// End to end, connections that are kept
    S3,
    /// End to end, bodies of 10 MiB
    S4,
    /// Idle connections, plain and TLS
    S5,
    /// A restart with a full queue, and its drain
    S6,
    /// Submission over STARTTLS with AUTH
    S7,
    /// Many destinations, half of them dead
    S8,
}

/// Which connections a load makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// One for each message.
    Each,
    /// So many messages over each.
    Kept(u64),
}

/// A load scenario as it is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) scenario: Scenario,
    pub(crate) connections: Connections,
    /// Octets of a message.
    pub(crate) size: usize,
    pub(crate) submission: bool,
    /// Whether the next hop is there.
    pub(crate) sink: bool,
}

/// Octets of the messages of all scenarios but S4.
const SMALL: usize = 4 << 10;
const LARGE: usize = 10 << 20;

/// How many large messages stand for the small ones of a run: one for so many.
const LARGE_SHARE: u64 = 200;

impl Scenario {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S6,
        Self::S7,
        Self::S8,
    ];

    /// What stands above its table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::S1 => "S1: accept only, the next hop is down",
            Self::S2 => "S2: end to end, a connection for each message",
            Self::S3 => "S3: end to end, kept connections",
            Self::S4 => "S4: end to end, messages of 10 MiB, kept connections",
            Self::S5 => "S5: idle connections",
            Self::S6 => "S6: restart with a full queue, and its drain",
            Self::S7 => "S7: submission over STARTTLS with AUTH PLAIN, end to end",
            Self::S8 => "S8: many destinations, half of them dead",
        }
    }

    /// The loads that it consists of; none for those that are no loads.
    pub(crate) fn variants(self) -> Vec<Variant> {
        let small = Variant {
            scenario: self,
            connections: Connections::Each,
            size: SMALL,
            submission: self == Self::S7,
            sink: self != Self::S1,
        };
        let kept = |messages| Variant {
            connections: Connections::Kept(messages),
            ..small
        };
        match self {
            Self::S1 => vec![small, kept(100)],
            Self::S2 => vec![small],
            Self::S3 => vec![kept(100)],
            Self::S4 => vec![Variant {
                size: LARGE,
                ..kept(100)
            }],
            Self::S7 => vec![small, kept(10)],
            Self::S5 | Self::S6 | Self::S8 => Vec::new(),
        }
    }
}

impl Variant {
    /// How it is told from the others of its scenario.
    pub(crate) fn name(&self) -> String {
        match self.connections {
            Connections::Each => "a connection each".to_owned(),
            Connections::Kept(messages) => format!("{messages} a connection"),
        }
    }

    /// How many messages a server gets, of a number that is meant for the fastest: the slower
    /// ones get fewer, so that a round takes all of them about as long.
    pub(crate) fn messages(&self, kind: Kind, base: u64) -> u64 {
        let share = match kind {
            Kind::Loop | Kind::Postroad => 1,
            Kind::Postfix => 4,
            Kind::Exim => 20,
        };
        let share = match (self.size == LARGE, self.submission, self.connections) {
            // Here the disk is the limit, or the password: for all of them.
            (true, ..) => LARGE_SHARE * share.min(2),
            (_, true, Connections::Each) => 20,
            (_, true, Connections::Kept(_)) => share.max(5),
            _ => share,
        };
        (base / share).max(10)
    }

    /// How many messages go before those that are measured: enough for every process to be there.
    pub(crate) fn warm_up(&self, kind: Kind, sessions: usize) -> u64 {
        match kind {
            Kind::Exim => 20,
            _ if self.size == LARGE => 4,
            _ if self.submission => u64::try_from(sessions).unwrap_or(u64::MAX),
            _ => u64::try_from(sessions * 4).unwrap_or(u64::MAX),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S1 => "s1",
            Self::S2 => "s2",
            Self::S3 => "s3",
            Self::S4 => "s4",
            Self::S5 => "s5",
            Self::S6 => "s6",
            Self::S7 => "s7",
            Self::S8 => "s8",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_command_line() {
        for scenario in Scenario::ALL {
            let name = scenario.to_string();
            assert_eq!(Scenario::from_str(&name, false), Ok(scenario));
            assert!(scenario.title().to_lowercase().starts_with(&name));
        }
    }

    #[test]
    fn slower_servers_get_fewer_messages() {
        let [variant] = Scenario::S2.variants()[..] else {
            panic!("S2 is one load");
        };
        assert_eq!(variant.messages(Kind::Postroad, 20_000), 20_000);
        assert_eq!(variant.messages(Kind::Postfix, 20_000), 5000);
        assert_eq!(variant.messages(Kind::Exim, 20), 10);
        let [each, kept] = Scenario::S7.variants()[..] else {
            panic!("S7 is two loads");
        };
        assert_eq!(each.messages(Kind::Postroad, 20_000), 1000);
        assert_eq!(kept.messages(Kind::Exim, 20_000), 1000);
    }
}
