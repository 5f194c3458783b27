//! Load on a service that is killed again and again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use tokio::sync::watch;

use crate::dialogue::Dialogue;
use crate::letters::Letter;
use crate::process::PATIENCE;
use crate::site::CREDENTIALS;

/// A client's pause before it calls again: nobody tells it when the service is back.
const PAUSE: Duration = Duration::from_millis(5);

/// How the senders reach the service.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// As other servers do.
    Relay(SocketAddr),
    /// As users do: TLS from the first octet, and AUTH.
    Submission(SocketAddr),
}

impl Way {
    async fn open(self) -> anyhow::Result<Dialogue> {
        match self {
            Self::Relay(address) => Dialogue::open(address).await,
            Self::Submission(address) => {
                let mut dialogue = Dialogue::open_tls(address).await?;
                dialogue
                    .say(&format!("AUTH PLAIN {CREDENTIALS}"), "235")
                    .await?;
                Ok(dialogue)
            }
        }
    }
}

/// How many letters have got their 250.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    all: usize,
    big: usize,
}

/// Senders at work, and the letters that got their 250.
#[derive(Debug)]
pub struct Load {
    senders: Vec<tokio::task::JoinHandle<()>>,
    acknowledged: watch::Sender<Tally>,
    letters: Arc<Mutex<BTreeSet<Letter>>>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Sets so many senders to work; `letter` writes the letter of a number.
    #[must_use]
    pub fn start(way: Way, senders: usize, letter: fn(u64) -> Letter) -> Self {
        let next = Arc::new(AtomicU64::new(0));
        let load = Self {
            senders: Vec::new(),
            acknowledged: watch::Sender::default(),
            letters: Arc::default(),
            stop: watch::Sender::new(false),
        };
        let senders = (0..senders).map(|_| {
            let (next, letters) = (Arc::clone(&next), Arc::clone(&load.letters));
            let (acknowledged, mut stop) = (load.acknowledged.clone(), load.stop.subscribe());
            let next = move || letter(next.fetch_add(1, Ordering::Relaxed));
            tokio::spawn(async move {
                tokio::select! {
                    never = send_for_ever(way, next, &letters, &acknowledged) => match never {},
                    _ = stop.wait_for(|&stop| stop) => {}
                }
            })
        });
        Self {
            senders: senders.collect(),
            ..load
        }
    }

    /// How many letters have got their 250.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.borrow().all
    }

    /// Waits until so many have.
    ///
    /// # Errors
    /// Where they do not.
    pub async fn until(&self, count: usize) -> anyhow::Result<()> {
        self.wait(|tally| tally.all >= count).await
    }

    /// Waits until so many have, and one that is big.
    ///
    /// # Errors
    /// Where they do not.
    pub async fn until_also_big(&self, count: usize) -> anyhow::Result<()> {
        self.wait(|tally| tally.all >= count && tally.big > 0).await
    }

    async fn wait(&self, enough: impl Fn(&Tally) -> bool) -> anyhow::Result<()> {
        let mut acknowledged = self.acknowledged.subscribe();
        let waiting = tokio::time::timeout(PATIENCE, acknowledged.wait_for(enough));
        if waiting.await.is_err() {
            bail!("{} accepted, and no more come", self.acknowledged());
        }
        Ok(())
    }

    /// Ends the load; gives the letters that were acknowledged.
    ///
    /// # Errors
    /// Where a sender has failed.
    pub async fn stop(self) -> anyhow::Result<BTreeSet<Letter>> {
        self.stop.send_replace(true);
        for sender in self.senders {
            sender.await?;
        }
        let letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(letters.clone())
    }
}

/// Session after session, letter after letter; notes those that got their 250.
async fn send_for_ever(
    way: Way,
    next: impl Fn() -> Letter,
    letters: &Mutex<BTreeSet<Letter>>,
    acknowledged: &watch::Sender<Tally>,
) -> std::convert::Infallible {
    loop {
        let Ok(mut dialogue) = way.open().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        loop {
            let letter = next();
            if letter.send(&mut dialogue).await.is_err() {
                break;
            }
            letters
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(letter);
            acknowledged.send_modify(|tally| {
                tally.all += 1;
                tally.big += usize::from(letter.is_big());
            });
        }
    }
}
