//! Postfix.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::files::run;
use super::{CREDENTIALS, Place};
use crate::group::Group;

const MAIN: &str = include_str!("../../peers/postfix/main.cf");
const MASTER: &str = include_str!("../../peers/postfix/master.cf");

/// Its program, as far as it is installed as Debian does it.
const PROGRAM: &str = "/usr/sbin/postfix";

/// The realm of the user in the SASL database: `smtpd_sasl_local_domain`.
const REALM: &str = "bench.test";

pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    for name in ["etc", "etc/sasl", "spool", "data"] {
        fs::create_dir(place.directory.join(name))?;
    }
    run(Command::new("chown")
        .arg("postfix")
        .arg(place.directory.join("data")))?;
    let sasl = if place.programs.sasl {
        database(place)?;
        "yes"
    } else {
        "no"
    };
    let words = [
        ("COMMANDS", "/usr/sbin"),
        ("DAEMONS", "/usr/lib/postfix/sbin"),
        ("SASL", sasl),
    ];
    place.write("etc/main.cf", MAIN, &words)?;
    place.write("etc/master.cf", MASTER, &words)?;
    Ok(())
}

/// Starts it; gives what stops it.
pub(super) fn start(place: &Place, group: &Group) -> anyhow::Result<Command> {
    let directory = place.directory.join("etc");
    // Its daemons keep what they inherit open: a pipe would never end.
    let status = group
        .command(Path::new(PROGRAM))
        .arg("-c")
        .arg(&directory)
        .arg("start")
        .stdin(Stdio::null())
        .stdout(place.open_log()?)
        .stderr(place.open_log()?)
        .status()
        .context("starting Postfix")?;
    if !status.success() {
        bail!("postfix start: {status}; its log ends:\n{}", place.log());
    }
    Ok(order(&directory, "stop"))
}

pub(super) fn flush(place: &Place) -> anyhow::Result<()> {
    run(&mut order(&place.directory.join("etc"), "flush")).map(drop)
}

/// A transport map.
pub(super) fn destinations(place: &Place, routes: &[(String, SocketAddr)]) -> anyhow::Result<()> {
    let line = |(domain, host): &(String, SocketAddr)| {
        let (ip, port) = (host.ip(), host.port());
        format!("{domain} smtp:[{ip}]:{port}\n")
    };
    let path = place.directory.join("etc/transport");
    fs::write(&path, routes.iter().map(line).collect::<String>())?;
    let text = format!("\ntransport_maps = texthash:{}\n", path.display());
    place.append("etc/main.cf", &text)
}

fn order(directory: &Path, order: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(directory).arg(order);
    command
}

/// The users, as the SASL library of Cyrus keeps them.
fn database(place: &Place) -> anyhow::Result<()> {
    // Debian's Postfix looks for its part of the library's configuration here, and only here.
    let directory = place.directory.join("etc/sasl");
    let path = directory.join("sasldb2");
    let mut child = Command::new("saslpasswd2")
        .args(["-p", "-c", "-u", REALM, "-f"])
        .arg(&path)
        .arg(CREDENTIALS.user)
        .stdin(Stdio::piped())
        .spawn()
        .context("starting saslpasswd2")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(CREDENTIALS.password.as_bytes())?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("saslpasswd2: {status}");
    }
    run(Command::new("chown").arg("postfix").arg(&path))?;
    fs::write(
        directory.join("smtpd.conf"),
        format!(
            "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN\nsasldb_path: {}\n",
            path.display()
        ),
    )?;
    Ok(())
}
