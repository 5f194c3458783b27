use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use postroad_queue::transfer::{Imported, PIECE, Part, Skip};
use postroad_queue::{Filter, Health, Listed, QueueId};
use postroad_service::admin::ImportReport;
use postroad_service::queue::{Queue, pieces};

use crate::output::line;

/// Messages that could not be read and are named; the others are counted.
const NAMED_MAX: usize = 100;

pub(super) async fn verify(queue: &Queue, json: bool) -> anyhow::Result<ExitCode> {
    let verified = queue.verify().await?;
    if json {
        line(format_args!("{}", serde_json::to_string(&verified)?))?;
    } else {
        for finding in &verified.findings {
            line(format_args!("{finding}"))?;
        }
        if verified.more > 0 {
            line(format_args!("and {} more", verified.more))?;
        }
        let (messages, octets) = (verified.messages, verified.octets);
        if verified.is_good() {
            line(format_args!(
                "{}, {octets} octets: all is as it was written",
                number(messages)
            ))?;
        } else {
            line(format_args!(
                "{}, {octets} octets: as written; what is not stands above",
                number(messages)
            ))?;
        }
    }
    Ok(if verified.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) fn health(health: &Health) -> io::Result<()> {
    if let Some(fault) = &health.fault {
        let since = health.fault_since;
        let since = since.map_or_else(String::new, |at| format!(" since {}", super::date(at)));
        line(format_args!("fault{since}: {fault}"))?;
    }
    let free = health.free.map_or_else(String::new, |free| {
        format!(
            "; {free} octets free, of which {} are kept free",
            health.min_free
        )
    });
    line(format_args!(
        "{} octets of files, {} of them needed{free}",
        health.disk, health.live
    ))
}

/// What an export has had in it.
#[derive(Default)]
struct Exported {
    messages: u64,
    octets: u64,
    /// Of which nothing could be read.
    void: u64,
    named: Vec<QueueId>,
    /// The one that comes now.
    current: Option<(QueueId, u64)>,
    /// Ids that were asked for and have not come.
    missing: Vec<QueueId>,
}

impl Exported {
    fn see(&mut self, part: &Part) {
        match part {
            Part::Message { message, octets } => self.begins(message, *octets),
            Part::Whole => {
                self.messages += 1;
                self.octets += self.current.map_or(0, |(_, octets)| octets);
            }
            Part::Void => {
                self.void += 1;
                if let Some((id, _)) = self.current
                    && self.named.len() < NAMED_MAX
                {
                    self.named.push(id);
                }
            }
            Part::Piece(_) | Part::End(_) => {}
        }
    }

    fn begins(&mut self, message: &Listed, octets: u64) {
        self.current = Some((message.id, octets));
        self.missing.retain(|id| *id != message.id);
    }

    /// To the standard error: the export itself may be on its way to standard output.
    fn say(&self) -> anyhow::Result<ExitCode> {
        let mut said = io::stderr().lock();
        writeln!(
            said,
            "{} exported, {} octets",
            number(self.messages),
            self.octets
        )?;
        for id in &self.named {
            writeln!(said, "message {id} cannot be read, and is left out")?;
        }
        if self.void > 0 {
            writeln!(
                said,
                "{} left out; `postroad queue verify` says what is wrong",
                number(self.void)
            )?;
            return Ok(ExitCode::FAILURE);
        }
        match self.missing.first() {
            Some(id) => bail!("no message {id} is in the queue"),
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

pub(super) async fn export(
    queue: &Queue,
    filter: &Filter,
    output: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    if output.is_none() && io::stdout().is_terminal() {
        bail!("an export is nothing for a terminal: give --output FILE, or send it through a pipe");
    }
    warn_of_twice(queue, filter).await?;
    let (file, new) = match output {
        Some(path) => create(path)?,
        None => (
            File::from(io::stdout().as_fd().try_clone_to_owned()?),
            false,
        ),
    };
    let mut out = BufWriter::with_capacity(PIECE, file);
    let mut exported = Exported {
        missing: filter.ids.clone(),
        ..Exported::default()
    };
    let written = queue
        .export(
            filter,
            |piece| out.write_all(piece),
            |part| exported.see(part),
        )
        .await
        .map_err(anyhow::Error::new)
        .and_then(|()| Ok(out.flush()?))
        .and_then(|()| {
            if new {
                Ok(out.get_ref().sync_all()?)
            } else {
                Ok(())
            }
        });
    if let Err(error) = written {
        if let (Some(path), true) = (output, new) {
            let _ = std::fs::remove_file(path); // nobody could use it
        }
        // A reader that has gone away is no success here: what it has is no export.
        return Err(anyhow!("the export is not complete: {}", said(&error)));
    }
    let code = exported.say()?;
    if exported.void == 0 {
        warn_of_damage(queue).await?;
    }
    Ok(code)
}

/// What is too damaged to be listed is not in an export either.
async fn warn_of_damage(queue: &Queue) -> anyhow::Result<()> {
    let damaged = queue.stats(0).await?.health.damaged;
    if damaged > 0 {
        writeln!(
            io::stderr(),
            "{} of this queue found damaged since it was opened; `postroad queue verify` says what is wrong",
            number(damaged)
        )?;
    }
    Ok(())
}

fn number(messages: u64) -> String {
    match messages {
        1 => "1 message".to_owned(),
        _ => format!("{messages} messages"),
    }
}

/// In words alone, so that nothing that looks at causes finds a broken pipe among them.
fn said(error: &anyhow::Error) -> String {
    postroad_service::with_causes(error.as_ref())
}

/// A new file that only its owner may read; and whether it is new. What is no file (a tape, a
/// pipe with a name) is written to as it is.
fn create(path: &Path) -> anyhow::Result<(File, bool)> {
    let new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match new {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_file() {
                bail!(
                    "{} is there already; an export is not written over another: remove it, or name a new file",
                    path.display()
                );
            }
            let file = OpenOptions::new().write(true).open(path);
            Ok((
                file.with_context(|| format!("opening {}", path.display()))?,
                false,
            ))
        }
        Err(error) => Err(error).with_context(|| format!("creating {}", path.display())),
    }
}

async fn warn_of_twice(queue: &Queue, filter: &Filter) -> anyhow::Result<()> {
    if !queue.is_running() || filter.held == Some(true) {
        return Ok(());
    }
    let totals = queue.stats(0).await?.totals;
    let free = totals.messages.saturating_sub(totals.held);
    if free > 0 {
        writeln!(
            io::stderr(),
            "the service is running, and does not hold {} of its queue: what it delivers from now on goes out twice if this export is imported elsewhere (to move mail, stop the service, or `postroad queue hold` first)",
            number(free)
        )?;
    }
    Ok(())
}

pub(super) async fn import(
    queue: &Queue,
    skip: Skip,
    file: &Path,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let input = if file == Path::new("-") {
        if io::stdin().is_terminal() {
            bail!(
                "an export does not come from a terminal: name its file, or send it through a pipe"
            );
        }
        pieces(io::stdin())?
    } else {
        let opened = File::open(file);
        pieces(opened.with_context(|| format!("opening {}", file.display()))?)?
    };
    let shown = io::stderr().is_terminal();
    let mut last = 0;
    let report = queue
        .import(skip, input, |imported| {
            if shown && imported.messages >= last + 1000 {
                last = imported.messages;
                let _ = writeln!(io::stderr(), "{} so far", number(last));
            }
        })
        .await?;
    if json {
        line(format_args!("{}", serde_json::to_string(&report)?))?;
    } else {
        told(&report.imported)?;
    }
    failed(&report)
}

fn told(imported: &Imported) -> io::Result<()> {
    line(format_args!(
        "{} imported, {} octets",
        number(imported.messages),
        imported.octets
    ))?;
    for (messages, why) in [
        (imported.skipped, "skipped"),
        (imported.void, "left out: not readable at the export"),
        (imported.done_with, "left out: no recipient waits"),
    ] {
        if messages > 0 {
            line(format_args!("{} {why}", number(messages)))?;
        }
    }
    Ok(())
}

fn failed(report: &ImportReport) -> anyhow::Result<ExitCode> {
    match (&report.failed, &report.skip) {
        (None, _) => Ok(ExitCode::SUCCESS),
        (Some(why), Some(skip)) if skip != "0" => bail!(
            "the import has failed: {why}\nWhat was imported stays. To go on with the rest, mend that and import the same export with `--skip {skip}`"
        ),
        (Some(why), _) => bail!("the import has failed, and nothing was imported: {why}"),
    }
}
