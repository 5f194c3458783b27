//! Whether a store keeps its promises on what a disk has after a power cut.

use std::path::Path;
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::contract::{START, accept, deliver, request};
use postroad_queue::{Filter, Listed, QueueId, Store as _, StoreError};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::disk::{Cut, power_cut};
use super::faults::Op;
use super::model::Model;
use crate::io::Io;
use crate::{LocalStore, Options, RecoveryReport};

pub(crate) const INLINE_MAX: usize = 1000;

/// A directory in memory, where that can be had: nothing here is about a real disk.
pub(crate) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.unwrap()
}

pub(crate) fn open(path: &Path, io: Io) -> Result<(LocalStore, RecoveryReport), StoreError> {
    // No index: it is not what this is about.
    std::fs::write(path.join("index"), "").unwrap();
    let options = Options {
        segment_size: 6000,
        inline_max: INLINE_MAX,
        min_free: 0,
        ..Options::new(path)
    };
    LocalStore::open_with(options, io)
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// All there is; what is due when, whether under lease, held or not.
pub(crate) async fn listing(store: &LocalStore) -> Vec<Listed> {
    let mut listed = store.page(&Filter::default(), None, 1000).await.unwrap();
    let table = store.inner().table();
    assert_eq!(table.len(), listed.len(), "all can be listed");
    for message in &mut listed {
        for recipient in &mut message.recipients {
            let job = table.job(message.id, &recipient.lane);
            let job = job.filter(|_| !recipient.state.is_final());
            let due = job.map(|job| job.scheduled);
            assert!(recipient.due.is_none() || recipient.due == due);
            recipient.due = due;
        }
    }
    listed
}

/// A power cut after these: what the disk then has opens, has what was promised, and can be used.
pub(crate) fn survives(ops: &[Op], marks: &[Model], cut: Cut) -> Result<(), String> {
    let dir = directory();
    power_cut(ops, cut, dir.path());
    let marked = ops.iter().rev().find_map(|op| match op {
        Op::Mark(mark) => Some(*mark),
        _ => None,
    });
    keeps(dir.path(), marks[marked.unwrap_or(0)].clone())
}

/// What is there opens, has what the model says was promised, and can be used.
pub(crate) fn keeps(path: &Path, mut model: Model) -> Result<(), String> {
    runtime().block_on(async {
        let (store, report) = open(path, Io::default())
            .map_err(|error| format!("it does not open: {error}: {error:?}"))?;
        let listed = listing(&store).await;
        model.crashed(&listed)?;
        for listed in &listed {
            let content = store.content(listed.id).await.map_err(|e| e.to_string())?;
            let mut whole = Vec::new();
            while (whole.len() as u64) < content.len() {
                let piece = content.read(whole.len() as u64, 5000).await;
                let piece = piece.map_err(|e| format!("{}: {e}; {report:?}", listed.id))?;
                whole.extend_from_slice(&piece);
            }
            if whole != model.messages[&listed.id].whole {
                return Err(format!("{} has another content", listed.id));
            }
        }
        goes_on(store, &model, path).await
    })
}

/// A store that was opened after a crash is used, and opened once more.
async fn goes_on(store: LocalStore, model: &Model, path: &Path) -> Result<(), String> {
    let far = START + Duration::from_secs(1_000_000);
    let mut due: Vec<(Timestamp, QueueId, String, bool)> = Vec::new();
    let mut left: Vec<QueueId> = Vec::new();
    for (id, message) in &model.messages {
        if message.base.held {
            left.push(*id);
        } else {
            let jobs = message.base.lanes.iter();
            due.extend(jobs.map(|job| (job.due, *id, job.name.clone(), job.attempts > 0)));
        }
    }
    due.sort();
    let claims = store.claim(far, &request(1000, 1000)).await;
    let claims = claims.map_err(|error| error.to_string())?;
    let mut lanes: Vec<String> = due.iter().map(|due| due.2.clone()).collect();
    lanes.sort();
    lanes.dedup();
    // What was tried before is in an order of its own.
    for (lane, tried) in lanes.iter().flat_map(|lane| [(lane, false), (lane, true)]) {
        let of = claims.iter().filter(|c| c.lease.lane.as_str() == lane);
        let of = of.filter(|c| (c.attempts > 0) == tried);
        let found: Vec<QueueId> = of.map(|claimed| claimed.lease.id).collect();
        let should = due
            .iter()
            .filter(|(.., of, was)| of == lane && *was == tried);
        if !should.map(|(_, id, ..)| *id).eq(found.iter().copied()) {
            return Err(format!("in {lane} come {found:?}, of {due:?}"));
        }
    }
    if claims.len() != due.len() {
        return Err(format!("{} are claimed of {}", claims.len(), due.len()));
    }
    for claimed in &claims {
        deliver(&store, far, claimed).await;
    }
    left.push(accept(&store, far, &["u@a.example"], b"new").await);
    store.close().await.map_err(|error| error.to_string())?;
    drop(store);
    let (store, report) = open(path, Io::default()).map_err(|error| error.to_string())?;
    let listed = listing(&store).await;
    if !left.iter().copied().eq(listed.iter().map(|m| m.id)) || !report.clean {
        return Err(format!("afterwards it has not {left:?} but {listed:?}"));
    }
    Ok(())
}
