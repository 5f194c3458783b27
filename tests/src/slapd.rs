//! A real OpenLDAP (Debian packages `slapd`, `ldap-utils`), with a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use crate::daemon::{Daemon, run};

/// The entry below which everything is.
pub const BASE: &str = "dc=directory,dc=test";
/// Who may ask.
pub const BIND: &str = "cn=admin,dc=directory,dc=test";
/// Its password.
pub const PASSWORD: &str = "directory secret";

/// A running slapd.
#[derive(Debug)]
pub struct Slapd {
    _daemon: Daemon,
    address: SocketAddr,
}

impl Slapd {
    /// Starts one at that address with persons, each a mail address and where its mail goes: the
    /// attributes `mail` and `description`.
    ///
    /// # Errors
    /// Where it is missing or does not start.
    pub fn start(address: SocketAddr, persons: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut daemon = Daemon::prepare("slapd")?;
        let top = daemon.directory().to_owned();
        fs::create_dir(top.join("data"))?;
        let text = top.display();
        let configuration = format!(
            "include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {text}/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
maxsize 10485760
suffix \"{BASE}\"
rootdn \"{BIND}\"
rootpw \"{PASSWORD}\"
directory {text}/data
access to * by dn.exact=\"{BIND}\" read by anonymous auth
"
        );
        fs::write(top.join("slapd.conf"), configuration)?;
        let mut entries = format!(
            "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: directory\no: test\n\n"
        );
        for (nth, (mail, via)) in persons.iter().enumerate() {
            entries.push_str(&format!(
                "dn: uid=person{nth},{BASE}\nobjectClass: inetOrgPerson\nuid: person{nth}\ncn: Person\nsn: Person\nmail: {mail}\ndescription: {via}\n\n"
            ));
        }
        fs::write(top.join("entries.ldif"), entries)?;
        let file = top.join("slapd.conf");
        let entries = top.join("entries.ldif");
        run(Command::new("slapadd")
            .arg("-f")
            .arg(&file)
            .arg("-l")
            .arg(entries))?;
        let url = format!("ldap://{address}/");
        let mut command = Command::new("slapd");
        // A level of debugging keeps it in the foreground.
        command.args(["-d", "0", "-h", &url, "-f"]).arg(file);
        daemon.start(&mut command, || {
            std::net::TcpStream::connect(address).is_ok()
        })?;
        Ok(Self {
            _daemon: daemon,
            address,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
