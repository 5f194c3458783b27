//! The log: events of tracing, to standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{Log, LogFormat};

/// The log cannot be started.
#[derive(Clone, Debug, thiserror::Error)]
#[error("starting the log: {0}")]
pub struct TelemetryError(String);

/// Starts the log. `POSTROAD_LOG`, where set, says what is logged instead of `log.level`.
///
/// # Errors
/// Where the filter is wrong, or a log has been started already.
pub fn start(log: &Log) -> Result<(), TelemetryError> {
    let level = std::env::var("POSTROAD_LOG").unwrap_or_else(|_| log.level.clone());
    let filter = EnvFilter::try_new(&level)
        .map_err(|e| TelemetryError(format!("log.level: `{level}`: {e}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_ansi(false);
    let started = match log.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
        LogFormat::Pretty => builder.pretty().try_init(),
        LogFormat::Compact => builder.compact().try_init(),
    };
    started.map_err(|e| TelemetryError(e.to_string()))
}
