//! Postroad in one process, and the operator's command line.

mod cli;
mod output;
mod queue;
mod user;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use postroad_service::config::{self, Findings};
use postroad_service::{Service, dev, telemetry};

use cli::{Arguments, Command};
use output::line;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            if output::is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            eprintln!("postroad: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { config } => {
            let loaded = config::load(&config)?;
            telemetry::start(&loaded.config.log)?;
            Service::new(loaded).run_until_signal().await?;
        }
        Command::Dev { dir, ports } => dev::run(&dir, cli::ports(&ports)).await?,
        Command::Check { config } => return check(&config::check(&config::load(&config)?)),
        Command::Queue { order, config } => {
            queue::run(order, &config::load(&config)?.config).await?;
        }
        Command::User { order } => user::run(order)?,
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "postroad",
                &mut std::io::stdout(),
            );
        }
        Command::Man { directory } => clap_mangen::generate_to(Arguments::command(), directory)?,
        Command::ConfigReference { schema } => {
            output::text(&if schema {
                config::schema()
            } else {
                config::reference()
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(findings: &Findings) -> anyhow::Result<ExitCode> {
    for warning in &findings.warnings {
        line(format_args!("warning: {warning}"))?;
    }
    for error in &findings.errors {
        line(format_args!("error: {error}"))?;
    }
    if findings.errors.is_empty() {
        line(format_args!("the configuration is good"))?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
