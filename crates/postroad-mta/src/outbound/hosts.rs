//! Which hosts are dead: no connection, or none that gets as far as EHLO.
//!
//! A host that has failed is called again after 30 s, then 1 min, 2 min … 10 min, each time by one
//! attempt, the probe, while all others go by it. So a thousand messages to a dead host cost one
//! connect timeout, not a thousand; and whoever finds it alive forgets all that.

use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_net::client::PeerAddress;
use postroad_queue::Lane;

use super::recent::Recent;

/// Dead hosts that are remembered. One that is forgotten is called again, which costs a timeout.
const HOSTS_MAX: usize = 50_000;
/// After which time without being asked for one is forgotten.
const AGE: Duration = Duration::from_secs(3600);
/// How long a host is dead after its first failure …
const FIRST: Duration = Duration::from_secs(30);
/// … and at most, twice as long after each.
const LONGEST: Duration = Duration::from_secs(600);
/// A probe that has not come back by then will not: the connect, the greeting and EHLO together
/// take less.
const PROBE_MAX: Duration = Duration::from_secs(15 * 60);
/// Who answered well within this time lives.
const LIVELY: Duration = Duration::from_secs(60);
/// Lanes that wait for a host and are remembered with it.
const LANES_MAX: usize = 32;
/// Octets of a remembered error, at most.
const ERROR_MAX: usize = 256;

/// What makes a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostKey {
    pub(crate) address: PeerAddress,
    pub(crate) name: String,
}

/// What is known of a dead host.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    /// What was wrong.
    pub(crate) error: String,
    /// When that was found.
    pub(crate) at: Timestamp,
    /// When it is tried again.
    pub(crate) until: Timestamp,
    lasts: Duration,
    /// Since when it is being tried.
    probe: Option<Timestamp>,
    lanes: Vec<Lane>,
}

/// Whether a host may be called.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// It may.
    Usable,
    /// It may, by whoever was told this: it was dead.
    Probe,
    /// It may not.
    Dead(Dead),
}

/// All dead hosts, and when those that live answered last.
#[derive(Debug)]
pub(crate) struct Hosts {
    dead: Recent<HostKey, Dead>,
    answered: Recent<HostKey, Timestamp>,
}

impl Dead {
    /// Whether it is to be tried again, and nobody does.
    fn is_over(&self, now: Timestamp) -> bool {
        let probed = self.probe.is_some_and(|since| now.since(since) < PROBE_MAX);
        // A clock that was set back must not make it dead for long.
        !probed && (self.until <= now || self.until.since(now) > LONGEST)
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            dead: Recent::new(HOSTS_MAX, AGE, |dead| dead.probe.is_some()),
            answered: Recent::new(HOSTS_MAX, LIVELY, |_| false),
        }
    }
}

impl Hosts {
    /// Whether a host may be called now, for mail of that lane.
    pub(crate) fn ask(&mut self, host: &HostKey, lane: &Lane, now: Timestamp) -> Standing {
        if self.dead.is_empty() {
            return Standing::Usable;
        }
        let Some(dead) = self.dead.touch(host) else {
            return Standing::Usable;
        };
        if dead.is_over(now) {
            dead.probe = Some(now);
            return Standing::Probe;
        }
        if !dead.lanes.contains(lane) && dead.lanes.len() < LANES_MAX {
            dead.lanes.push(lane.clone());
        }
        Standing::Dead(dead.clone())
    }

    /// What is known of a host that may not be called now, for mail of that lane; a probe is not
    /// begun by this.
    pub(crate) fn skip(&mut self, host: &HostKey, lane: &Lane, now: Timestamp) -> Option<Dead> {
        if self.dead.peek(host)?.is_over(now) {
            return None;
        }
        match self.ask(host, lane, now) {
            Standing::Dead(dead) => Some(dead),
            Standing::Usable | Standing::Probe => None,
        }
    }

    /// A host could not be called, or not talked to. Several who were at it at the same time say
    /// it once. Until when it is dead, where that is news.
    pub(crate) fn failed(
        &mut self,
        host: HostKey,
        was_probe: bool,
        error: &str,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let cut = error.floor_char_boundary(ERROR_MAX);
        let error = error.get(..cut).unwrap_or_default();
        let mut is_new = false;
        let dead = self.dead.touch_or(host, now, || {
            is_new = true;
            Dead {
                error: error.to_owned(),
                at: now,
                until: now + FIRST,
                lasts: FIRST,
                probe: None,
                lanes: Vec::new(),
            }
        });
        if is_new || !was_probe {
            return is_new.then_some(dead.until);
        }
        dead.lasts = (dead.lasts * 2).min(LONGEST);
        dead.at = now;
        dead.until = now + dead.lasts;
        dead.probe = None;
        dead.error.replace_range(.., error);
        Some(dead.until)
    }

    /// A host lives: it has answered just now. The lanes that wait for it, where it was dead.
    pub(crate) fn lives(&mut self, host: &HostKey, now: Timestamp) -> Option<Vec<Lane>> {
        *self.answered.touch_or(host.clone(), now, || now) = now;
        if self.dead.is_empty() {
            return None;
        }
        self.dead.remove(host).map(|dead| dead.lanes)
    }

    /// Whether it answered well only a moment ago, whosever mail that was.
    pub(crate) fn is_lively(&self, host: &HostKey, now: Timestamp) -> bool {
        let last = self.answered.peek(host);
        last.is_some_and(|&at| now.since(at) < LIVELY)
    }

    /// A probe has come to nothing that says anything of the host: another may follow.
    pub(crate) fn withdraw(&mut self, host: &HostKey) {
        if let Some(dead) = self.dead.touch(host) {
            dead.probe = None;
        }
    }

    pub(crate) fn find(&self, host: &HostKey) -> Option<&Dead> {
        self.dead.peek(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn host(n: u32) -> HostKey {
        HostKey {
            address: PeerAddress::Tcp(std::net::SocketAddr::new(
                std::net::Ipv4Addr::from(n).into(),
                25,
            )),
            name: "mx.test".to_owned(),
        }
    }

    fn shown(standing: &Standing) -> &'static str {
        match standing {
            Standing::Usable => "usable",
            Standing::Probe => "probe",
            Standing::Dead(_) => "dead",
        }
    }

    #[test]
    fn a_thousand_attempts_and_a_few_probes() {
        let (mut hosts, lane) = (Hosts::default(), Lane::new("a.test"));
        let one = host(1);
        assert_eq!(shown(&hosts.ask(&one, &lane, at(0))), "usable");
        // Five were at it together.
        for _ in 0..5 {
            hosts.failed(one.clone(), false, "timeout", at(30));
        }
        let mut probes = Vec::new();
        for second in 30..4000 {
            for _ in 0..3 {
                match hosts.ask(&one, &lane, at(second)) {
                    Standing::Probe => probes.push(second),
                    Standing::Dead(dead) => assert_eq!(dead.error, "timeout"),
                    Standing::Usable => panic!("{second}"),
                }
            }
            // A probe takes 20 s.
            if probes.last() == Some(&(second - 20)) {
                hosts.failed(one.clone(), true, "timeout", at(second));
            }
        }
        assert_eq!(probes, [60, 140, 280, 540, 1040, 1660, 2280, 2900, 3520]);
    }

    #[test]
    fn who_finds_it_alive_forgets_and_tells_who_waits() {
        let (mut hosts, one) = (Hosts::default(), host(1));
        let lanes: Vec<_> = (0..100).map(|n| Lane::new(&format!("{n}.test"))).collect();
        hosts.failed(one.clone(), false, "refused", at(0));
        for lane in lanes.iter().chain(&lanes) {
            assert_eq!(shown(&hosts.ask(&one, lane, at(1))), "dead");
        }
        assert_eq!(shown(&hosts.ask(&one, &lanes[0], at(30))), "probe");
        assert_eq!(hosts.lives(&one, at(30)).unwrap(), lanes[..LANES_MAX]);
        assert_eq!(shown(&hosts.ask(&one, &lanes[0], at(30))), "usable");
        assert_eq!(hosts.lives(&one, at(31)), None);
        assert!(hosts.is_lively(&one, at(90)) && !hosts.is_lively(&one, at(91)));
        // It begins anew.
        hosts.failed(one.clone(), false, "refused", at(40));
        assert_eq!(hosts.find(&one).unwrap().until, at(70));
    }

    #[test]
    fn a_probe_that_is_lost_is_followed_by_another() {
        let (mut hosts, lane, one) = (Hosts::default(), Lane::new("a.test"), host(1));
        hosts.failed(one.clone(), false, "x", at(0));
        assert_eq!(shown(&hosts.ask(&one, &lane, at(30))), "probe");
        assert_eq!(shown(&hosts.ask(&one, &lane, at(31))), "dead");
        assert_eq!(shown(&hosts.ask(&one, &lane, at(30 + 900))), "probe");
        hosts.withdraw(&one);
        assert_eq!(shown(&hosts.ask(&one, &lane, at(931))), "probe");
        // The clock is set back by a day.
        hosts.failed(one.clone(), true, "x", at(100_000));
        assert_eq!(shown(&hosts.ask(&one, &lane, at(13_600))), "probe");
    }

    #[test]
    fn however_many_there_are() {
        let mut hosts = Hosts::default();
        for n in 0..200_000 {
            hosts.failed(host(n), false, "x", at(0));
        }
        assert!(hosts.dead.len() <= HOSTS_MAX);
    }
}
