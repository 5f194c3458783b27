//! A real PostgreSQL (Debian package `postgresql`), with a database of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::daemon::{Daemon, run};

/// Where Debian keeps its programs, by version.
const PROGRAMS: &str = "/usr/lib/postgresql";
/// The user of the system that it runs as: it refuses root.
const SYSTEM_USER: &str = "postgres";
/// The database, and its user.
pub const USER: &str = "mail";
/// The user's password.
pub const PASSWORD: &str = "database secret";

/// A running PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    daemon: Daemon,
    programs: PathBuf,
    address: SocketAddr,
}

impl Postgres {
    /// Starts one at that address.
    ///
    /// # Errors
    /// Where it is missing or does not start.
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let versions = fs::read_dir(PROGRAMS).context("is the package postgresql installed?")?;
        let programs = versions
            .filter_map(|version| Some(version.ok()?.path().join("bin")))
            .max()
            .context("PostgreSQL has no version")?;
        // SIGTERM would wait for its clients.
        let mut daemon = Daemon::prepare("PostgreSQL")?.ends_by(Signal::SIGINT);
        let top = daemon.directory().to_owned();
        if geteuid().is_root() {
            let user = User::from_name(SYSTEM_USER)?.context("there is no user postgres")?;
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            chown(&top, Some(uid), Some(gid))?;
        }
        let password = top.join("password");
        fs::write(&password, PASSWORD)?;
        let mut made = as_user(&programs.join("initdb"));
        made.arg("-D").arg(top.join("data"));
        made.args(["-A", "scram-sha-256", "-U", USER, "-E", "UTF8", "--no-sync"]);
        run(made.arg("--pwfile").arg(&password))?;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut server = as_user(&programs.join("postgres"));
        server.arg("-D").arg(top.join("data")).arg("-k").arg(&top);
        server.args(["-h", &ip, "-p", &port, "-c", "fsync=off"]);
        let ready = {
            let (programs, ip, port) = (programs.clone(), ip.clone(), port.clone());
            move || {
                let mut asks = Command::new(programs.join("pg_isready"));
                asks.args(["-q", "-h", &ip, "-p", &port]);
                asks.status().is_ok_and(|status| status.success())
            }
        };
        daemon.start(&mut server, ready)?;
        Ok(Self {
            daemon,
            programs,
            address,
        })
    }

    /// Does something in the database `postgres`.
    ///
    /// # Errors
    /// Where it fails.
    pub fn execute(&self, statements: &str) -> anyhow::Result<()> {
        let (ip, port) = (
            self.address.ip().to_string(),
            self.address.port().to_string(),
        );
        let mut client = Command::new(self.programs.join("psql"));
        client
            .env("PGPASSWORD", PASSWORD)
            .args(["-q", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", "postgres"])
            .args(["-h", &ip, "-p", &port, "-c", statements]);
        run(&mut client)
    }

    /// Its URL, without the password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{USER}@{}/postgres", self.address)
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }
}

/// A command as the user whom it accepts, where we are root.
fn as_user(program: &std::path::Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            SYSTEM_USER,
            "--regid",
            SYSTEM_USER,
            "--init-groups",
        ])
        .arg(program);
    command
}
