//! The servers that are measured.

mod exim;
mod files;
mod postfix;
mod postroad;

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use files::{clear, fill, owned, run, size_of};

use crate::clock;
use crate::group::{Group, Method};
use crate::peers::Programs;
use crate::ports;
use crate::source::{Client, Credentials, Opening, runtime};
use crate::tls::Tls;

/// Who submits mail in S7.
pub(crate) const CREDENTIALS: Credentials = Credentials {
    user: "alice",
    password: "correct-horse-battery",
};

/// How long a server may take until it greets.
const START: Duration = Duration::from_secs(300);

/// How often a server that does not greet yet is called again.
const CALL_AGAIN: Duration = Duration::from_millis(5);

/// Octets of a log that an error shows.
const LOG_SHOWN: usize = 2000;

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// No server: the source calls the sink.
    Loop,
    Postroad,
    Postfix,
    Exim,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "loop",
            Self::Postroad => "postroad",
            Self::Postfix => "postfix",
            Self::Exim => "exim",
        })
    }
}

/// A place for one server: a directory, ports, and what it is to know.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) directory: PathBuf,
    pub(crate) smtp: SocketAddr,
    pub(crate) submission: SocketAddr,
    pub(crate) sink: SocketAddr,
    tls: Tls,
    method: Method,
    programs: Arc<Programs>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) group: Arc<Group>,
    /// How long it took until it greeted.
    pub(crate) took: Duration,
    child: Option<Child>,
    /// What stops it, where a signal does not.
    stop: Option<Command>,
}

impl Place {
    /// An empty one for a server, below `top`.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(crate) fn make(
        kind: Kind,
        top: &Path,
        method: &Method,
        programs: &Arc<Programs>,
    ) -> anyhow::Result<Self> {
        let directory = top.join(kind.to_string());
        clear(&directory)?;
        // Peers look into it as users of their own.
        fs::DirBuilder::new()
            .mode(0o755)
            .recursive(true)
            .create(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let [smtp, submission, sink] = ports::free(3)?[..] else {
            bail!("there are fewer ports than asked for");
        };
        let place = Self {
            kind,
            tls: Tls::make(&directory)?,
            directory,
            smtp,
            submission,
            sink,
            method: method.clone(),
            programs: Arc::clone(programs),
        };
        match kind {
            Kind::Loop => {}
            Kind::Postroad => postroad::prepare(&place)?,
            Kind::Postfix => postfix::prepare(&place)?,
            Kind::Exim => exim::prepare(&place)?,
        }
        Ok(place)
    }

    /// Starts the server, and waits until it greets.
    ///
    /// # Errors
    /// Where it does not; the error shows the end of its log.
    pub(crate) fn start(&self) -> anyhow::Result<Running> {
        let group = Arc::new(Group::make(&self.method)?);
        let started = clock::now();
        let (child, stop) = match self.kind {
            Kind::Loop => bail!("the loop has no server to be started"),
            Kind::Postroad => (Some(postroad::start(self, &group)?), None),
            Kind::Postfix => (None, Some(postfix::start(self, &group)?)),
            Kind::Exim => (Some(exim::start(self, &group)?), None),
        };
        let mut running = Running {
            group,
            took: Duration::ZERO,
            child,
            stop,
        };
        let greeted = running
            .wait_for_greeting(self.smtp, started)
            .with_context(|| {
                format!(
                    "{} does not start; its log ends:\n{}",
                    self.kind,
                    self.log()
                )
            })?;
        running.took = greeted - started;
        Ok(running)
    }

    /// Lets mail for these domains go to these hosts, once it is started.
    ///
    /// # Errors
    /// Where its configuration cannot be written.
    pub(crate) fn destinations(&self, routes: &[(String, SocketAddr)]) -> anyhow::Result<()> {
        match self.kind {
            Kind::Postroad => postroad::destinations(self, routes),
            Kind::Postfix => postfix::destinations(self, routes),
            Kind::Loop | Kind::Exim => bail!("{} has one next hop only", self.kind),
        }
    }

    /// Tells a running server to try all that it has queued, now.
    ///
    /// # Errors
    /// Where it cannot be told.
    pub(crate) fn flush(&self, running: &Running) -> anyhow::Result<()> {
        match self.kind {
            Kind::Loop => Ok(()),
            Kind::Postroad => postroad::flush(self),
            Kind::Postfix => postfix::flush(self),
            Kind::Exim => exim::flush(self, running),
        }
    }

    /// What a client of the submission port says first.
    pub(crate) fn login(&self) -> Opening {
        Opening::Login(Arc::clone(&self.tls.client), CREDENTIALS)
    }

    /// What a client says that wants TLS and no more.
    pub(crate) fn tls(&self) -> Opening {
        Opening::Tls(Arc::clone(&self.tls.client))
    }

    /// The end of the server's log.
    pub(crate) fn log(&self) -> String {
        let log = match self.kind {
            Kind::Exim => exim::LOG,
            _ => LOG,
        };
        let text = fs::read(self.directory.join(log)).unwrap_or_default();
        let from = text.len().saturating_sub(LOG_SHOWN);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }

    /// Octets of all files of its queue, as far as the disk has them.
    pub(crate) fn on_disk(&self) -> u64 {
        let queue = match self.kind {
            Kind::Postroad => "queue",
            _ => "spool",
        };
        size_of(&self.directory.join(queue))
    }

    /// Fills in a template, and writes it into the place.
    fn write(&self, name: &str, template: &str, more: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(name);
        let text = fill(template, &[self.words(), owned(more)].concat())
            .with_context(|| format!("the template of {name}"))?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Adds lines to a file that is there.
    fn append(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(name);
        let mut file = File::options()
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        file.write_all(text.as_bytes())
            .with_context(|| format!("writing {}", path.display()))
    }

    fn words(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let words = [
            ("DIR", text(&self.directory)),
            ("SMTP", self.smtp.port().to_string()),
            ("SUBMISSION", self.submission.port().to_string()),
            ("SINK", self.sink.port().to_string()),
            ("CERTIFICATE", text(&self.tls.certificate)),
            ("KEY", text(&self.tls.key)),
        ];
        words.map(|(word, value)| (word.to_owned(), value)).to_vec()
    }

    fn open_log(&self) -> anyhow::Result<File> {
        let path = self.directory.join(LOG);
        let log = File::options().create(true).append(true).open(&path);
        log.with_context(|| format!("opening {}", path.display()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.directory) {
            eprintln!("{error:#}");
        }
    }
}

/// The log of a server in its directory.
const LOG: &str = "log";

impl Running {
    /// Stops it as an operator does; gives how long that took.
    ///
    /// # Errors
    /// Where it does not stop.
    pub(crate) fn stop(mut self) -> anyhow::Result<Duration> {
        let started = clock::now();
        if let Some(mut command) = self.stop.take() {
            run(&mut command)?;
        } else if let Some(child) = &self.child {
            kill(pid(child)?, Signal::SIGTERM).context("stopping it")?;
        }
        self.wait_for_child();
        self.group.wait_empty()?;
        Ok(started.elapsed())
    }

    /// Kills all of it.
    pub(crate) fn kill(mut self) {
        self.group.kill();
        self.wait_for_child();
    }

    /// A child that has ended stays in its group until it is waited for.
    fn wait_for_child(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    fn wait_for_greeting(
        &mut self,
        address: SocketAddr,
        started: Instant,
    ) -> anyhow::Result<Instant> {
        let runtime = runtime()?;
        loop {
            let greeting = async {
                let mut client = Client::connect(address, &Opening::Greeting).await?;
                let greeted = clock::now();
                // It takes its leave, so that no log speaks of a broken connection.
                client.quit().await?;
                anyhow::Ok(greeted)
            };
            // Port by port a server may listen before it answers.
            if TcpStream::connect(address).is_ok()
                && let Ok(greeted) = runtime.block_on(greeting)
            {
                return Ok(greeted);
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("it ended: {status}");
            }
            if started.elapsed() > START {
                bail!("it does not greet within {START:?}");
            }
            std::thread::sleep(CALL_AGAIN);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.kill();
        self.wait_for_child();
    }
}

fn pid(child: &Child) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}
