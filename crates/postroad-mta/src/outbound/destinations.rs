//! What is known of each destination (a lane): how many attempts it bears, how the last ones went,
//! why it is left alone. See [`super::window`] for how the number of attempts follows what comes
//! of them.

use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::Lane;

use super::hosts::HostKey;
use super::recent::Recent;
use super::slots::Standing;
use super::window::Window;

/// Destinations that are remembered: those met last. One that is forgotten starts anew.
pub(crate) const DESTINATIONS_MAX: usize = 50_000;
/// After which time without attempts one is forgotten.
const AGE: Duration = Duration::from_secs(3600);
/// A success says something for so long.
const SUCCESS_LASTS: Duration = Duration::from_secs(3600);
/// Who took mail within this time lives.
const LIVELY: Duration = Duration::from_secs(60);
/// An attempt that takes longer than this is slow.
const SLOW: Duration = Duration::from_secs(10);
/// So many attempts may find it full one after the other: those that were claimed before its bound
/// was known.
const REFUSED_MAX: u32 = 64;
/// Dead hosts of a destination that are remembered with it.
const DEAD_MAX: usize = 8;
/// Octets of a remembered error, at most.
const ERROR_MAX: usize = 256;

/// What an attempt says of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A host took the message, or refused a recipient as it does when it is well.
    Well,
    /// It bears less than it got: no connection, 421, a refusal that is no matter of the message.
    Failed,
    /// Neither.
    #[default]
    Nothing,
}

impl Verdict {
    /// What both together say: one host that does well is enough.
    pub(crate) const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Well, _) | (_, Self::Well) => Self::Well,
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::Nothing, Self::Nothing) => Self::Nothing,
        }
    }
}

/// An attempt that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    cohort: u32,
    at: Timestamp,
    pub(crate) standing: Standing,
}

/// What came of asking for an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// It may begin.
    Begun(Begun),
    /// As many are under way as may be.
    Full,
    /// They are, and it is asked for again and again: the store knows less of what is under way, as
    /// where somebody removes messages from the queue that are being tried.
    Overfull,
}

/// Mail that was put off only because no host could be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    None,
    /// There is some.
    Waits,
    /// A host lives again: with each success some more is made due.
    Moves,
}

/// What is known of a destination.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) window: Window,
    pub(crate) in_flight: usize,
    /// What the store was told last.
    told: Option<usize>,
    pub(crate) last_error: Option<(Timestamp, String)>,
    pub(crate) last_success: Option<Timestamp>,
    last_failed: bool,
    slow: bool,
    /// Until when it is left alone, and why.
    pub(crate) throttled: Option<(Timestamp, String)>,
    backlog: Backlog,
    /// Attempts that found it full, one after the other.
    refused: u32,
    pub(crate) dead: Vec<HostKey>,
}

/// All destinations that are remembered.
#[derive(Debug)]
pub(crate) struct Destinations(Recent<Lane, Destination>);

impl Default for Destinations {
    fn default() -> Self {
        Self(Recent::new(DESTINATIONS_MAX, AGE, |destination| {
            destination.in_flight > 0
        }))
    }
}

impl Destination {
    fn new(max: usize) -> Self {
        Self {
            window: Window::new(max),
            in_flight: 0,
            told: None,
            last_error: None,
            last_success: None,
            last_failed: false,
            slow: false,
            throttled: None,
            backlog: Backlog::None,
            refused: 0,
            dead: Vec::new(),
        }
    }

    fn standing(&self, now: Timestamp) -> Standing {
        let recent = |at: Timestamp| now.since(at) < SUCCESS_LASTS;
        match self.last_success {
            _ if self.last_failed => Standing::Troubled,
            Some(at) if recent(at) && !self.slow => Standing::Well,
            _ => Standing::Unproven,
        }
    }

    /// The bound, where the store does not know it yet.
    fn tell(&mut self) -> Option<usize> {
        let size = self.window.size();
        (self.told.replace(size) != Some(size)).then_some(size)
    }
}

impl Destinations {
    /// An attempt wants to begin. `max`: as many at once as the settings allow, where no route has
    /// said another number before. With what the store is to be told, if anything.
    pub(crate) fn begin(
        &mut self,
        lane: &Lane,
        max: usize,
        now: Timestamp,
    ) -> (Asked, Option<usize>) {
        let one = self.0.touch_or(lane.clone(), now, || Destination::new(max));
        if one.in_flight == 0 {
            // The store may have forgotten it with the lane.
            one.told = None;
        }
        if one.in_flight >= one.window.size() {
            one.told = None;
            one.refused += 1;
            if one.refused > REFUSED_MAX {
                one.refused = 0;
                return (Asked::Overfull, one.tell());
            }
            return (Asked::Full, one.tell());
        }
        one.refused = 0;
        one.in_flight += 1;
        let begun = Begun {
            cohort: one.window.cohort(),
            at: now,
            standing: one.standing(now),
        };
        (Asked::Begun(begun), one.tell())
    }

    /// The route of an attempt that has begun says how many there may be at once. Whether it may
    /// go on; where it may not, it has ended.
    pub(crate) fn admit(&mut self, lane: &Lane, max: usize) -> (bool, Option<usize>) {
        let Some(one) = self.0.touch(lane) else {
            return (true, None);
        };
        if one.window.max() != max.max(1) {
            one.window.set_max(max);
        }
        let fits = one.in_flight <= one.window.size();
        if !fits {
            one.in_flight -= 1;
        }
        (fits, one.tell())
    }

    /// An attempt has ended. With what the store is to be told.
    pub(crate) fn end(
        &mut self,
        lane: &Lane,
        begun: &Begun,
        verdict: Verdict,
        error: Option<&str>,
        now: Timestamp,
    ) -> Option<usize> {
        let one = self.0.touch(lane)?;
        one.in_flight = one.in_flight.saturating_sub(1);
        if let Some(error) = error {
            let cut = error.floor_char_boundary(ERROR_MAX);
            let error = error.get(..cut).unwrap_or_default().to_owned();
            one.last_error = Some((now, error));
        }
        match verdict {
            Verdict::Well => {
                one.last_success = Some(now);
                one.last_failed = false;
                one.slow = now.since(begun.at) > SLOW;
                one.window.succeeded();
            }
            Verdict::Failed => {
                one.last_failed = true;
                one.window.failed(begun.cohort);
            }
            Verdict::Nothing => {}
        }
        one.tell()
    }

    /// An attempt has ended before it came to anything.
    pub(crate) fn withdraw(&mut self, lane: &Lane) {
        if let Some(one) = self.0.touch(lane) {
            one.in_flight = one.in_flight.saturating_sub(1);
        }
    }

    /// Whether it took mail only a moment ago.
    pub(crate) fn is_lively(&self, lane: &Lane, now: Timestamp) -> bool {
        let last = self.0.peek(lane).and_then(|one| one.last_success);
        last.is_some_and(|at| now.since(at) < LIVELY)
    }

    /// It is left alone until then.
    pub(crate) fn throttle(&mut self, lane: &Lane, until: Timestamp, why: String) {
        if let Some(one) = self.0.touch(lane) {
            one.throttled = Some((until, why));
        }
    }

    /// Until when it is left alone.
    pub(crate) fn throttled(&self, lane: &Lane, now: Timestamp) -> Option<Timestamp> {
        let (until, _) = self.0.peek(lane)?.throttled.as_ref()?;
        (*until > now).then_some(*until)
    }

    /// A host of it was found dead, or is known to be.
    pub(crate) fn dead(&mut self, lane: &Lane, host: &HostKey) {
        if let Some(one) = self.0.touch(lane)
            && !one.dead.contains(host)
        {
            if one.dead.len() >= DEAD_MAX {
                one.dead.remove(0);
            }
            one.dead.push(host.clone());
        }
    }

    /// A message waits only because none of its hosts could be reached.
    pub(crate) fn waits(&mut self, lane: &Lane) {
        if let Some(one) = self.0.touch(lane) {
            one.backlog = Backlog::Waits;
        }
    }

    /// A host of it lives. How many of the messages that wait only for that may be made due, where
    /// there are any: as many as may be under way, each time that one has got through. With what
    /// the store is to be told.
    pub(crate) fn revive(&mut self, lane: &Lane) -> (Option<usize>, Option<usize>) {
        let Some(one) = self.0.touch(lane) else {
            return (None, None);
        };
        match one.backlog {
            Backlog::None => return (None, None),
            Backlog::Waits => {
                one.last_failed = false;
                one.window.revived();
                one.backlog = Backlog::Moves;
            }
            Backlog::Moves => {}
        }
        (Some(one.window.size()), one.tell())
    }

    /// All that waited for a host is due.
    pub(crate) fn is_hastened(&mut self, lane: &Lane) {
        if let Some(one) = self.0.touch(lane)
            && one.backlog == Backlog::Moves
        {
            one.backlog = Backlog::None;
        }
    }

    pub(crate) fn find(&self, lane: &Lane) -> Option<&Destination> {
        self.0.peek(lane)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Lane, &Destination)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_net::client::PeerAddress;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn begin(all: &mut Destinations, lane: &Lane, now: u64) -> Begun {
        match all.begin(lane, 20, at(now)).0 {
            Asked::Begun(begun) => begun,
            Asked::Full | Asked::Overfull => panic!("full"),
        }
    }

    #[test]
    fn the_store_is_told_when_the_bound_changes_and_when_it_may_have_forgotten() {
        let (mut all, lane) = (Destinations::default(), Lane::new("a.test"));
        let mut begun = Vec::new();
        for n in 0..7 {
            let (asked, tell) = all.begin(&lane, 20, at(0));
            match asked {
                Asked::Begun(one) => begun.push(one),
                Asked::Full | Asked::Overfull => assert!(n >= 5),
            }
            // Whoever finds it full says so again.
            assert_eq!(tell, (n == 0 || n >= 5).then_some(5), "{n}");
        }
        let told: Vec<_> = begun
            .iter()
            .map(|one| all.end(&lane, one, Verdict::Well, None, at(1)))
            .collect();
        assert_eq!(told, [6, 7, 8, 9, 10].map(Some));
        assert_eq!(all.begin(&lane, 20, at(2)).1, Some(10));
        assert_eq!(all.begin(&lane, 20, at(2)).1, None);
    }

    #[test]
    fn a_route_says_how_many() {
        let (mut all, lane) = (Destinations::default(), Lane::new("a.test"));
        for _ in 0..5 {
            begin(&mut all, &lane, 0);
        }
        let admitted: Vec<_> = (0..5).map(|_| all.admit(&lane, 2)).collect();
        let expected = [
            (false, Some(2)),
            (false, None),
            (false, None),
            (true, None),
            (true, None),
        ];
        assert_eq!(admitted, expected);
        assert!(matches!(all.begin(&lane, 20, at(1)).0, Asked::Full));
        assert_eq!(all.find(&lane).unwrap().in_flight, 2);
    }

    #[test]
    fn how_it_stands() {
        let (mut all, lane) = (Destinations::default(), Lane::new("a.test"));
        for (now, verdict, took, then) in [
            (0, Verdict::Nothing, 1, Standing::Unproven),
            (10, Verdict::Well, 1, Standing::Well),
            (20, Verdict::Nothing, 1, Standing::Well),
            (30, Verdict::Failed, 1, Standing::Troubled),
            (40, Verdict::Well, 11, Standing::Unproven),
            (60, Verdict::Well, 10, Standing::Well),
        ] {
            let begun = begin(&mut all, &lane, now);
            all.end(&lane, &begun, verdict, None, at(now + took));
            let one = all.find(&lane).unwrap();
            assert_eq!(one.standing(at(now + took)), then, "{now}");
        }
        let one = all.find(&lane).unwrap();
        assert_eq!(one.standing(at(70 + 3600)), Standing::Unproven);
    }

    #[test]
    fn a_backlog_is_revived_step_by_step() {
        let (mut all, lane) = (Destinations::default(), Lane::new("a.test"));
        let host = HostKey {
            address: PeerAddress::Tcp("192.0.2.1:25".parse().unwrap()),
            name: "mx.a.test".to_owned(),
        };
        assert_eq!(all.revive(&lane), (None, None));
        let begun = begin(&mut all, &lane, 0);
        all.dead(&lane, &host);
        all.dead(&lane, &host);
        assert_eq!(all.revive(&lane), (None, None));
        all.waits(&lane);
        let long = "\u{fc}".repeat(1000);
        let told = all.end(&lane, &begun, Verdict::Failed, Some(&long), at(1));
        assert_eq!(told, Some(2));
        let one = all.find(&lane).unwrap();
        assert_eq!(one.dead, [host]);
        assert_eq!(one.last_error.as_ref().unwrap().1.len(), ERROR_MAX);
        assert_eq!(all.revive(&lane), (Some(5), Some(5)));
        // With each success as many as may be under way, until all are due.
        all.end(&lane, &begun, Verdict::Well, None, at(2));
        assert_eq!(all.revive(&lane), (Some(6), None));
        all.is_hastened(&lane);
        assert_eq!(all.revive(&lane), (None, None));
        // What has come to wait meanwhile is not forgotten.
        all.waits(&lane);
        all.is_hastened(&lane);
        assert_eq!(all.revive(&lane), (Some(6), None));
    }

    #[test]
    fn left_alone() {
        let (mut all, lane) = (Destinations::default(), Lane::new("a.test"));
        begin(&mut all, &lane, 0);
        all.throttle(&lane, at(60), "rate".to_owned());
        assert_eq!(all.throttled(&lane, at(59)), Some(at(60)));
        assert_eq!(all.throttled(&lane, at(60)), None);
        all.withdraw(&lane);
        assert_eq!(all.find(&lane).unwrap().in_flight, 0);
    }

    #[test]
    fn however_many_there_are() {
        let mut all = Destinations::default();
        let busy = Lane::new("busy.test");
        begin(&mut all, &busy, 0);
        for n in 0..3 * DESTINATIONS_MAX {
            let lane = Lane::new(&format!("{n}.test"));
            let begun = begin(&mut all, &lane, 1);
            all.end(&lane, &begun, Verdict::Well, None, at(1));
        }
        assert!(all.iter().count() <= DESTINATIONS_MAX + 1);
        assert_eq!(all.find(&busy).unwrap().in_flight, 1);
    }
}
