//! S5: what idle connections cost.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::results::Figures;
use crate::servers::{Kind, Place};
use crate::source::{Client, Opening, runtime};
use crate::statistics::figure;

/// Connections that are opened at the same time.
const AT_ONCE: usize = 50;

/// Connections before those that are counted: what is made once is none of theirs.
const BEFORE: usize = 20;

/// How long a server may put itself in order after the last connection.
const SETTLE: Duration = Duration::from_millis(1500);

/// How many idle connections a server gets: a peer with a process for each gets fewer.
pub(crate) fn connections(kind: Kind, wanted: usize) -> usize {
    match kind {
        Kind::Loop | Kind::Postroad => wanted,
        Kind::Postfix | Kind::Exim => wanted.min(200),
    }
}

/// The memory of each connection, in each of the states that one may be idle in.
///
/// # Errors
/// Where a connection is not served.
pub(crate) fn measure(place: &Place, count: usize) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    for (name, opening) in [
        ("KiB each, after the greeting", Opening::Greeting),
        ("KiB each, after EHLO", Opening::Hello),
        ("KiB each, TLS, after EHLO", place.tls()),
    ] {
        let running = place.start()?;
        let runtime = runtime()?;
        let warm = runtime
            .block_on(open(place.smtp, &opening, BEFORE))
            .with_context(|| format!("{name}: the log ends:\n{}", place.log()))?;
        std::thread::sleep(SETTLE);
        let before = running.group.memory();
        let idle = runtime.block_on(open(place.smtp, &opening, count));
        let idle = idle.with_context(|| format!("{name}: the log ends:\n{}", place.log()))?;
        std::thread::sleep(SETTLE);
        let after = running.group.memory();
        let octets = after.saturating_sub(before);
        figures.insert(
            name,
            figure(octets) / figure(u64::try_from(count)?) / 1024.0,
        );
        drop((warm, idle));
        running.stop()?;
    }
    figures.insert("connections", figure(u64::try_from(count)?));
    Ok(figures)
}

/// Opens connections, and keeps them.
async fn open(address: SocketAddr, opening: &Opening, count: usize) -> anyhow::Result<Vec<Client>> {
    let (mut open, mut opening_now) = (Vec::with_capacity(count), JoinSet::new());
    for _ in 0..count {
        if opening_now.len() >= AT_ONCE
            && let Some(client) = opening_now.join_next().await
        {
            open.push(client??);
        }
        let opening = opening.clone();
        opening_now.spawn(async move { Client::connect(address, &opening).await });
    }
    while let Some(client) = opening_now.join_next().await {
        open.push(client??);
    }
    Ok(open)
}
