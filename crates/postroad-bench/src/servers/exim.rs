//! Exim, from a Debian package that is unpacked and not installed: it and Postfix exclude each
//! other.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use super::files::run;
use super::{CREDENTIALS, Place, Running};
use crate::group::Group;
use crate::peers::EXIM_USER;

const TEMPLATE: &str = include_str!("../../peers/exim/exim.conf");
const CONFIGURATION: &str = "exim.conf";

/// Its log in its directory.
pub(super) const LOG: &str = "logs/mainlog";

/// Queue runners that are started at once: each delivers one message after the other.
const RUNNERS: usize = 8;

pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    let directory = &place.directory;
    for name in ["spool", "logs"] {
        fs::create_dir(directory.join(name))?;
    }
    let user = format!("{EXIM_USER}:{EXIM_USER}");
    let owned = ["spool", "logs"].map(|name| directory.join(name));
    run(Command::new("chown").arg(&user).args(owned))?;
    // It reads them for each connection, and is not root any more then.
    for file in [&place.tls.certificate, &place.tls.key] {
        run(Command::new("chown").arg(&user).arg(file))?;
    }
    let (exim, runners) = (place.programs.exim.to_string_lossy(), RUNNERS.to_string());
    let words = [
        ("USER", EXIM_USER),
        ("GROUP", EXIM_USER),
        ("EXIM", &exim),
        ("RUNNERS", &runners),
        ("USERNAME", CREDENTIALS.user),
        ("PASSWORD", CREDENTIALS.password),
    ];
    place.write(CONFIGURATION, TEMPLATE, &words)?;
    Ok(())
}

pub(super) fn start(place: &Place, group: &Group) -> anyhow::Result<Child> {
    group
        .command(&place.programs.exim)
        .arg("-C")
        .arg(place.directory.join(CONFIGURATION))
        .args(["-bdf", "-q30m"])
        .stdin(Stdio::null())
        .stdout(place.open_log()?)
        .stderr(place.open_log()?)
        .spawn()
        .context("starting Exim")
}

/// Starts queue runners in the server's group; none of them is waited for.
pub(super) fn flush(place: &Place, running: &Running) -> anyhow::Result<()> {
    for _ in 0..RUNNERS {
        // A runner ends when it has been through the queue. The shell does not wait for it.
        let status = running
            .group
            .command(Path::new("/bin/sh"))
            .args(["-c", "\"$@\" &", "sh"])
            .arg(&place.programs.exim)
            .arg("-C")
            .arg(place.directory.join(CONFIGURATION))
            .arg("-qff")
            .stdin(Stdio::null())
            .stdout(place.open_log()?)
            .stderr(place.open_log()?)
            .status();
        status.context("starting a queue runner of Exim")?;
    }
    Ok(())
}
