//! Postroad's own programs, run as an operator runs them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

/// How long anything may take before a test gives up. Nothing waits for as long where all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a service's log that are kept.
const LOG_LINES_MAX: usize = 200_000;

/// The path of one of the workspace's programs, built once for each test process.
///
/// # Panics
/// Where the build fails.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        if let Some(given) = std::env::var_os("POSTROAD_BIN_DIR") {
            return given.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = std::process::Command::new(cargo)
            .args([
                "build",
                "--workspace",
                "--bins",
                "--examples",
                "--locked",
                "--quiet",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // The test program stands in target/debug/deps.
        let test = std::env::current_exe().expect("a test program has a path");
        test.ancestors()
            .nth(2)
            .expect("it stands in the target directory")
            .to_owned()
    });
    directory.join(name)
}

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

/// A running service, its configuration and its log.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: Arc<Log>,
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
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// Waits for a line that holds all of `needles`.
    ///
    /// # Errors
    /// Where none comes within [`PATIENCE`]; the error shows the log.
    pub async fn wait_for(&self, needles: &[&str]) -> anyhow::Result<String> {
        let found = async {
            loop {
                let grown = self.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                let lines = self.lines();
                if let Some(line) = lines
                    .into_iter()
                    .find(|l| needles.iter().all(|n| l.contains(n)))
                {
                    return line;
                }
                grown.await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(line) => Ok(line),
            Err(_) => bail!(
                "no line with {needles:?} in the log:\n{}",
                self.lines().join("\n")
            ),
        }
    }

    async fn follow(self: Arc<Self>, stream: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.push(line);
        }
    }
}

impl Service {
    /// Starts a program with arguments, and waits until it says that it is ready (sd_notify).
    ///
    /// # Errors
    /// Where it ends first, or says nothing; the error shows what it printed.
    pub async fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let path = program(name);
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("notify");
        let ready = UnixDatagram::bind(&socket)?;
        ready.set_nonblocking(true)?;
        let ready = tokio::net::UnixDatagram::from_std(ready)?;
        let mut child = Command::new(&path)
            .args(arguments)
            .env("NOTIFY_SOCKET", &socket)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", path.display()))?;
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().context("the output is piped")?;
        let stderr = child.stderr.take().context("the errors are piped")?;
        tokio::spawn(Arc::clone(&log).follow(stdout));
        let errors = tokio::spawn(Arc::clone(&log).follow(stderr));
        let mut service = Self { child, log };
        let mut message = [0; 4096];
        let said_ready = async {
            loop {
                let length = ready.recv(&mut message).await?;
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                if text.lines().any(|line| line == "READY=1") {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::select! {
            said = said_ready => said?,
            status = service.child.wait() => {
                let _ = errors.await;
                bail!("{name} ended with {}:\n{}", status?, service.log.lines().join("\n"));
            }
            () = tokio::time::sleep(PATIENCE) => {
                bail!("{name} did not say that it is ready:\n{}", service.log.lines().join("\n"));
            }
        }
        Ok(service)
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// kill -9, and waits for its end.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal by name, as in `TERM`.
    ///
    /// # Errors
    /// Where kill(1) fails.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = std::process::Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status()?;
        if status.success() {
            Ok(())
        } else {
            bail!("kill -s {name} failed")
        }
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.signal("TERM")?;
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("it does not end:\n{}", self.log.lines().join("\n")),
        }
    }

    /// The most memory it has had resident, in octets.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:"))
            .context("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }
}

/// Runs a program to its end; gives its exit code, output and errors.
///
/// # Errors
/// Where it cannot be run, or does not end.
pub async fn run(
    path: impl AsRef<Path>,
    arguments: &[&str],
    input: &[u8],
) -> anyhow::Result<Finished> {
    let path = path.as_ref();
    let mut child = Command::new(path)
        .args(arguments)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", path.display()))?;
    let mut stdin = child.stdin.take().context("the input is piped")?;
    let feed = async {
        use tokio::io::AsyncWriteExt as _;
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let all = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE * 2, all)
        .await
        .with_context(|| format!("{} does not end", path.display()))??;
    Ok(Finished {
        code: output.status.code().unwrap_or(-1),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Finished {
    /// Insists on exit code 0.
    ///
    /// # Panics
    /// Where it is another; shows what was printed.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert_eq!(
            self.code, 0,
            "output:\n{}\nerrors:\n{}",
            self.output, self.errors
        );
        self
    }
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
