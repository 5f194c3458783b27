//! The same loop with `smtp-source` and `smtp-sink` of Postfix: is ours as fast as theirs?

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clock;
use crate::peers::installed;
use crate::statistics::figure;

/// How long their sink may take to listen.
const START: Duration = Duration::from_secs(5);

/// Messages a second through them; none where they are not installed.
///
/// # Errors
/// Where they do not run.
pub(crate) fn rate(
    address: SocketAddr,
    sessions: usize,
    messages: u64,
    kept: bool,
) -> anyhow::Result<Option<f64>> {
    if !installed("smtp-source") || !installed("smtp-sink") {
        return Ok(None);
    }
    let mut sink = Command::new("smtp-sink");
    // As root it insists on another user, and needs none.
    if nix::unistd::geteuid().is_root() {
        sink.args(["-u", "nobody"]);
    }
    let target = address.to_string();
    let _sink = Ended(
        sink.args([&target, "1024"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting smtp-sink")?,
    );
    let asked = clock::now();
    while TcpStream::connect(address).is_err() {
        if asked.elapsed() > START {
            bail!("smtp-sink does not listen");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut source = Command::new("smtp-source");
    if kept {
        source.arg("-d");
    }
    source
        .args(["-s", &sessions.to_string(), "-m", &messages.to_string()])
        .args(["-l", "4096", "-f", "source@client.test"])
        .args(["-t", "someone@sink.test", &target]);
    let started = clock::now();
    let status = source.status().context("starting smtp-source")?;
    let took = started.elapsed();
    if !status.success() {
        bail!("smtp-source: {status}");
    }
    Ok(Some(figure(messages) / took.as_secs_f64()))
}

/// A process that ends with this.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
