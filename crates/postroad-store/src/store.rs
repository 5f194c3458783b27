use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use postroad_mail::Timestamp;
use postroad_queue::{
    AttemptRecord, BoxFuture, ClaimRequest, Claimed, Content, Filter, Incoming, Lane, LaneSummary,
    Lease, Listed, ListedRecipient, Operation, QueueId, Store, StoreError, Totals,
};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::checkpoint;
use crate::content::blocking;
use crate::incoming::{LocalIncoming, prepare_notices};
use crate::index::Index;
use crate::inner::{Inner, Ready};
use crate::io::{Io, failed};
use crate::options::{Durability, Options, RecoveryReport};
use crate::record::{Settles, State};
use crate::recover::{Recovered, recover};
use crate::writer::{Commit, RECORD_AGAIN, Writer};

/// Commits that may wait for the writer; beyond that, whoever commits waits.
const COMMITS_MAX: usize = 1024;
/// What a message that cannot be read is put off by, so that it does not keep the others.
const UNREADABLE: Duration = Duration::from_secs(600);
const FORMAT: &str = "1";

/// The queue in a directory. One process has it open at a time.
#[derive(Clone, Debug)]
pub struct LocalStore(Arc<Handle>);

/// What ends the threads when the last one lets go of it.
#[derive(Debug)]
pub(crate) struct Handle {
    inner: Arc<Inner>,
    running: Mutex<Option<Running>>,
    /// Held for as long as a stop takes: who asks for another waits for it. Not `running`, for
    /// which commits wait that the stop waits for.
    stopping: Mutex<()>,
}

#[derive(Debug)]
struct Running {
    commits: mpsc::Sender<Commit>,
    stop: [std_mpsc::Sender<()>; 2],
    threads: Vec<JoinHandle<()>>,
    _lock: Flock<std::fs::File>,
}

impl LocalStore {
    /// Opens a store, or makes one. Reads the whole log unless the last stop was clean, and blocks
    /// meanwhile: asynchronous callers use `spawn_blocking`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process has it, [`StoreError::Format`] where it is of
    /// another version, and whatever reading it comes to. Damage is no error: it is in the report.
    pub fn open(options: Options) -> Result<(Self, RecoveryReport), StoreError> {
        Self::open_with(options, Io::default())
    }

    pub(crate) fn open_with(
        options: Options,
        io: Io,
    ) -> Result<(Self, RecoveryReport), StoreError> {
        io.make_dir(&options.path)?;
        let lock = take_lock(&io, &options)?;
        check_format(&io, &options)?;
        io.make_dir(&options.path.join("big"))?;
        io.sync_dir(&options.path)?;
        let found = match checkpoint::take(&io, &options)? {
            Some(restored) => Recovered::clean(&io, &options, restored)?,
            None => recover(&io, &options)?,
        };
        let (epoch, seed) = Uuid::now_v7().as_u64_pair();
        let epoch = epoch ^ seed.rotate_left(32);
        let inner = Arc::new(Inner::new(options, io, seed, found.table, found.segments));
        let (commits, receiver) = mpsc::channel(COMMITS_MAX);
        let (stop, stopped) = std_mpsc::channel();
        let (index_stop, index_stopped) = std_mpsc::channel();
        let writer = Writer::new(Arc::clone(&inner), found.next, epoch);
        let keeper = Arc::clone(&inner);
        // An old one may take a while to open; a new one is filled behind everything else.
        let clean = found.report.clean;
        let new = if clean { None } else { Index::anew(&inner) };
        let keep = move || {
            while wait(&stopped) {
                let _ = keeper.tick(); // it has said so
            }
        };
        let indexed = Arc::clone(&inner);
        let index = move || {
            let index = if clean { Index::kept(&indexed) } else { new };
            let mut index = index.filter(|index| index.update(&indexed));
            while wait(&index_stopped) {
                index = index.filter(|index| index.update(&indexed));
            }
            let index = index.filter(|index| index.update(&indexed));
            if !index.is_some_and(|index| index.close()) {
                Index::remove(&indexed);
            }
        };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread
                .spawn(work)
                .map_err(|e| failed("starting a thread for", &inner.options.path, e))
        };
        let threads = vec![
            spawn("queue-writer", Box::new(move || writer.run(receiver)))?,
            spawn("queue-keeper", Box::new(keep))?,
            spawn("queue-index", Box::new(index))?,
        ];
        let running = Running {
            commits,
            stop: [stop, index_stop],
            threads,
            _lock: lock,
        };
        let handle = Handle {
            inner,
            running: Mutex::new(Some(running)),
            stopping: Mutex::new(()),
        };
        Ok((Self(Arc::new(handle)), found.report))
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }
}

impl Handle {
    /// To the writer, while there is one.
    pub(crate) fn commits(&self) -> Result<mpsc::Sender<Commit>, StoreError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.as_ref().ok_or(StoreError::Closed)?;
        Ok(running.commits.clone())
    }

    /// Ends the threads once what was asked of them is done. Blocks.
    ///
    /// # Errors
    /// Where some state is not on disk.
    fn stop(&self) -> Result<(), StoreError> {
        self.inner.closed.store(true, Ordering::Release);
        let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(running) = running else {
            return Ok(());
        };
        drop((running.commits, running.stop));
        let mut ended_well = true;
        for thread in running.threads {
            ended_well &= thread.join().is_ok(); // a panic there has been reported
        }
        let _still = self.inner.no_change();
        let synced = self.inner.tick();
        self.inner.sealed.store(true, Ordering::Release);
        // A checkpoint on the disk must not speak of a log that is not.
        let sure = ended_well && synced.is_ok() && !self.inner.doubtful.load(Ordering::Acquire);
        if sure && self.inner.options.durability == Durability::Sync {
            match checkpoint::write(&self.inner) {
                Ok(()) => tracing::debug!("checkpoint written"),
                Err(error) => {
                    tracing::warn!(%error, "no checkpoint: the next start reads the log");
                }
            }
        }
        synced
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.stop(); // it has said so
    }
}

/// Whether it is time for another round; or the end.
fn wait(stopped: &std_mpsc::Receiver<()>) -> bool {
    stopped.recv_timeout(Duration::from_secs(1)) == Err(std_mpsc::RecvTimeoutError::Timeout)
}

fn take_lock(io: &Io, options: &Options) -> Result<Flock<std::fs::File>, StoreError> {
    let path = options.path.join("LOCK");
    let file = io.open_or_create(&path)?.into_file();
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            let pid = format!("process {}\n", std::process::id());
            let write = || {
                lock.set_len(0)?;
                lock.write_all_at(pid.as_bytes(), 0)
            };
            write().map_err(|e| failed("writing", &path, e))?;
            Ok(lock)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let holder = io.read_all(&path).unwrap_or_default();
            Err(StoreError::Locked {
                place: options.path.display().to_string(),
                holder: String::from_utf8_lossy(&holder).trim().to_owned(),
            })
        }
        Err((_, error)) => Err(failed("locking", &path, error.into())),
    }
}

fn check_format(io: &Io, options: &Options) -> Result<(), StoreError> {
    let path = options.path.join("FORMAT");
    let names = io.names(&options.path)?;
    let found = if names.iter().any(|name| name == "FORMAT") {
        let bytes = io.read_all(&path)?;
        String::from_utf8_lossy(&bytes).trim().to_owned()
    } else {
        String::new()
    };
    if found == FORMAT {
        return Ok(());
    }
    // Empty where the very first start was cut short; then there can be no log either.
    if !found.is_empty() || names.iter().any(|name| name.starts_with("seg-")) {
        return Err(StoreError::Format {
            place: options.path.display().to_string(),
            found,
            known: FORMAT.to_owned(),
        });
    }
    let file = io.open_or_create(&path)?;
    file.write_at(format!("{FORMAT}\n").as_bytes(), 0)?;
    file.sync()
}

impl LocalStore {
    async fn claim_now(
        &self,
        now: Timestamp,
        request: &ClaimRequest,
    ) -> Result<Vec<Claimed>, StoreError> {
        let inner = self.inner();
        inner.refuse_if_closed()?;
        let mut cold = Vec::new();
        let tickets: Vec<_> = {
            let mut table = inner.table();
            let tickets = table.claim(now, request).into_iter();
            tickets
                .filter_map(|t| Some((table.get(t.lease.id)?.place, t)))
                .collect()
        };
        let mut ready = Vec::with_capacity(tickets.len());
        for (place, ticket) in tickets {
            match inner.at_hand(ticket.lease.id) {
                Some(message) => ready.push((ticket, message)),
                None => cold.push((place, ticket)),
            }
        }
        if !cold.is_empty() {
            let inner = Arc::clone(inner);
            let loaded = blocking(move || {
                let mut loaded = Vec::with_capacity(cold.len());
                for (place, ticket) in cold {
                    match inner.load(ticket.lease.id, place) {
                        Ok(message) => loaded.push((ticket, message)),
                        Err(error) => {
                            tracing::error!(queue_id = %ticket.lease.id, %error, "message not readable: put off");
                            let later = Some(now + UNREADABLE);
                            inner.table().give_back(&ticket.lease, later);
                        }
                    }
                }
                Ok(loaded)
            });
            ready.extend(loaded.await?);
        }
        let mut table = inner.table();
        let claimed = ready.into_iter().filter_map(|(ticket, message)| {
            Some(Claimed {
                recipients: table.cover(&ticket.lease, &message.lanes)?,
                lease: ticket.lease,
                message: message.info,
                attempts: ticket.attempts,
                warned: ticket.warned,
                content: message.content,
            })
        });
        Ok(claimed.collect())
    }

    async fn record_now(
        &self,
        now: Timestamp,
        lease: &Lease,
        mut record: AttemptRecord,
    ) -> Result<(), StoreError> {
        let inner = self.inner();
        inner.refuse_if_closed()?;
        let notices = std::mem::take(&mut record.notices);
        // The place in the line first: from the settlement on, nothing here waits.
        let sender = if notices.is_empty() {
            None
        } else {
            let sender = self.0.commits()?;
            Some(
                sender
                    .reserve_owned()
                    .await
                    .map_err(|_| StoreError::Closed)?,
            )
        };
        let settlement = inner.table().settlement(now, lease, &record)?;
        let Some(sender) = sender else {
            let (inner, lease) = (Arc::clone(inner), lease.clone());
            return blocking(move || {
                inner.settle(&lease, &settlement, &record)?;
                inner.wakers.wake();
                Ok(())
            })
            .await;
        };
        let settles = Settles {
            id: lease.id,
            settlement: settlement.clone(),
        };
        let messages = match prepare_notices(inner, now, notices, &settles) {
            Ok(messages) => messages,
            Err(error) => {
                inner.table().unpin(lease, now + RECORD_AGAIN);
                return Err(error);
            }
        };
        let (reply, replied) = oneshot::channel();
        let commit = Commit {
            messages,
            settle: Some(Box::new((lease.clone(), settlement, record))),
            now,
            reply,
        };
        drop(sender.send(commit)); // the last sender's end is the writer's
        replied.await.map_err(|_| StoreError::Closed)?
    }

    /// Messages that match, behind `after`; read from disk a few at a time. Blocks.
    fn page_now(
        inner: &Inner,
        filter: &Filter,
        mut after: Option<QueueId>,
        max: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        const AT_ONCE: usize = 256;
        let mut page = Vec::new();
        let ids: BTreeSet<QueueId> = filter.ids.iter().copied().collect();
        while page.len() < max {
            let some: Vec<_> = {
                let table = inner.table();
                if filter.ids.is_empty() {
                    let some = table.after(after).take(AT_ONCE);
                    some.map(|(id, e)| (id, e.place)).collect()
                } else {
                    let behind = ids
                        .iter()
                        .filter(|id| after.is_none_or(|after| **id > after));
                    let some = behind.filter_map(|id| Some((*id, table.get(*id)?.place)));
                    some.take(AT_ONCE).collect()
                }
            };
            let Some(&(last, _)) = some.last() else {
                break;
            };
            after = Some(last);
            for (id, place) in some {
                let message = match inner.load(id, place) {
                    Ok(message) => message,
                    Err(error) => {
                        tracing::error!(queue_id = %id, %error, "message not readable");
                        continue;
                    }
                };
                let recipients = message.info.envelope.recipients().len();
                let evidence = inner.evidence(place, recipients);
                if let Some(listed) = listed(inner, &message, &evidence)
                    && page.len() < max
                    && filter.matches(&listed)
                {
                    page.push(listed);
                }
            }
        }
        Ok(page)
    }

    /// Blocks.
    fn operate_now(
        inner: &Inner,
        now: Timestamp,
        operation: Operation,
        filter: &Filter,
    ) -> Result<u64, StoreError> {
        let done = Self::operate_all(inner, now, operation, filter);
        // Also where it failed half way.
        inner.wakers.wake();
        done
    }

    fn operate_all(
        inner: &Inner,
        now: Timestamp,
        operation: Operation,
        filter: &Filter,
    ) -> Result<u64, StoreError> {
        const AT_ONCE: usize = 256;
        let named = Filter {
            ids: filter.ids.clone(),
            ..Filter::default()
        };
        if !filter.ids.is_empty() && *filter == named {
            // These need not be looked at, and so can be damaged.
            let ids: BTreeSet<_> = filter.ids.iter().collect();
            return ids.into_iter().try_fold(0, |done, &id| {
                Ok(done + u64::from(Self::operate_one(inner, now, operation, id)?))
            });
        }
        let (mut done, mut after) = (0, None);
        loop {
            let ids: Vec<QueueId> = if filter.is_all() {
                let table = inner.table();
                let some = table.after(after).take(AT_ONCE);
                some.map(|(id, _)| id).collect()
            } else {
                let page = Self::page_now(inner, filter, after, AT_ONCE)?;
                page.into_iter().map(|listed| listed.id).collect()
            };
            let Some(&last) = ids.last() else {
                return Ok(done);
            };
            after = Some(last);
            for id in ids {
                done += u64::from(Self::operate_one(inner, now, operation, id)?);
            }
        }
    }

    fn operate_one(
        inner: &Inner,
        now: Timestamp,
        operation: Operation,
        id: QueueId,
    ) -> Result<bool, StoreError> {
        let state = match operation {
            Operation::Hold => State::Hold,
            Operation::Release => State::Release,
            Operation::Retry => State::Retry(now),
            Operation::Remove => State::Removed,
        };
        let _whole = inner.change();
        if inner.table().get(id).is_none() {
            return Ok(false);
        }
        // Unlike an attempt's, an operator's word is worth nothing unless written down.
        inner.write_state(id, &state)?;
        let done = if operation == Operation::Remove {
            let entry = inner.table().remove(id);
            let there = entry.is_some();
            inner.finished(id, entry, true);
            there
        } else {
            inner.table().operate(now, operation, id)
        };
        tracing::info!(queue_id = %id, ?operation, "an operator's order");
        Ok(done)
    }
}

fn listed(
    inner: &Inner,
    message: &Ready,
    evidence: &[Option<postroad_queue::Evidence>],
) -> Option<Listed> {
    let table = inner.table();
    let info = &message.info;
    let entry = table.get(info.id)?;
    let recipients = info.envelope.recipients().iter().zip(&*message.lanes);
    let recipients = recipients.zip(evidence).enumerate();
    let recipients = recipients.map(|(place, ((recipient, lane), last))| {
        ListedRecipient::new(
            &table,
            info.id,
            entry,
            place,
            &recipient.address,
            lane,
            last,
        )
    });
    Some(Listed {
        id: info.id,
        envelope: info.envelope.clone(),
        origin: info.origin.clone(),
        arrived: info.arrived,
        size: info.size,
        held: entry.held(),
        recipients: recipients.collect(),
    })
}

impl Store for LocalStore {
    fn begin(&self, now: Timestamp) -> Result<Box<dyn Incoming>, StoreError> {
        let inner = self.inner();
        inner.refuse_if_closed()?;
        let free = inner.free.load(Ordering::Relaxed);
        if free < inner.options.min_free {
            return Err(StoreError::Full {
                place: inner.options.path.display().to_string(),
                detail: format!("{free} octets are free, {} must be", inner.options.min_free),
            });
        }
        let incoming =
            LocalIncoming::new(Arc::clone(inner), Arc::downgrade(&self.0), inner.mint(now));
        Ok(Box::new(incoming))
    }

    fn claim<'a>(
        &'a self,
        now: Timestamp,
        request: &'a ClaimRequest,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        Box::pin(self.claim_now(now, request))
    }

    fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.inner().table().next_due(now)
    }

    fn on_due(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.inner().wakers.add(wake);
    }

    fn record<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        record: AttemptRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.record_now(now, lease, record))
    }

    fn renew<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let inner = self.inner();
        let renewed = inner
            .refuse_if_closed()
            .and_then(|()| inner.table().renew(now, lease, lasts));
        Box::pin(std::future::ready(renewed))
    }

    fn park(&self, lane: &Lane, until: Timestamp) {
        self.inner().table().park(lane, until);
    }

    fn operate<'a>(
        &'a self,
        now: Timestamp,
        operation: Operation,
        filter: &'a Filter,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        let (inner, filter) = (Arc::clone(self.inner()), filter.clone());
        Box::pin(async move {
            inner.refuse_if_closed()?;
            blocking(move || Self::operate_now(&inner, now, operation, &filter)).await
        })
    }

    fn page<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<QueueId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        let (inner, filter) = (Arc::clone(self.inner()), filter.clone());
        Box::pin(blocking(move || {
            Self::page_now(&inner, &filter, after, max)
        }))
    }

    fn content(&self, id: QueueId) -> BoxFuture<'_, Result<Arc<dyn Content>, StoreError>> {
        let inner = Arc::clone(self.inner());
        Box::pin(blocking(move || {
            let place = inner.table().get(id).map(|entry| entry.place);
            let place = place.ok_or(StoreError::NotFound(id))?;
            Ok(inner.load(id, place)?.content)
        }))
    }

    fn lanes(&self) -> Vec<LaneSummary> {
        self.inner().table().lanes()
    }

    fn totals(&self) -> Totals {
        self.inner().table().totals()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let handle = Arc::clone(&self.0);
        Box::pin(blocking(move || handle.stop()))
    }
}
