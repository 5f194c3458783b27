//! A real Postfix (Debian package `postfix`), with a configuration, a queue and a log of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::daemon::{NOBODY, run};
use crate::process::PATIENCE;

/// A running Postfix.
#[derive(Debug)]
pub struct Postfix {
    directory: TempDir,
    address: SocketAddr,
}

/// What differs between the Postfixes of the tests.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    /// The domain whose mail goes to its mailbox.
    pub domain: &'a str,
    /// Where it sends all other mail: `[address]:port`.
    pub relayhost: Option<SocketAddr>,
    /// Certificate and key, where it is to offer STARTTLS.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// More lines for main.cf.
    pub more: &'a str,
}

impl Postfix {
    /// Starts one on that address. Must be called as root: Postfix insists.
    ///
    /// # Errors
    /// Where Postfix is missing or does not start.
    pub fn start(address: SocketAddr, settings: &Settings<'_>) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let top = directory.path();
        for name in ["etc", "spool", "data", "mail"] {
            fs::create_dir(top.join(name))?;
        }
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(top, fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::chown(top.join("mail"), Some(NOBODY), Some(NOBODY))?;
        run(Command::new("chown").arg("postfix").arg(top.join("data")))
            .context("is the package postfix installed?")?;
        fs::write(top.join("etc/main.cf"), main_cf(top, settings))?;
        fs::write(top.join("etc/master.cf"), master_cf(address))?;
        run(&mut order(&top.join("etc"), "start"))?;
        let postfix = Self { directory, address };
        postfix.wait_until(|| std::net::TcpStream::connect(address).is_ok(), "listens")?;
        Ok(postfix)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until its mailbox holds `count` messages; gives them.
    ///
    /// # Errors
    /// Where it does not; the error shows Postfix's log.
    pub fn wait_for_mail(&self, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        self.wait_until(
            || self.mail().len() >= count,
            &format!("has {count} messages"),
        )?;
        self.mail()
            .iter()
            .map(|path| fs::read(path).with_context(|| format!("reading {}", path.display())))
            .collect()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn mail(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.directory.path().join("mail/box/new")) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .collect()
    }

    /// Postfix tells nobody when it is done, so this looks again and again.
    #[expect(clippy::disallowed_methods, reason = "a test's own patience")]
    fn wait_until(&self, done: impl Fn() -> bool, what: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        while !done() {
            if started.elapsed() > PATIENCE {
                bail!("Postfix never {what}; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of Postfix:\n{}", self.log());
        }
        let _ = run(&mut order(&self.directory.path().join("etc"), "stop"));
    }
}

fn order(etc: &Path, order: &str) -> Command {
    let mut command = Command::new("postfix");
    command.arg("-c").arg(etc).arg(order);
    command
}

fn main_cf(top: &Path, settings: &Settings<'_>) -> String {
    let top = top.display();
    let domain = settings.domain;
    let relayhost = settings
        .relayhost
        .map_or_else(String::new, |a| format!("[{}]:{}", a.ip(), a.port()));
    let tls = settings.tls.map_or_else(String::new, |(certificate, key)| {
        format!(
            "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
            certificate.display(),
            key.display()
        )
    });
    let more = settings.more;
    format!(
        "compatibility_level = 3.6
queue_directory = {top}/spool
data_directory = {top}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_dns_support_level = disabled
smtp_tls_security_level = may
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {top}/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:{NOBODY}
virtual_gid_maps = static:{NOBODY}
virtual_minimum_uid = 100
maillog_file = {top}/log
maillog_file_prefixes = {top}
alias_maps =
alias_database =
local_recipient_maps =
biff = no
relayhost = {relayhost}
{tls}{more}
"
    )
}

fn master_cf(address: SocketAddr) -> String {
    format!(
        "{address} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"
    )
}
