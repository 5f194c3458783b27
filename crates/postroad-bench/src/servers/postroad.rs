//! Postroad.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

use super::files::run;
use super::{CREDENTIALS, Place};
use crate::group::Group;

const TEMPLATE: &str = include_str!("../../peers/postroad/postroad.toml");
const CONFIGURATION: &str = "postroad.toml";

pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    let socket = socket(place);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(place.directory.join("queue"))?;
    let socket = socket.to_string_lossy();
    let path = place.write(CONFIGURATION, TEMPLATE, &[("SOCKET", &socket)])?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    add_user(place)
}

pub(super) fn start(place: &Place, group: &Group) -> anyhow::Result<Child> {
    let mut command = group.command(&place.programs.postroad);
    command
        .arg("run")
        .arg("--config")
        .arg(place.directory.join(CONFIGURATION))
        .stdin(Stdio::null())
        .stdout(place.open_log()?)
        .stderr(place.open_log()?);
    clean(&mut command).spawn().context("starting Postroad")
}

pub(super) fn flush(place: &Place) -> anyhow::Result<()> {
    let mut command = Command::new(&place.programs.postroad);
    command
        .args(["queue", "retry", "--all", "--config"])
        .arg(place.directory.join(CONFIGURATION));
    run(clean(&mut command)).map(drop)
}

/// A table of routes.
pub(super) fn destinations(place: &Place, routes: &[(String, SocketAddr)]) -> anyhow::Result<()> {
    let lines = routes.iter();
    let lines = lines.map(|(domain, host)| format!("{domain} smtp://{host}\n"));
    fs::write(
        place.directory.join("routes.txt"),
        lines.collect::<String>(),
    )?;
    place.append(CONFIGURATION, "\n[[route]]\ntable = \"routes.txt\"\n")
}

fn add_user(place: &Place) -> anyhow::Result<()> {
    let mut command = Command::new(&place.programs.postroad);
    command
        .args(["user", "add", CREDENTIALS.user, "--file"])
        .arg(place.directory.join("users.toml"))
        .arg("--password-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = clean(&mut command).spawn().context("starting Postroad")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(CREDENTIALS.password.as_bytes())?;
        input.write_all(b"\n")?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("postroad user add: {status}");
    }
    Ok(())
}

/// The path of a socket is short, the one of a directory may not be.
fn socket(place: &Place) -> PathBuf {
    let own = place.directory.join("admin.sock");
    if own.as_os_str().len() < 100 {
        return own;
    }
    let name = format!("postroad-bench-{}.sock", std::process::id());
    Path::new("/run").join(name)
}

/// What a developer's own environment must not lend to it.
fn clean(command: &mut Command) -> &mut Command {
    for name in ["POSTROAD_CONFIG", "POSTROAD_LOG", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    command
}
