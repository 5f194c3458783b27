//! The programs of the peers: where they are, and how they are fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::unistd::{User, geteuid};

use crate::machine::first_line;
use crate::servers::Kind;

/// The user that Debian's Exim insists on: its name is compiled in.
pub(crate) const EXIM_USER: &str = "Debian-exim";

/// What is installed for the peers. It all goes beside each other, and none of it starts a
/// service on port 25 that the benchmark would use.
const PACKAGES: &[&str] = &[
    "postfix",
    "sasl2-bin",
    "libsasl2-modules",
    "libsasl2-modules-db",
    "libidn12",
];

/// What is unpacked, and not installed.
const UNPACKED: &[&str] = &["exim4-daemon-light", "exim4-base"];

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) postroad: PathBuf,
    pub(crate) exim: PathBuf,
    /// Whether Postfix can have users of its own.
    pub(crate) sasl: bool,
}

impl Programs {
    /// With Postroad's program, and Exim unpacked below this directory.
    pub(crate) fn find(postroad: PathBuf, directory: &Path) -> Self {
        Self {
            postroad,
            exim: unpacked(directory).join("usr/sbin/exim4"),
            sasl: installed("saslpasswd2"),
        }
    }

    /// Why a server cannot be measured here, if it cannot.
    pub(crate) fn missing(&self, kind: Kind) -> Option<String> {
        let root = geteuid().is_root();
        match kind {
            Kind::Loop => None,
            Kind::Postroad if self.postroad.exists() => None,
            Kind::Postroad => Some(format!("{} is not there", self.postroad.display())),
            _ if !root => Some("it is started as root only".to_owned()),
            Kind::Postfix if installed("postfix") => None,
            Kind::Exim if !self.exim.exists() => {
                Some("it is not unpacked (--fetch-peers does that)".to_owned())
            }
            Kind::Exim if !has_user() => Some(format!(
                "there is no user {EXIM_USER} (--fetch-peers makes it)"
            )),
            Kind::Exim => None,
            Kind::Postfix => Some("it is not installed (--fetch-peers does that)".to_owned()),
        }
    }

    /// Which version of a server it is.
    pub(crate) fn version(&self, kind: Kind) -> String {
        match kind {
            Kind::Loop => env!("CARGO_PKG_VERSION").to_owned(),
            Kind::Postroad => first_line(&self.postroad, &["--version"]),
            Kind::Postfix => first_line("/usr/sbin/postconf", &["mail_version"]),
            Kind::Exim => first_line(&self.exim, &["-C", "/dev/null", "-bV"]),
        }
    }
}

/// Installs and unpacks the peers, and makes the user that Exim runs as. As root, on Debian.
pub(crate) fn fetch(directory: &Path) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        bail!("peers are installed as root only");
    }
    let mut install = Command::new("apt-get");
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(PACKAGES);
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(&mut install)?;
    let packages = directory.join("packages");
    fs::create_dir_all(&packages)?;
    run(Command::new("apt-get")
        .args(["download", "-qq"])
        .args(UNPACKED)
        .current_dir(&packages))?;
    for entry in fs::read_dir(&packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg")
                .arg("-x")
                .arg(&path)
                .arg(unpacked(directory)))?;
        }
    }
    if !has_user() {
        run(Command::new("adduser")
            .args(["--system", "--group", "--quiet", "--force-badname"])
            .args(["--no-create-home", "--home", "/nonexistent", EXIM_USER]))?;
    }
    Ok(())
}

fn unpacked(directory: &Path) -> PathBuf {
    directory.join("unpacked")
}

fn has_user() -> bool {
    User::from_name(EXIM_USER).is_ok_and(|user| user.is_some())
}

/// Whether a program is where root finds it.
pub(crate) fn installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("{command:?}");
    let status = command
        .status()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!(
            "{} failed: {status}",
            command.get_program().to_string_lossy()
        );
    }
    Ok(())
}
