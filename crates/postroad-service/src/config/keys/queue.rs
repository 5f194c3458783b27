use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where mail waits.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// `"local"`: on this machine's disk; `"memory"`: gone at the end, for tests.
    pub store: StoreKind,
    /// The directory of a local queue; one process owns it.
    pub path: PathBuf,
    /// `"sync"`: on disk before every 250. `"os"`: handed to the system; survives a kill, not a power loss.
    pub durability: Durability,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            store: StoreKind::Local,
            path: "/var/lib/postroad/queue".into(),
            durability: Durability::Sync,
        }
    }
}

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// On this machine's disk.
    Local,
    /// In memory.
    Memory,
    /// Not built yet.
    Postgres,
}

/// When a message counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is on disk.
    Sync,
    /// Once the system has it.
    Os,
}
