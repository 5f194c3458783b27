//! A queue in plain lists, to hold the store against: what each message may be after a crash, given
//! what was promised of it.

use std::collections::{BTreeMap, BTreeSet};

use postroad_mail::Timestamp;
use postroad_queue::{Listed, QueueId, RecipientState};

/// Something that has happened to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Attempt {
        lane: String,
        finals: Vec<(usize, RecipientState)>,
        attempts: u32,
        due: Timestamp,
        warned: bool,
        /// It owed a notice, and is told by that too.
        notice: bool,
    },
    Hold,
    Release,
    Retry(Timestamp),
    Removed,
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) what: What,
    /// It is on disk in the journal: whoever asked was told so, or a tick has come to its end.
    pub(crate) synced: bool,
    /// It is on disk, be it in the journal or with a notice.
    pub(crate) sure: bool,
    /// Writing it may have failed.
    pub(crate) shaky: bool,
    /// It holds as long as the process lives; else it was refused.
    pub(crate) holds: bool,
}

/// A notice that may be there, with what it is about.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) about: QueueId,
    pub(crate) message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) attempts: u32,
    pub(crate) due: Timestamp,
    pub(crate) warned: bool,
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) held: bool,
    /// Each recipient's lane and state.
    pub(crate) recipients: Vec<(String, RecipientState)>,
    /// The lanes in which a recipient waits.
    pub(crate) lanes: Vec<Lane>,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) whole: Vec<u8>,
    pub(crate) arrived: Timestamp,
    /// Its sender was told that it is there.
    pub(crate) acked: bool,
    /// It is in the queue, whoever was told.
    pub(crate) live: bool,
    /// When it came, or when the store was opened last.
    pub(crate) base: State,
    pub(crate) since: Vec<Event>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) messages: BTreeMap<QueueId, Message>,
    /// The notice that is on its way; the newest event of its message owes it.
    pub(crate) owed: Option<Owed>,
    /// Notices that were refused; they may be there all the same.
    pub(crate) refused: Vec<Message>,
}

impl State {
    pub(crate) fn new(lanes: &[String], due: Timestamp) -> Self {
        let names: BTreeSet<&String> = lanes.iter().collect();
        let lane = |name: &String| Lane {
            name: name.clone(),
            attempts: 0,
            due,
            warned: false,
        };
        Self {
            held: false,
            recipients: lanes
                .iter()
                .map(|lane| (lane.clone(), RecipientState::Waiting))
                .collect(),
            lanes: names.into_iter().map(lane).collect(),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(crate) fn lane(&self, name: &str) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.name == name)
    }

    /// The recipients that wait in a lane.
    pub(crate) fn waiting(&self, lane: &str) -> Vec<usize> {
        let all = self.recipients.iter().enumerate();
        all.filter(|(_, (of, state))| of == lane && !state.is_final())
            .map(|(place, _)| place)
            .collect()
    }

    pub(crate) fn apply(&mut self, what: &What) {
        match what {
            What::Hold => self.held = true,
            What::Release => self.held = false,
            What::Retry(at) => {
                for lane in &mut self.lanes {
                    lane.due = *at;
                }
            }
            What::Removed => self.lanes.clear(),
            What::Attempt {
                lane: name,
                finals,
                attempts,
                due,
                warned,
                ..
            } => {
                let Some(lane) = self.lanes.iter_mut().find(|lane| lane.name == *name) else {
                    return;
                };
                if *attempts >= lane.attempts {
                    (lane.attempts, lane.due) = (*attempts, *due);
                }
                lane.warned |= warned;
                for (place, state) in finals {
                    if !self.recipients[*place].1.is_final() {
                        self.recipients[*place].1 = *state;
                    }
                }
                if self.waiting(name).is_empty() {
                    self.lanes.retain(|lane| lane.name != *name);
                }
            }
        }
    }

    /// Whether a listing says the same.
    pub(crate) fn is_listed(&self, listed: &Listed) -> bool {
        self.held == listed.held
            && self.recipients.len() == listed.recipients.len()
            && self
                .recipients
                .iter()
                .zip(&listed.recipients)
                .all(|((lane, state), shown)| {
                    let job = self.lane(lane);
                    let attempts = job.map_or(0, |job| job.attempts);
                    let due = job.filter(|_| !state.is_final());
                    *state == shown.state
                        && attempts.max(u32::from(state.is_final())) == shown.attempts
                        && due.map(|job| job.due) == shown.due
                        && job.is_some_and(|job| job.warned) == shown.warned
                })
    }
}

/// What may become of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Skipped,
    InPlace,
    /// Known from the notice alone, which is read after the journals.
    AtTheEnd,
}

impl Message {
    /// Where it stands, while the process lives.
    pub(crate) fn now(&self) -> State {
        let mut state = self.base.clone();
        for event in self.since.iter().filter(|event| event.holds) {
            state.apply(&event.what);
        }
        state
    }

    /// Where it may stand after a power cut.
    pub(crate) fn possible(&self) -> Vec<State> {
        let mut states = Vec::new();
        for fates in self.fates() {
            let state = self.after(&fates);
            if !states.contains(&state) {
                states.push(state);
            }
        }
        states
    }

    /// All that may become of what has happened since.
    fn fates(&self) -> Vec<Vec<Fate>> {
        let mut all = vec![Vec::new()];
        for event in &self.since {
            let notice = matches!(event.what, What::Attempt { notice: true, .. });
            let mut may = vec![Fate::InPlace];
            if notice && !event.synced {
                may.push(Fate::AtTheEnd);
            }
            if !event.sure {
                may.push(Fate::Skipped);
            }
            let with = |fates: &Vec<Fate>, fate: Fate| {
                let mut fates = fates.clone();
                fates.push(fate);
                fates
            };
            all = all
                .iter()
                .flat_map(|fates| may.iter().map(|fate| with(fates, *fate)))
                .collect();
        }
        all
    }

    fn after(&self, fates: &[Fate]) -> State {
        let mut state = self.base.clone();
        for wanted in [Fate::InPlace, Fate::AtTheEnd] {
            let each = self.since.iter().zip(fates);
            for (event, _) in each.filter(|(_, fate)| **fate == wanted) {
                state.apply(&event.what);
            }
        }
        state
    }

    /// What must have become of what has happened, if this is what there is.
    fn explain(&mut self, listed: Option<&Listed>) -> bool {
        let fits = |state: State| match listed {
            Some(listed) => !state.is_gone() && state.is_listed(listed),
            None => state.is_gone(),
        };
        let mut all = self.fates().into_iter();
        let Some(fates) = all.find(|fates| fits(self.after(fates))) else {
            return false;
        };
        let mut late = Vec::new();
        let mut events = Vec::new();
        for (mut event, fate) in std::mem::take(&mut self.since).into_iter().zip(fates) {
            event.holds = fate != Fate::Skipped;
            event.shaky |= fate == Fate::Skipped;
            match fate {
                Fate::AtTheEnd => late.push(event),
                Fate::InPlace | Fate::Skipped => events.push(event),
            }
        }
        events.append(&mut late);
        self.since = events;
        true
    }
}

impl Model {
    /// All that was written is on disk.
    pub(crate) fn synced(&mut self) {
        for message in self.messages.values_mut() {
            for event in message.since.iter_mut().filter(|event| !event.shaky) {
                (event.synced, event.sure) = (true, true);
            }
            // What is sure need not be thought about again.
            let sure = message.since.iter().take_while(|e| e.synced).count();
            for event in message.since.drain(..sure) {
                message.base.apply(&event.what);
            }
        }
        self.messages
            .retain(|_, m| !(m.acked && m.base.is_gone() && m.since.is_empty()));
    }

    /// The store has this after a crash. What is wrong with that; else it is what goes on from here.
    pub(crate) fn crashed(&mut self, listed: &[Listed]) -> Result<(), String> {
        self.find_owed(listed);
        for (id, message) in &self.messages {
            let possible = message.possible();
            let mut found = listed.iter().filter(|listed| listed.id == *id);
            match (found.next(), found.next()) {
                (_, Some(_)) => return Err(format!("{id} is there twice")),
                (None, _) if message.acked && !possible.iter().any(State::is_gone) => {
                    return Err(format!("{id} is lost: {message:?}"));
                }
                (None, _) => {}
                (Some(listed), None) => {
                    if listed.arrived != message.arrived
                        || listed.size != message.whole.len() as u64
                    {
                        return Err(format!("{id} is another: {listed:?}"));
                    }
                    if !possible
                        .iter()
                        .any(|state| !state.is_gone() && state.is_listed(listed))
                    {
                        return Err(format!(
                            "{id} is as it never was: {listed:#?}\nwhere it may be {possible:#?}\n{:#?}",
                            message.since
                        ));
                    }
                }
            }
        }
        if let Some(listed) = listed.iter().find(|l| !self.messages.contains_key(&l.id)) {
            return Err(format!("{} is back, or never was: {listed:?}", listed.id));
        }
        self.go_on(listed);
        Ok(())
    }

    /// The store has this after a restart that may have lost what could not be written; it is not
    /// all on disk.
    pub(crate) fn restarted(&mut self, listed: &[Listed]) -> Result<(), String> {
        self.clone().crashed(listed)?;
        self.find_owed(listed);
        for (id, message) in &mut self.messages {
            let found = listed.iter().find(|listed| listed.id == *id);
            message.live = found.is_some();
            if (message.acked || message.live) && !message.explain(found) {
                return Err(format!("{id} cannot be explained"));
            }
        }
        Ok(())
    }

    /// The store has this after a restart that loses nothing.
    pub(crate) fn reopened(&mut self, listed: &[Listed]) -> Result<(), String> {
        for (id, message) in &self.messages {
            let state = message.now();
            let found = listed.iter().find(|listed| listed.id == *id);
            match found {
                None if !message.live || state.is_gone() => {}
                Some(listed) if !state.is_gone() && state.is_listed(listed) => {}
                _ => {
                    return Err(format!(
                        "{id} is {found:#?}\nand not {state:#?}\n{:#?}",
                        message.since
                    ));
                }
            }
        }
        if let Some(listed) = listed.iter().find(|l| !self.messages.contains_key(&l.id)) {
            return Err(format!("{} is back, or never was: {listed:?}", listed.id));
        }
        Ok(())
    }

    /// A notice that was on its way is there, and then what it is about has happened too; or
    /// neither.
    fn find_owed(&mut self, listed: &[Listed]) {
        for message in std::mem::take(&mut self.refused) {
            let size = message.whole.len() as u64;
            match listed.iter().find(|listed| listed.size == size) {
                Some(listed) => drop(self.messages.insert(listed.id, message)),
                // Perhaps another time.
                None => self.refused.push(message),
            }
        }
        let Some(Owed { about, message }) = self.owed.take() else {
            return;
        };
        let found = listed.iter().find(|listed| {
            listed.size == message.whole.len() as u64 && !self.messages.contains_key(&listed.id)
        });
        if let Some(listed) = found {
            self.messages.insert(listed.id, message);
        }
        let Some(events) = self.messages.get_mut(&about).map(|m| &mut m.since) else {
            return;
        };
        match (found, events.last_mut()) {
            (Some(_), Some(event)) => event.sure = true,
            (None, _) => drop(events.pop()),
            (Some(_), None) => {}
        }
    }

    /// What is there now was there all along, and is on the disk.
    fn go_on(&mut self, listed: &[Listed]) {
        self.messages
            .retain(|id, _| listed.iter().any(|listed| listed.id == *id));
        for listed in listed {
            let message = self.messages.get_mut(&listed.id).unwrap();
            (message.acked, message.live) = (true, true);
            let possible = message.possible().into_iter();
            let mut fitting = possible.filter(|s| !s.is_gone() && s.is_listed(listed));
            message.base = fitting.next().unwrap();
            message.since.clear();
        }
    }
}
