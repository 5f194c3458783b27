//! A real Dovecot (Debian packages `dovecot-core`, `dovecot-lmtpd`): LMTP into Maildirs, and a
//! directory of passwords for Postfix.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{Daemon, NOBODY, maildir};
use crate::site::{PASSWORD, USER};

/// A user whose mailbox cannot be written.
pub const BROKEN: &str = "broken";

/// A running Dovecot. It has the user of every site, and [`BROKEN`].
#[derive(Debug)]
pub struct Dovecot {
    daemon: Daemon,
    address: SocketAddr,
}

impl Dovecot {
    /// Starts one that listens there. Must be called as root.
    ///
    /// # Errors
    /// Where Dovecot is missing or does not start.
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let mut daemon = Daemon::prepare("Dovecot")?;
        let top = daemon.directory().to_owned();
        fs::create_dir(top.join("mail"))?;
        chown(top.join("mail"), Some(NOBODY), Some(NOBODY))?;
        // A file where its directory should be.
        fs::write(top.join("mail").join(BROKEN), "")?;
        let users = [USER, BROKEN].map(|user| format!("{user}:{{PLAIN}}{PASSWORD}::::::\n"));
        fs::write(top.join("users"), users.concat())?;
        fs::write(top.join("dovecot.conf"), configuration(&top, address))?;
        let sockets = [top.join("run/lmtp"), top.join("run/postfix-auth")];
        let listens = || {
            std::net::TcpStream::connect(address).is_ok()
                && sockets.iter().all(|socket| socket.exists())
        };
        let file = top.join("dovecot.conf");
        daemon.start(
            Command::new("dovecot").arg("-F").arg("-c").arg(file),
            listens,
        )?;
        Ok(Self { daemon, address })
    }

    /// Where it takes mail by LMTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, as a Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.daemon.directory().join("run/lmtp")
    }

    /// Where Postfix asks it about passwords (`smtpd_sasl_path`).
    #[must_use]
    pub fn passwords(&self) -> PathBuf {
        self.daemon.directory().join("run/postfix-auth")
    }

    /// Waits until the mailbox of a user holds `count` messages; gives them.
    ///
    /// # Errors
    /// Where it does not; the error shows Dovecot's log.
    pub fn wait_for_mail(&mut self, user: &str, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        let mailbox = self.daemon.directory().join("mail").join(user);
        let what = format!("has {count} messages for {user}");
        self.daemon
            .wait_until(&what, || maildir(&mailbox).len() >= count)?;
        Ok(maildir(&mailbox))
    }
}

fn configuration(top: &Path, address: SocketAddr) -> String {
    let (top, ip, port) = (top.display(), address.ip(), address.port());
    format!(
        "base_dir = {top}/run
state_dir = {top}/state
log_path = {top}/log
protocols = lmtp
listen = {ip}
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_username_format = %n
default_internal_user = dovecot
default_login_user = dovenull
mail_location = maildir:{top}/mail/%n
mail_uid = {NOBODY}
mail_gid = {NOBODY}
first_valid_uid = 1
lmtp_rcpt_check_quota = no
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {top}/users
}}
userdb {{
  driver = passwd-file
  args = {top}/users
  default_fields = uid={NOBODY} gid={NOBODY} home={top}/mail/%n
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = {ip}
    port = {port}
  }}
}}
service auth {{
  unix_listener postfix-auth {{
    mode = 0666
  }}
}}
"
    )
}
