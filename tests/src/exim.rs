//! A real Exim. It and Postfix exclude each other as Debian packages, so that it is unpacked and
//! not installed, where `cargo xtask bench --fetch-peers` puts it: below `bench/unpacked` in the
//! target directory, or where `POSTROAD_EXIM` says.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use crate::daemon::{Daemon, maildir, run};
use crate::programs::target_directory;

/// The user that Debian's Exim insists on: its name is compiled in.
const USER: &str = "Debian-exim";

/// A running Exim.
#[derive(Debug)]
pub struct Exim {
    daemon: Daemon,
    address: SocketAddr,
}

impl Exim {
    /// Starts one on that address; it takes mail for `domain`, but not for `nobody`. Must be called as
    /// root.
    ///
    /// # Errors
    /// Where Exim is missing or does not start.
    pub fn start(
        address: SocketAddr,
        domain: &str,
        (certificate, key): (&Path, &Path),
    ) -> anyhow::Result<Self> {
        let program = std::env::var_os("POSTROAD_EXIM").map_or_else(
            || target_directory().join("bench/unpacked/usr/sbin/exim4"),
            PathBuf::from,
        );
        ensure!(
            program.exists(),
            "{} is not there: `cargo xtask bench --fetch-peers` unpacks it",
            program.display()
        );
        let mut daemon = Daemon::prepare("Exim")?;
        let top = daemon.directory().to_owned();
        for name in ["spool", "logs", "mail"] {
            fs::create_dir(top.join(name))?;
        }
        let files = [(certificate, "certificate.pem"), (key, "key.pem")];
        for (from, to) in files {
            fs::copy(from, top.join(to))?;
        }
        let owned = ["spool", "logs", "mail", "certificate.pem", "key.pem"];
        let owned = owned.map(|name| top.join(name));
        let owner = format!("{USER}:{USER}");
        run(Command::new("chown").arg(owner).args(owned))?;
        let file = top.join("exim.conf");
        fs::write(&file, configuration(&top, address, domain, &program))?;
        let mut command = Command::new(&program);
        command.arg("-C").arg(file).args(["-bdf", "-q1m"]);
        let listens = || std::net::TcpStream::connect(address).is_ok();
        daemon.start(&mut command, listens)?;
        Ok(Self { daemon, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until its mailbox holds `count` messages; gives them.
    ///
    /// # Errors
    /// Where it does not; the error shows Exim's log.
    pub fn wait_for_mail(&mut self, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        let mailbox = self.daemon.directory().join("mail/box");
        let what = format!("has {count} messages");
        self.daemon
            .wait_until(&what, || maildir(&mailbox).len() >= count)?;
        Ok(maildir(&mailbox))
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        let logs = self.daemon.directory().join("logs");
        let read = |name: &str| fs::read_to_string(logs.join(name)).unwrap_or_default();
        format!("{}{}", read("mainlog"), read("rejectlog"))
    }
}

fn configuration(top: &Path, address: SocketAddr, domain: &str, program: &Path) -> String {
    let (top, program) = (top.display(), program.display());
    let (ip, port) = (address.ip(), address.port());
    format!(
        "exim_user = {USER}
exim_group = {USER}
exim_path = {program}
never_users =
deliver_drop_privilege = true
keep_environment =
primary_hostname = exim.test
spool_directory = {top}/spool
log_file_path = {top}/logs/%slog
pid_file_path = {top}/exim.pid
local_interfaces = <; [{ip}]:{port}
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
host_lookup =
rfc1413_query_timeout = 0s
dns_dnssec_ok = 0
disable_ipv6 = true
check_spool_space = 0
check_spool_inodes = 0
check_log_space = 0
check_log_inodes = 0
chunking_advertise_hosts = *
tls_advertise_hosts = *
tls_certificate = {top}/certificate.pem
tls_privatekey = {top}/key.pem

begin acl

rcpt:
  deny  local_parts = nobody
        message = no such user here
  accept domains = {domain}
  deny  message = relay not permitted

begin routers

box:
  driver = accept
  domains = {domain}
  transport = box

begin transports

box:
  driver = appendfile
  directory = {top}/mail/box
  create_directory
  maildir_format
  user = {USER}
  group = {USER}
  initgroups = false

begin retry

* * F,1h,1m
"
    )
}
