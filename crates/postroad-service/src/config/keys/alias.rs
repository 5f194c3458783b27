use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::table::Table;

/// Addresses that stand for others.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The table that is asked: for `user@example.org`, then for `@example.org`. What stands behind an address are the
    /// addresses that its mail is for, with commas between, or `@example.net` for the same local part there. Where there
    /// is also an entry `owner-user@example.org`, bounces of that mail go to it.
    pub table: Table,
    /// Virtual alias domains: their mail is taken from anyone, and an address there that is in no table of aliases is
    /// refused with 550 5.1.1.
    #[serde(default)]
    pub domains: Vec<String>,
}
