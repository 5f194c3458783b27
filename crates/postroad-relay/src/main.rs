//! The relay service: mail from other servers on 25, and delivery.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use postroad_service::config::{self, Service as Kind};
use postroad_service::{Service, exit_status, telemetry, with_causes};

/// The relay service: mail from other servers on 25, and delivery.
#[derive(Debug, Parser)]
#[command(
    name = "postroad-relay",
    version,
    after_help = "Example:\n  postroad-relay --config /etc/postroad/relay.toml\n\nSIGHUP reads the configuration again; SIGTERM finishes what is under way and\nstops, a second one, a second or more later, stops at once. The exit status is 2 where the configuration is wrong, else 1."
)]
struct Arguments {
    /// The configuration
    #[arg(
        long,
        env = "POSTROAD_CONFIG",
        default_value = "/etc/postroad/postroad.toml"
    )]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postroad-relay: {}", with_causes(error.as_ref()));
            exit_status(error.as_ref()).into()
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let loaded = config::load(&arguments.config)?;
    telemetry::start(&loaded.config.log)?;
    Ok(Service::new(loaded)
        .only(Kind::Relay)
        .run_until_signal()
        .await?)
}
