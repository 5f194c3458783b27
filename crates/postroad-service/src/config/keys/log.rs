use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// What is logged.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `"json"`, `"pretty"` or `"compact"`.
    pub format: LogFormat,
    /// `"error"`, `"warn"`, `"info"`, `"debug"` or `"trace"`; or a filter as `POSTROAD_LOG` takes it, as in
    /// `"info,postroad_mta=debug"`. The libraries sled and rustls log warnings only, and those of hickory errors, unless a
    /// filter names them.
    pub level: String,
    /// How long it is kept what has happened to a message, for `postroad trace`; `"0s"`: not at all. It is kept in the
    /// queue's directory, in `history`; a queue in memory has none.
    pub history: Span,
    /// Octets of that, at most; the oldest goes first.
    pub history_size: Size,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            level: "info".to_owned(),
            history: Span::seconds(7 * 24 * 3600),
            history_size: Size(1 << 30),
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people, several lines an event.
    Pretty,
    /// For people, a line an event.
    Compact,
}
