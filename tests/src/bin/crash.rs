//! Kills a relay under load, as often as it is told, and counts: `cargo xtask crash`.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use postroad_tests::crash::{Plan, run};

fn plan(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Plan> {
    let mut plan = Plan {
        kills: 200,
        seed: 4711,
        sessions: 8,
        queue: "",
        tell: true,
    };
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{name} needs a value"))?;
        let wrong = || format!("{name} {value}");
        match name.as_str() {
            "--kills" => plan.kills = value.parse().with_context(wrong)?,
            "--seed" => plan.seed = value.parse().with_context(wrong)?,
            "--sessions" => plan.sessions = value.parse().with_context(wrong)?,
            "--durability" => {
                plan.queue = match value.as_str() {
                    "sync" => "durability = \"sync\"",
                    "os" => "durability = \"os\"",
                    _ => bail!("--durability is `sync` or `os`"),
                };
            }
            _ => bail!("unknown: {name}; there are --kills, --seed, --sessions, --durability"),
        }
    }
    Ok(plan)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let report = run(&plan(std::env::args().skip(1))?).await?;
    writeln!(std::io::stdout(), "{report}")?;
    report.check().await
}
