//! The log: events of tracing, to standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{Log, LogFormat};

/// The log cannot be started.
#[derive(Clone, Debug, thiserror::Error)]
#[error("starting the log: {0}")]
pub struct TelemetryError(String);

/// Not a filter for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {detail}")]
pub struct FilterError {
    text: String,
    detail: String,
}

/// Starts the log. `POSTROAD_LOG`, where set, says what is logged instead of `log.level`.
///
/// # Errors
/// Where the filter is wrong, or a log has been started already.
pub fn start(log: &Log) -> Result<(), TelemetryError> {
    let (key, level) = std::env::var("POSTROAD_LOG").map_or_else(
        |_| ("log.level", log.level.clone()),
        |level| ("POSTROAD_LOG", level),
    );
    let filter = filter(&level).map_err(|e| TelemetryError(format!("{key}: {e}")))?;
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

/// A word alone is a level here. To `EnvFilter` one that it does not know is a part of the
/// program, so that `inof` would log nothing at all, and nobody would be told.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, FilterError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let wrong = |detail: String| FilterError {
        text: text.to_owned(),
        detail,
    };
    let alone = text
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains(['=', '[']) && !LEVELS.contains(&&*part.to_ascii_lowercase()));
    if let Some(part) = alone {
        let parts = "or levels of parts, such as `info,postroad_mta=debug`";
        return Err(wrong(format!(
            "`{part}` is no level; expected one of {}, {parts}",
            LEVELS.join(", ")
        )));
    }
    let quiet = quiet(text);
    EnvFilter::try_new(format!("{text}{quiet}")).map_err(|error| wrong(error.to_string()))
}

/// Whoever asks for `debug` wants ours, not every page that the index reads, or every TLS record.
/// hickory warns of every answer that DNSSEC does not vouch for, with all of it: what follows from
/// that is told by us. Likewise the verifier of certificates, with an error for each peer that has
/// a bad one.
fn quiet(text: &str) -> String {
    const LOUD: [(&str, &str); 6] = [
        ("sled", "warn"),
        ("rustls", "warn"),
        ("rustls_platform_verifier", "off"),
        ("hickory_net", "error"),
        ("hickory_proto", "error"),
        ("hickory_resolver", "error"),
    ];
    let parts = || text.split(',').map(str::trim);
    let all = |levels: &[&str]| parts().any(|part| levels.contains(&&*part.to_ascii_lowercase()));
    let more_than_warnings = all(&["info", "debug", "trace"]);
    let more_than_errors = more_than_warnings || all(&["warn"]);
    LOUD.into_iter()
        .filter(|(_, level)| match *level {
            "off" => more_than_errors || all(&["error"]),
            "error" => more_than_errors,
            _ => more_than_warnings,
        })
        .filter(|(name, _)| !parts().any(|part| part.starts_with(name)))
        .fold(String::new(), |quiet, (name, level)| {
            quiet + "," + name + "=" + level
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_filters_are_good() {
        for (text, good) in [
            ("info", true),
            ("WARN", true),
            ("info,postroad_mta=debug", true),
            ("off", true),
            ("inof", false),
            ("postroad_mta=loud", false),
            ("info,,", false),
            ("", false),
        ] {
            assert_eq!(filter(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn libraries_are_quiet_unless_named() {
        const REST: &str = ",rustls_platform_verifier=off,hickory_net=error,hickory_proto=error,hickory_resolver=error";
        for (text, added) in [
            ("debug", [",sled=warn,rustls=warn", REST].concat()),
            (
                "INFO,postroad_mta=debug",
                [",sled=warn,rustls=warn", REST].concat(),
            ),
            ("trace,rustls=debug", [",sled=warn", REST].concat()),
            ("debug,sled::pagecache=trace,rustls=info", REST.to_owned()),
            ("warn", REST.to_owned()),
            (
                "warn,hickory_proto=info",
                ",rustls_platform_verifier=off,hickory_net=error,hickory_resolver=error".to_owned(),
            ),
            ("error", ",rustls_platform_verifier=off".to_owned()),
            ("off", String::new()),
            ("postroad_mta=debug", String::new()),
        ] {
            assert_eq!(quiet(text), added, "{text}");
            assert!(filter(text).is_ok(), "{text}");
        }
    }
}
