use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use postroad_mail::{Cache, Timestamp};
use postroad_queue::{
    AttemptRecord, BoxFuture, ClaimRequest, Claimed, Content, Filter, Health, Incoming, Lane,
    LaneSummary, Lease, Listed, Operation, QueueId, Store, StoreError, Totals, Verified,
};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::cache::{self, Cached};
use crate::checkpoint;
use crate::compact;
use crate::content::blocking;
use crate::incoming::{LocalIncoming, prepare_notices};
use crate::index::Index;
use crate::inner::{Inner, lock};
use crate::io::{Io, failed};
use crate::options::{Durability, Options, RecoveryReport};
use crate::record::Settles;
use crate::recover::{Recovered, recover};
use crate::state::Settling;
use crate::verify;
use crate::watch::count;
use crate::writer::{Commit, RECORD_AGAIN, Writer};

/// Commits that may wait for the writer; beyond that, whoever commits waits.
const COMMITS_MAX: usize = 1024;
/// What a message that cannot be read is put off by, so that it does not keep the others.
const UNREADABLE: Duration = Duration::from_secs(600);
/// Results of attempts that may wait to be written down; beyond that, whoever has one waits.
const SETTLING_MAX: usize = 4096;
/// Of those, written in one go.
const SETTLING_AT_ONCE: usize = 256;
/// The format of what we write: FORMAT says it.
const FORMAT: &str = "2";
/// Those that we read as well. "1" knew no records that compaction has moved.
const OLDER: [&str; 1] = ["1"];

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
    /// Opened when it is first asked for.
    cache: OnceLock<Cached>,
}

#[derive(Debug)]
struct Running {
    commits: mpsc::Sender<Commit>,
    states: mpsc::Sender<Settled>,
    stop: [std_mpsc::Sender<()>; 2],
    threads: Vec<JoinHandle<()>>,
    _lock: Flock<std::fs::File>,
}

/// What came of a claim, for the thread that writes it down; and who waits for that.
type Settled = (Settling, oneshot::Sender<Result<(), StoreError>>);

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
        let flock = take_lock(&io, &options)?;
        let format = check_format(&io, &options)?;
        io.make_dir(&options.path.join("big"))?;
        io.sync_dir(&options.path)?;
        checkpoint::forget_unfinished(&io, &options);
        let mut found = match checkpoint::take(&io, &options)? {
            Some(restored) => Recovered::clean(&io, &options, restored)?,
            None => recover(&io, &options)?,
        };
        if format == Format::Older {
            write_format(&io, &options)?;
            tracing::info!(path = %options.path.display(), format = FORMAT, "the queue was of an older format, and is of the present one from now on");
        }
        found.opened.table.shrink();
        let (epoch, seed) = Uuid::now_v7().as_u64_pair();
        let epoch = epoch ^ seed.rotate_left(32);
        let inner = Arc::new(Inner::new(options, io, seed, found.opened));
        *lock(&inner.doomed) = found.doomed;
        count(&inner.watch.damaged, inner.found.len() as u64);
        let _ = inner.tick(); // it has said so
        let running = Running::start(&inner, found.next, epoch, found.report.clean, flock)?;
        let handle = Handle {
            inner,
            running: Mutex::new(Some(running)),
            stopping: Mutex::new(()),
            cache: OnceLock::new(),
        };
        Ok((Self(Arc::new(handle)), found.report))
    }

    /// What the keeper does besides its ticks, for all segments and now.
    #[cfg(test)]
    pub(crate) async fn compact_now(&self) -> Result<(), StoreError> {
        let (inner, commits) = (Arc::clone(self.inner()), self.0.commits()?);
        blocking(move || compact::everything(&inner, &commits)).await
    }

    /// What the keeper does each second.
    #[cfg(test)]
    pub(crate) async fn tick_now(&self) -> Result<(), StoreError> {
        let (inner, commits) = (Arc::clone(self.inner()), self.0.commits()?);
        blocking(move || {
            let ticked = inner.tick();
            compact::round(&inner, &commits);
            ticked
        })
        .await
    }

    /// A place beside the queue for what may be lost. It outlives stops, also those that are not
    /// clean, as far as it can; damaged, it is made anew. The first call opens it, and blocks.
    #[must_use]
    pub fn cache(&self) -> Arc<dyn Cache> {
        let (io, options) = (&self.inner().io, &self.inner().options);
        let opened = (self.0.cache).get_or_init(|| cache::open(io, &options.path.join("cache")));
        opened.shared()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }
}

impl Running {
    /// The threads of a store: each ends when nobody is left who could ask it for anything.
    fn start(
        inner: &Arc<Inner>,
        next: u32,
        epoch: u64,
        clean: bool,
        flock: Flock<std::fs::File>,
    ) -> Result<Self, StoreError> {
        let (commits, receiver) = mpsc::channel(COMMITS_MAX);
        let (states, settling) = mpsc::channel(SETTLING_MAX);
        let (stop, stopped) = std_mpsc::channel();
        let (index_stop, index_stopped) = std_mpsc::channel();
        let writer = Writer::new(Arc::clone(inner), next, epoch);
        let settler = Arc::clone(inner);
        let (keeper, moves) = (Arc::clone(inner), commits.clone());
        let keep = move || {
            while wait(&stopped) {
                let _ = keeper.tick(); // it has said so
                compact::round(&keeper, &moves);
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
            spawn(
                "queue-state",
                Box::new(move || settle_all(&settler, settling)),
            )?,
            spawn("queue-keeper", Box::new(keep))?,
            spawn("queue-index", keep_index(inner, clean, index_stopped))?,
        ];
        Ok(Self {
            commits,
            states,
            stop: [stop, index_stop],
            threads,
            _lock: flock,
        })
    }
}

/// The index: an old one may take a while to open; a new one is filled behind everything else.
fn keep_index(
    inner: &Arc<Inner>,
    clean: bool,
    stopped: std_mpsc::Receiver<()>,
) -> Box<dyn FnOnce() + Send> {
    let new = if clean { None } else { Index::anew(inner) };
    let inner = Arc::clone(inner);
    Box::new(move || {
        let index = if clean { Index::kept(&inner) } else { new };
        let mut index = index.filter(|index| index.update(&inner));
        while wait(&stopped) {
            index = index.filter(|index| index.update(&inner));
        }
        let index = index.filter(|index| index.update(&inner));
        if !index.is_some_and(|index| index.close()) {
            Index::remove(&inner);
        }
    })
}

impl Handle {
    /// To the writer, while there is one.
    pub(crate) fn commits(&self) -> Result<mpsc::Sender<Commit>, StoreError> {
        let running = lock(&self.running);
        let running = running.as_ref().ok_or(StoreError::Closed)?;
        Ok(running.commits.clone())
    }

    /// To the thread that writes down what came of attempts, while there is one.
    fn states(&self) -> Result<mpsc::Sender<Settled>, StoreError> {
        let running = lock(&self.running);
        let running = running.as_ref().ok_or(StoreError::Closed)?;
        Ok(running.states.clone())
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
        drop((running.commits, running.states, running.stop));
        let mut ended_well = true;
        for thread in running.threads {
            ended_well &= thread.join().is_ok(); // a panic there has been reported
        }
        if let Some(cache) = self.cache.get() {
            cache.flush();
        }
        let _still = self.inner.no_change();
        let synced = self.inner.tick();
        self.inner.sealed.store(true, Ordering::Release);
        // A checkpoint on the disk must not speak of a log that is not.
        let owed = !lock(&self.inner.marks).is_empty();
        let doubtful = self.inner.doubtful.load(Ordering::Acquire);
        let sure = ended_well && synced.is_ok() && !owed && !doubtful;
        if sure && self.inner.options.durability == Durability::Sync {
            match checkpoint::write(&self.inner) {
                Ok(()) => tracing::debug!("checkpoint written"),
                Err(error) => {
                    checkpoint::forget_unfinished(&self.inner.io, &self.inner.options);
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
            // For whoever finds it locked; where the disk is full, it does without.
            let pid = format!("process {}\n", std::process::id());
            let _ = lock.set_len(0);
            let _ = lock.write_all_at(pid.as_bytes(), 0);
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

/// Writes down what came of attempts, as many at once as there are, until nobody is left who
/// could ask.
fn settle_all(inner: &Inner, mut settling: mpsc::Receiver<Settled>) {
    while let Some((first, reply)) = settling.blocking_recv() {
        let (mut all, mut replies) = (vec![first], vec![reply]);
        while all.len() < SETTLING_AT_ONCE
            && let Ok((more, reply)) = settling.try_recv()
        {
            all.push(more);
            replies.push(reply);
        }
        let settled = inner.settle(&all).is_ok();
        inner.wakers.wake();
        for reply in replies {
            let result = if settled {
                Ok(())
            } else {
                Err(StoreError::Closed)
            };
            let _ = reply.send(result); // whoever asked may have gone
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Ours,
    Older,
}

fn check_format(io: &Io, options: &Options) -> Result<Format, StoreError> {
    let path = options.path.join("FORMAT");
    let names = io.names(&options.path)?;
    let found = if names.iter().any(|name| name == "FORMAT") {
        let bytes = io.read_all(&path)?;
        String::from_utf8_lossy(&bytes).trim().to_owned()
    } else {
        String::new()
    };
    if found == FORMAT {
        return Ok(Format::Ours);
    }
    if OLDER.contains(&&*found) {
        return Ok(Format::Older);
    }
    // Empty where the very first start was cut short; then there can be no log either.
    if !found.is_empty() || names.iter().any(|name| name.starts_with("seg-")) {
        return Err(StoreError::Format {
            place: options.path.display().to_string(),
            found: if found.is_empty() {
                "that is not said".to_owned()
            } else {
                found
            },
            known: format!("{FORMAT}, and reads {}", OLDER.join(", ")),
        });
    }
    write_format(io, options)?;
    Ok(Format::Ours)
}

/// From then on an older version refuses the queue, rather than misreading it.
fn write_format(io: &Io, options: &Options) -> Result<(), StoreError> {
    let new = options.path.join("FORMAT.new");
    let file = io.open_or_create(&new)?;
    file.truncate(0)?;
    file.write_at(format!("{FORMAT}\n").as_bytes(), 0)?;
    file.sync()?;
    io.rename(&new, &options.path.join("FORMAT"))?;
    io.sync_dir(&options.path)
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
        for (turn, (place, ticket)) in tickets.into_iter().enumerate() {
            match inner.handover().get(ticket.lease.id) {
                Some(message) => ready.push((turn, ticket, message)),
                None => cold.push((turn, place, ticket)),
            }
        }
        if !cold.is_empty() {
            let inner = Arc::clone(inner);
            let loaded = blocking(move || {
                let mut loaded = Vec::with_capacity(cold.len());
                for (turn, place, ticket) in cold {
                    match inner.load(ticket.lease.id, place) {
                        Ok(message) => loaded.push((turn, ticket, message)),
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
            ready.sort_unstable_by_key(|(turn, ..)| *turn);
        }
        let mut table = inner.table();
        let claimed = ready.into_iter().filter_map(|(_, ticket, message)| {
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
        if notices.is_empty() {
            return self.settle_now(now, lease, record).await;
        }
        // The place in the line first: from the settlement on, nothing here waits.
        let sender = self.0.commits()?;
        let sender = sender.reserve_owned().await;
        let sender = sender.map_err(|_| StoreError::Closed)?;
        let settlement = inner.table().settlement(now, lease, &record)?;
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
            settle: Some(Box::new(Settling {
                lease: lease.clone(),
                settlement,
                record,
            })),
            from: None,
            now,
            reply,
        };
        drop(sender.send(commit)); // the last sender's end is the writer's
        replied.await.map_err(|_| StoreError::Closed)?
    }

    async fn settle_now(
        &self,
        now: Timestamp,
        lease: &Lease,
        record: AttemptRecord,
    ) -> Result<(), StoreError> {
        let place = self.0.states()?.reserve_owned().await;
        let place = place.map_err(|_| StoreError::Closed)?;
        let settlement = self.inner().table().settlement(now, lease, &record)?;
        let settling = Settling {
            lease: lease.clone(),
            settlement,
            record,
        };
        let (reply, replied) = oneshot::channel();
        drop(place.send((settling, reply)));
        replied.await.map_err(|_| StoreError::Closed)?
    }
}

impl Store for LocalStore {
    fn begin(&self, now: Timestamp) -> Result<Box<dyn Incoming>, StoreError> {
        let inner = self.inner();
        inner.refuse_if_closed()?;
        let free = inner.free.load(Ordering::Relaxed);
        if free < inner.options.min_free {
            count(&inner.watch.refused_full, 1);
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

    fn limit(&self, lane: &Lane, at_once: Option<usize>) {
        let more = self.inner().table().limit(lane, at_once);
        if more {
            self.inner().wakers.wake();
        }
    }

    fn hasten(&self, lane: &Lane, now: Timestamp, max: usize) -> usize {
        let hastened = self.inner().table().hasten(lane, now, max);
        if hastened > 0 {
            self.inner().wakers.wake();
        }
        hastened
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
            blocking(move || inner.operate(now, operation, &filter)).await
        })
    }

    fn page<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<QueueId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        let (inner, filter) = (Arc::clone(self.inner()), filter.clone());
        Box::pin(blocking(move || inner.page(&filter, after, max)))
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

    fn health(&self) -> Health {
        self.inner().health()
    }

    fn verify(&self) -> BoxFuture<'_, Result<Verified, StoreError>> {
        let inner = Arc::clone(self.inner());
        Box::pin(blocking(move || {
            let verified = verify::all(&inner)?;
            let wrong = verified.findings.len() as u64 + verified.more;
            inner.watch.damaged.fetch_max(wrong, Ordering::Relaxed);
            Ok(verified)
        }))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let handle = Arc::clone(&self.0);
        Box::pin(blocking(move || handle.stop()))
    }
}
