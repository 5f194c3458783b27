//! What all tables are to those who ask.

use std::fmt;
use std::sync::Arc;

use postroad_routing::BoxFuture;

/// Values of one key, at most: a table that says more says nothing.
pub const VALUES_MAX: usize = 1000;

/// Octets of all values of one key, at most.
pub const VALUES_OCTETS_MAX: usize = 128 << 10;

/// What is wrong where there are too many values, or they are too long.
pub(crate) fn bounded(values: &[String]) -> Result<(), String> {
    if values.len() > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    if values.iter().map(String::len).sum::<usize>() > VALUES_OCTETS_MAX {
        return Err(format!("values of more than {VALUES_OCTETS_MAX} octets"));
    }
    Ok(())
}

/// A table: a key, and what stands behind it.
pub trait Table: Send + Sync + 'static {
    /// The values of a key, in order, at least one; `None`: the table knows that it has none.
    ///
    /// # Errors
    /// Where the table cannot say. That is never "no such key": whoever asks must wait.
    fn lookup(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<Vec<String>>, LookupError>> + Send;

    /// What it is, for people: `routes.txt`, `socketmap unix:/run/map routes`. No passwords.
    fn name(&self) -> String;
}

/// Why a table could not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// It cannot be reached, does not answer in time, or says "not now".
    #[error("{table} cannot be asked now: {detail}")]
    Unavailable {
        /// The table.
        table: String,
        /// Why not, and what to check.
        detail: String,
    },
    /// It answers, and the answer makes no sense, or says that the question does not.
    #[error("{table} gives no usable answer: {detail}")]
    Invalid {
        /// The table.
        table: String,
        /// What is wrong.
        detail: String,
    },
}

impl LookupError {
    pub(crate) fn unavailable(table: &impl Table, detail: &str) -> Self {
        Self::Unavailable {
            table: table.name(),
            detail: detail.to_owned(),
        }
    }

    pub(crate) fn invalid(table: &impl Table, detail: &str) -> Self {
        Self::Invalid {
            table: table.name(),
            detail: detail.to_owned(),
        }
    }
}

trait ErasedTable: Send + Sync + 'static {
    fn lookup<'a>(
        &'a self,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<String>>, LookupError>>;
    fn name(&self) -> String;
}

impl<T: Table> ErasedTable for T {
    fn lookup<'a>(
        &'a self,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<String>>, LookupError>> {
        Box::pin(Table::lookup(self, key))
    }

    fn name(&self) -> String {
        Table::name(self)
    }
}

/// Any table, shared.
#[derive(Clone)]
pub struct SharedTable(Arc<dyn ErasedTable>);

impl SharedTable {
    /// Shares a table.
    #[must_use]
    pub fn new(table: impl Table) -> Self {
        Self(Arc::new(table))
    }

    /// As [`Table::lookup`].
    ///
    /// # Errors
    /// As there.
    pub async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        self.0.lookup(key).await
    }

    /// As [`Table::name`].
    #[must_use]
    pub fn name(&self) -> String {
        self.0.name()
    }
}

impl Table for SharedTable {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        self.0.lookup(key).await
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

impl fmt::Debug for SharedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTable({})", self.name())
    }
}
