//! An operator at work over the admin socket of a service that is killed again and again: holds,
//! releases and removes letters that wait, and keeps book of what was reported as done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::http::post_json;
use crate::letters::{Dice, Letter};
use crate::process::PATIENCE;

/// An operator's pace.
const PAUSE: Duration = Duration::from_millis(20);
/// Letters of a listing, at most.
const PAGE: usize = 16;
/// Those of `late.test` alone are touched: the others may be on their way to the next hop.
const LATE: &str = "@late.test";

/// Where a letter stands, as far as the service has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Held,
    Free,
    Removed,
    /// It was killed before it said what became of an order; whether that was a removal.
    Unsure {
        removal: bool,
    },
}

#[derive(Debug, Default)]
struct Book(Mutex<BTreeMap<Letter, Word>>);

impl Book {
    fn open(&self) -> MutexGuard<'_, BTreeMap<Letter, Word>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order is about to be sent; what was known before.
    fn ask(&self, letter: Letter, removal: bool) -> anyhow::Result<Option<Word>> {
        let mut book = self.open();
        let before = book.get(&letter).copied();
        if before == Some(Word::Removed) {
            bail!("back again: the book stays as it is, for that to be found");
        }
        book.insert(letter, Word::Unsure { removal });
        Ok(before)
    }
}

/// The operator.
#[derive(Debug)]
pub struct Orders {
    socket: PathBuf,
    book: Arc<Book>,
    sent: watch::Sender<usize>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// A letter in a listing.
struct Listed {
    letter: Letter,
    id: String,
    held: bool,
}

impl Orders {
    /// Sets one to work.
    #[must_use]
    pub fn start(socket: PathBuf, seed: u64) -> Self {
        let (book, sent, stop) = (
            Arc::<Book>::default(),
            watch::Sender::default(),
            watch::Sender::new(false),
        );
        let work = (socket.clone(), Arc::clone(&book), sent.clone());
        let mut stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let (socket, book, sent) = work;
            tokio::select! {
                never = order_for_ever(&socket, &book, &sent, Dice(seed)) => match never {},
                _ = stopped.wait_for(|&stop| stop) => {}
            }
        });
        Self {
            socket,
            book,
            sent,
            stop,
            task,
        }
    }

    /// Waits until one more order has been sent: what becomes of it is not known yet.
    ///
    /// # Errors
    /// Where none is.
    pub async fn until_sent(&self) -> anyhow::Result<()> {
        let mut sent = self.sent.subscribe();
        match tokio::time::timeout(PATIENCE, sent.changed()).await {
            Ok(changed) => Ok(changed?),
            Err(_) => bail!("no order is given: no letters wait"),
        }
    }

    /// Ends the work; looks whether the running service stands by what it said, and releases all.
    ///
    /// # Errors
    /// Where it does not; the error says in what.
    pub async fn end(self) -> anyhow::Result<Ended> {
        self.stop.send_replace(true);
        self.task.await?;
        let mut listed = Vec::new();
        let mut after = Value::Null;
        loop {
            let (page, last) = page(&self.socket, &after, 1000).await?;
            if page.is_empty() {
                break;
            }
            listed.extend(page);
            after = last;
        }
        let book = self.book.open().clone();
        let forgotten: Vec<_> = listed
            .iter()
            .filter(|found| match book.get(&found.letter) {
                Some(Word::Held) => !found.held,
                Some(Word::Free) | None => found.held,
                Some(Word::Removed) => true,
                Some(Word::Unsure { .. }) => false,
            })
            .map(|found| (found.letter, found.held, book.get(&found.letter)))
            .collect();
        if !forgotten.is_empty() {
            bail!("orders were forgotten; letters, whether held, and what was said: {forgotten:?}");
        }
        let all = json!({ "operation": "release", "filter": { "held": true } });
        post_json(&self.socket, "/queue/operate", &all).await?;
        let letters = |wanted: fn(&Word) -> bool| -> BTreeSet<Letter> {
            let those = book.iter().filter(|(_, word)| wanted(word));
            those.map(|(letter, _)| *letter).collect()
        };
        Ok(Ended {
            orders: *self.sent.borrow(),
            removed: letters(|word| *word == Word::Removed),
            unsure: letters(|word| matches!(word, Word::Unsure { removal: true })),
        })
    }
}

/// What an operator has done.
#[derive(Debug)]
pub struct Ended {
    /// Orders sent.
    pub orders: usize,
    /// What the service said that it removed.
    pub removed: BTreeSet<Letter>,
    /// What it may have removed.
    pub unsure: BTreeSet<Letter>,
}

async fn order_for_ever(
    socket: &Path,
    book: &Book,
    sent: &watch::Sender<usize>,
    mut dice: Dice,
) -> std::convert::Infallible {
    let mut after = Value::Null;
    loop {
        tokio::time::sleep(PAUSE).await;
        // The oldest wait longest, and have outlived the most kills: from there, again and again.
        let Ok((found, last)) = page(socket, &after, PAGE).await else {
            continue;
        };
        after = last;
        for one in found {
            let operation = match dice.below(64) {
                0 => "remove",
                1..12 => "hold",
                12..23 => "release",
                _ => continue,
            };
            let _ = order(socket, book, sent, &one, operation).await; // the book has it
        }
    }
}

async fn order(
    socket: &Path,
    book: &Book,
    sent: &watch::Sender<usize>,
    one: &Listed,
    operation: &str,
) -> anyhow::Result<()> {
    let removal = operation == "remove";
    let before = book.ask(one.letter, removal)?;
    let order = json!({ "operation": operation, "filter": { "ids": [one.id] } });
    sent.send_modify(|sent| *sent += 1);
    let done = post_json(socket, "/queue/operate", &order).await?;
    let word = match (done.get("messages").and_then(Value::as_u64), operation) {
        (Some(1), "remove") => Word::Removed,
        (Some(1), "hold") => Word::Held,
        (Some(1), _) => Word::Free,
        // It is not there: only a removal can have done that, whatever was said of it.
        _ if matches!(before, Some(Word::Unsure { removal: true })) => Word::Removed,
        _ => bail!("{:?} is gone, and nobody removed it: {done}", one.letter),
    };
    book.open().insert(one.letter, word);
    Ok(())
}

/// Some of the late letters, behind `after`, and behind what to look for the next: from the first
/// one again where there are no more.
async fn page(socket: &Path, after: &Value, max: usize) -> anyhow::Result<(Vec<Listed>, Value)> {
    let request = json!({ "filter": { "to": LATE }, "after": after, "max": max });
    let answer = post_json(socket, "/queue/page", &request).await?;
    let messages = answer.as_array().context("a listing")?;
    let listed = messages.iter().map(|message| {
        let text = |place: &str| message.pointer(place).and_then(Value::as_str);
        Some(Listed {
            letter: Letter::to(text("/recipients/0/address")?)?,
            id: text("/id")?.to_owned(),
            held: message.get("held")?.as_bool()?,
        })
    });
    let listed: Option<Vec<_>> = listed.collect();
    let listed = listed.with_context(|| format!("letters in {answer}"))?;
    let last = listed.last().map(|found| found.id.as_str().into());
    Ok((listed, last.unwrap_or(Value::Null)))
}
