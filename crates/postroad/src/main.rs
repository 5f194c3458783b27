//! Postroad in one process, and the operator's command line.

mod cli;
mod explain;
mod moments;
mod output;
mod queue;
mod tls;
mod trace;
mod user;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use postroad_service::config::{self, Findings};
use postroad_service::{Service, dev, exit_status, telemetry, with_causes};

use cli::{Arguments, Command, TlsOrder};
use output::line;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            if output::is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            eprintln!("postroad: {}", with_causes(error.as_ref()));
            exit_status(error.as_ref()).into()
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
        Command::Dev { dir, ports } => dev::run(&dir, ports).await?,
        Command::Check { config } => {
            let findings = match config::load(&config) {
                Ok(loaded) => config::check(&loaded).await,
                Err(mistakes) => mistakes.into(),
            };
            return check(&findings);
        }
        Command::Queue { order, config } => {
            return queue::run(order, &config::load(&config)?.config).await;
        }
        Command::Explain(arguments) => {
            return explain::run(&arguments, &config::load(&arguments.config)?).await;
        }
        Command::Tls {
            order: TlsOrder::Report { json },
            config,
        } => return tls::report(&config::load(&config)?, json).await,
        Command::Trace(arguments) => {
            return trace::run(&arguments, &config::load(&arguments.config)?).await;
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
