//! Postroad's services, run as an operator runs them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::kill;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::Notify;

use crate::memory::Memory;
use crate::programs::{command, program};

pub use nix::sys::signal::Signal;

/// How long anything may take before a test gives up. Nothing waits for as long where all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a service's log that are kept.
const LOG_LINES_MAX: usize = 200_000;
/// Lines of it that a test that fails shows.
const LOG_LINES_SHOWN: usize = 200;

/// A loopback address that no other test uses, so that fixed ports never collide.
#[must_use]
pub fn loopback() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let octet = |n: u32| u8::try_from(n % 250 + 2).unwrap_or(2);
    IpAddr::V4(Ipv4Addr::new(
        127,
        octet(process),
        octet(n / 250 + process / 250),
        octet(n),
    ))
}

/// `address:port` of a port that was free a moment ago on that address.
///
/// # Panics
/// Where the address has no free port.
#[must_use]
pub fn free_port(address: IpAddr) -> SocketAddr {
    let listener =
        std::net::TcpListener::bind((address, 0)).expect("a loopback address has free ports");
    listener.local_addr().expect("a listener has an address")
}

/// A running service and its log. A test that fails while it has one shows the log's end.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    log: Arc<Log>,
}

/// A service that has been started, and has not said yet that it is ready.
#[derive(Debug)]
pub struct Starting {
    service: Service,
    said: tokio::net::UnixDatagram,
    errors: tokio::task::JoinHandle<()>,
    _directory: TempDir,
}

/// What a process has printed.
#[derive(Debug, Default)]
pub struct Log {
    lines: Mutex<VecDeque<String>>,
    grown: Notify,
}

impl Log {
    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.grown.notify_waiters();
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// Waits for a line that holds all of `needles`.
    ///
    /// # Errors
    /// Where none comes within [`PATIENCE`].
    pub async fn wait_for(&self, needles: &[&str]) -> anyhow::Result<String> {
        Ok(self.wait_for_many(1, needles).await?.remove(0))
    }

    /// Waits for `count` lines that hold all of `needles`; gives all that there are then.
    ///
    /// # Errors
    /// Where they do not come within [`PATIENCE`].
    pub async fn wait_for_many(
        &self,
        count: usize,
        needles: &[&str],
    ) -> anyhow::Result<Vec<String>> {
        let found = async {
            loop {
                let grown = self.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                let mut lines = self.lines();
                lines.retain(|line| needles.iter().all(|n| line.contains(n)));
                if lines.len() >= count {
                    return lines;
                }
                grown.await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(lines) => Ok(lines),
            Err(_) => bail!("no {count} lines with {needles:?} in the log:\n{self}"),
        }
    }

    async fn follow(self: Arc<Self>, stream: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.push(line);
        }
    }
}

/// Its end.
impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.lines();
        let left_out = lines.len().saturating_sub(LOG_LINES_SHOWN);
        if left_out > 0 {
            writeln!(f, "({left_out} lines before these)")?;
        }
        for line in lines.iter().skip(left_out) {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl Starting {
    /// Waits until it says that it is ready (sd_notify).
    ///
    /// # Errors
    /// Where it ends first, or says nothing; the error shows what it printed.
    pub async fn ready(self) -> anyhow::Result<Service> {
        let Self {
            mut service,
            said,
            errors,
            _directory,
        } = self;
        let mut message = [0; 4096];
        let said_ready = async {
            loop {
                let length = said.recv(&mut message).await?;
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                if text.lines().any(|line| line == "READY=1") {
                    return anyhow::Ok(());
                }
            }
        };
        let name = service.name.clone();
        tokio::select! {
            said = said_ready => said?,
            status = service.child.wait() => {
                let _ = errors.await;
                bail!("{name} ended with {}:\n{}", status?, service.log);
            }
            () = tokio::time::sleep(PATIENCE) => {
                bail!("{name} did not say that it is ready:\n{}", service.log);
            }
        }
        Ok(service)
    }

    /// kill -9, however far it has come, and waits for its end.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub async fn kill(self) -> anyhow::Result<()> {
        self.service.kill().await
    }
}

impl Service {
    /// Starts a program with arguments and variables, and waits for nothing.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Starting> {
        Self::spawn_by(&[], name, arguments, environment)
    }

    /// The same by way of another program: `before` is what stands before the path of ours, and
    /// ends up as it (exec).
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn_by(
        before: &[String],
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Starting> {
        let path = program(name);
        let mut words: Vec<_> = before.iter().map(Into::into).collect();
        words.push(path.clone().into_os_string());
        words.extend(arguments.iter().map(Into::into));
        let first = words.remove(0);
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("notify");
        let said = UnixDatagram::bind(&socket)?;
        said.set_nonblocking(true)?;
        let said = tokio::net::UnixDatagram::from_std(said)?;
        let mut child = command(first.as_ref(), &words)
            .env("NOTIFY_SOCKET", &socket)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", path.display()))?;
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().context("the output is piped")?;
        let stderr = child.stderr.take().context("the errors are piped")?;
        tokio::spawn(Arc::clone(&log).follow(stdout));
        let errors = tokio::spawn(Arc::clone(&log).follow(stderr));
        let name = name.to_owned();
        Ok(Starting {
            service: Self { name, child, log },
            said,
            errors,
            _directory: directory,
        })
    }

    /// Starts a program with arguments, and waits until it says that it is ready.
    ///
    /// # Errors
    /// Where it ends first, or says nothing; the error shows what it printed.
    pub async fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(name, arguments, &[])?.ready().await
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// kill -9, and waits for its end.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// SIGSTOP, and waits until it stands still; SIGCONT lets it go on.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        match waitpid(self.pid()?, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => Ok(()),
            other => bail!("{} does not stand still: {other:?}", self.name),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} does not end:\n{}", self.name, self.log),
        }
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn terminate(self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.ended().await
    }

    /// Begins to watch its memory.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        Memory::watch(self.pid()?)
    }

    /// The root directory as it sees it: where it has mounts of its own, they are there.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn root(&self) -> anyhow::Result<PathBuf> {
        Ok(format!("/proc/{}/root", self.pid()?).into())
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let id = self
            .child
            .id()
            .with_context(|| format!("{} has ended", self.name))?;
        Ok(Pid::from_raw(i32::try_from(id)?))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of {}:\n{}", self.name, self.log);
        }
    }
}
