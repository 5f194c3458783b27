//! A next hop that misbehaves as a script says: see [`Script`]. It shares no code with Postroad.

mod script;
mod session;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

pub use script::{BadScript, Script};
pub use tls::{Authority, Identity};

use script::{Action, Ending};

/// What a hop speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// SMTP.
    Smtp,
    /// LMTP: a reply for each recipient behind the end of data (RFC 2033 section 4.2).
    Lmtp,
}

/// A message that the hop has got whole, and has not refused: if its client was told otherwise,
/// it will come again.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The MAIL line.
    pub mail: String,
    /// The recipients, without brackets.
    pub to: Vec<String>,
    /// What stood on the wire: between DATA and the final dot, dots doubled, or in the chunks.
    pub octets: Vec<u8>,
    /// Whether it came under TLS.
    pub tls: bool,
}

#[derive(Debug, Default)]
struct State {
    script: Script,
    /// How often each event has come.
    events: HashMap<String, usize>,
    /// Rules that have come to pass, by their places.
    fired: Vec<bool>,
    kept: Vec<Kept>,
    connections: usize,
}

/// A running hop. It ends with the last of its handles.
#[derive(Clone, Debug)]
pub struct Hop {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hop {
    /// Starts one at that address, with that name and certificates.
    ///
    /// # Panics
    /// Where somebody listens there.
    pub async fn start(
        address: SocketAddr,
        language: Language,
        script: Script,
        identity: Arc<Identity>,
    ) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .expect("the address is this test's own");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(Mutex::new(State {
            fired: vec![false; script.rules.len()],
            script,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                lock(&shared).connections += 1;
                let (state, identity) = (Arc::clone(&shared), Arc::clone(&identity));
                tokio::spawn(async move {
                    // A client that goes is no fault of the hop.
                    let _ = session::serve(stream, language, &state, &identity).await;
                });
            }
        });
        Self {
            address,
            state,
            _task: Arc::new(AbortOnDrop(task.abort_handle())),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on follows another script. Rules that have come to pass are forgotten.
    pub fn follow(&self, script: Script) {
        let mut state = lock(&self.state);
        state.fired = vec![false; script.rules.len()];
        state.script = script;
        state.events.clear();
    }

    /// The messages that it has got whole and not refused, in order.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        lock(&self.state).kept.clone()
    }

    /// How many connections it has taken.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }

    /// How often an event has come, as in `DATA`.
    #[must_use]
    pub fn seen(&self, event: &str) -> usize {
        lock(&self.state).events.get(event).copied().unwrap_or(0)
    }

    /// The rules of its script that are not as they should be: they have never come to pass, or
    /// say `never` and have.
    #[must_use]
    pub fn wrong_rules(&self) -> Vec<String> {
        let state = lock(&self.state);
        let rules = state.script.rules.iter().zip(&state.fired);
        let wrong = rules.filter(|(rule, fired)| (rule.action == Action::Never) == **fired);
        wrong.map(|(rule, _)| rule.text.clone()).collect()
    }
}

impl State {
    /// What to do about an event; the usual, where no rule is about it.
    fn act(&mut self, event: &str, line: &str) -> (Action, Ending) {
        let count = self.events.entry(event.to_owned()).or_default();
        *count += 1;
        let count = *count;
        let rules = self.script.rules.iter();
        let Some(place) = rules.clone().position(|r| r.is_about(event, line, count)) else {
            return (Action::Usual, Ending::GoOn);
        };
        if let Some(fired) = self.fired.get_mut(place) {
            *fired = true;
        }
        let rule = rules.as_slice().get(place);
        rule.map_or((Action::Usual, Ending::GoOn), |rule| {
            (rule.action.clone(), rule.ending)
        })
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
