//! The benchmark: `cargo xtask bench`. docs/benchmarks.md says what it measures, and how.

mod arguments;
mod clock;
mod compare;
mod crosscheck;
mod dead;
mod estimate;
mod fanout;
mod group;
mod idle;
mod interrupt;
mod machine;
mod measure;
mod memory;
mod peers;
mod ports;
mod restart;
mod results;
mod run;
mod scenario;
mod servers;
mod sink;
mod source;
mod statistics;
mod table;
mod tls;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Parser as _;

use arguments::Arguments;
use group::Method;
use machine::Machine;
use peers::Programs;
use results::{Results, name};
use run::Run;
use servers::Kind;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse().settled();
    let target = target()?;
    let directory = match &arguments.dir {
        Some(directory) => directory.clone(),
        None => target.join("bench"),
    };
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let directory = directory.canonicalize()?;
    let lock = File::create(directory.join("lock"))?;
    lock.try_lock()
        .context("another run uses this directory (--dir names another)")?;
    if arguments.fetch_peers {
        peers::fetch(&directory)?;
    }
    machine::raise_descriptors()?;
    let postroad = arguments.postroad.clone();
    let postroad = postroad.map_or_else(beside, Ok)?;
    let programs = Arc::new(Programs::find(postroad, &directory));
    let method = Method::find()?;
    interrupt::clean_up(method.clone(), directory.clone())?;
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let machine = Machine::here(&directory);
    let mut run = Run {
        kinds: servers(&arguments, &programs)?,
        results: Results::new(
            format!("cargo xtask bench {command}").trim().to_owned(),
            machine,
            method.describe(),
        ),
        arguments,
        directory,
        method,
        programs,
    };
    for kind in &run.kinds {
        let version = run.programs.version(*kind);
        run.results.versions.insert(kind.to_string(), version);
    }
    all(&mut run)
}

/// Measures, prints, writes and compares.
fn all(run: &mut Run) -> anyhow::Result<ExitCode> {
    let scenarios = run.arguments.scenarios();
    print(&head(&run.results))?;
    let minutes = estimate::seconds(&run.arguments, &scenarios, &run.kinds).div_ceil(60);
    eprintln!("this takes about {minutes} min");
    for scenario in scenarios {
        run.scenario(scenario);
        print(&table::of(&run.results, scenario))?;
    }
    let json = run.arguments.json.clone();
    let json = json.unwrap_or_else(|| run.directory.join("results.json"));
    run.results.write(&json)?;
    let saved = run.directory.join("baseline.json");
    let baseline = run.arguments.baseline.clone();
    let baseline = baseline.or_else(|| saved.exists().then(|| saved.clone()));
    if let Some(baseline) = baseline {
        print(&compare::changes(&Results::read(&baseline)?, &run.results))?;
    }
    if run.arguments.save_baseline {
        run.results.write(&saved)?;
    }
    print(&format!("results: {}\n", json.display()))?;
    Ok(verdict(&run.results))
}

/// Fails where Postroad has lost a message or let nothing through, or anything else went wrong
/// with it or with the loop: of a peer the table tells.
fn verdict(results: &Results) -> ExitCode {
    let ours = [Kind::Loop, Kind::Postroad].map(|kind| kind.to_string());
    let mut code = ExitCode::SUCCESS;
    for row in results.rows.iter().filter(|r| ours.contains(&r.server)) {
        let nothing =
            row.figures.is_empty() || row.spread(name::RATE).is_some_and(|rate| rate.max <= 0.0);
        if nothing || !row.faults.is_empty() {
            eprintln!(
                "{} {} {}: {}",
                row.server,
                row.scenario,
                row.variant,
                if row.faults.is_empty() {
                    "nothing got through".to_owned()
                } else {
                    row.faults.join("; ")
                }
            );
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// The servers that were asked for. One that was named has to be there; of one that was not it is
/// said that it is missing.
fn servers(arguments: &Arguments, programs: &Programs) -> anyhow::Result<Vec<Kind>> {
    let (wanted, named) = arguments.kinds();
    let mut found = Vec::new();
    for kind in wanted {
        match programs.missing(kind) {
            None => found.push(kind),
            Some(why) if named || kind == Kind::Postroad => bail!("{kind}: {why}"),
            Some(why) => eprintln!("without {kind}: {why}"),
        }
    }
    Ok(found)
}

fn head(results: &Results) -> String {
    let versions: Vec<String> = results
        .versions
        .iter()
        .map(|(server, version)| format!("{server}: {version}"))
        .collect();
    format!(
        "`{}`\n{}\nCPU by {}\n{}\n",
        results.command,
        results.machine.describe(),
        results.cpu_method,
        versions.join("\n")
    )
}

/// The target directory that this program stands in.
fn target() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("asking for the path of this program")?;
    let target = program.ancestors().nth(2).map(Path::to_owned);
    target.context("this program stands in no target directory")
}

/// Postroad's program, of the same build as this one.
fn beside() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("asking for the path of this program")?;
    Ok(program.with_file_name("postroad"))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}").context("printing")
}
