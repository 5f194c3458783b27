use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How operators reach the running service.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// A Unix socket for the command line, its path at most 107 octets long. Default: `admin.sock` in the queue's directory.
    pub socket: Option<PathBuf>,
    /// Health and metrics over HTTP, on a loopback address; absent: off. `/health` answers with status 200, or with 503
    /// and the reason while the queue takes no mail (its disk is full, or fails): for whoever spreads connections, not
    /// for whoever restarts services, since a restart mends no disk. `/metrics` has numbers about the queue in the text
    /// format of Prometheus. The admin socket has both too.
    pub http: Option<SocketAddr>,
}
