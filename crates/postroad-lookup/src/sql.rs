//! A PostgreSQL database as a table.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod};
use futures_util::{TryStreamExt as _, pin_mut};
use postroad_mail::{Secret, escape_peer_text};
use rustls::ClientConfig;
use tokio_postgres::types::Type;
use tokio_postgres::{Config, Error, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::fetch::chain;
use crate::table::{LookupError, Table, bounded};

/// What to ask a database, and how.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// `postgres://user@host:5432/database?sslmode=require`, or `postgres:///database?host=/run/postgresql`.
    ///
    /// `sslmode`: `disable`; `prefer`, the default: TLS where the server has it; `require`, for
    /// which `verify-full` may be written, as certificates are always checked.
    ///
    /// Not with a password: URLs are shown.
    pub url: String,
    /// The password.
    pub password: Option<Secret>,
    /// A query with `$1` for the key, and `$2` and `$3` for the local part and the domain of one
    /// that is an address (both empty for others). All columns of all rows are the values, in order;
    /// they must be text, and those that are null or empty do not count.
    pub query: String,
    /// How long the server works on it, at most.
    pub timeout: Duration,
    /// Connections, at most.
    pub connections: usize,
}

/// Why a database cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SqlOptionsError {
    /// Not a URL of a database. It is not shown, as it may hold a password.
    #[error(
        "the url is not that of a database ({0}); expected `postgres://user@host:5432/database?sslmode=require`"
    )]
    Url(String),
    /// A password in the URL.
    #[error("the url has a password in it, where it would be shown; put it into `password`")]
    Password,
    /// The query does not ask for the key.
    #[error("`{0}` has no $1, $2 or $3 in it: it would find the same for every key")]
    NoKey(String),
    /// No pool can be made of it.
    #[error("no connections can be made: {0}")]
    Pool(String),
}

/// A database that is queried for each key.
///
/// Waits for a free connection for ever by itself: put it into
/// [`guarded`](crate::SharedTable::guarded).
pub struct SqlTable {
    pool: Pool,
    query: String,
    name: String,
}

/// A connection in use. It is closed, not kept, unless it is said to be done: an answer to a lookup
/// that was given up would still be on its way.
struct Leased(Option<Client>);

impl Leased {
    fn done(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Client::take(client));
        }
    }
}

/// Why a query gave nothing.
enum Failure {
    Database(Error),
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl SqlTable {
    /// A database; `tls` decides which certificates are good. Nothing is connected yet.
    ///
    /// # Errors
    /// Where the options make no sense.
    pub fn new(options: &SqlOptions, tls: &Arc<ClientConfig>) -> Result<Self, SqlOptionsError> {
        // What only this library does not know.
        let url = options
            .url
            .replace("sslmode=verify-full", "sslmode=require");
        let mut config =
            Config::from_str(&url).map_err(|error| SqlOptionsError::Url(chain(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(SqlOptionsError::Url("it names no host".to_owned()));
        }
        if config.get_password().is_some() {
            return Err(SqlOptionsError::Password);
        }
        if !["$1", "$2", "$3"]
            .iter()
            .any(|key| options.query.contains(key))
        {
            return Err(SqlOptionsError::NoKey(options.query.clone()));
        }
        if let Some(password) = &options.password {
            config.password(password.expose());
        }
        let limit = format!(
            "-c statement_timeout={}",
            options.timeout.as_millis().max(1)
        );
        let given = config.get_options().map(|given| format!("{given} "));
        config.options(given.unwrap_or_default() + &limit);
        if config.get_application_name().is_none() {
            config.application_name("postroad");
        }
        let name = format!("sql {}", described(&config));
        let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, tls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(options.connections.max(1))
            .build()
            .map_err(|error| SqlOptionsError::Pool(error.to_string()))?;
        Ok(Self {
            pool,
            query: options.query.clone(),
            name,
        })
    }

    async fn ask(&self, client: &Client, key: &str) -> Result<Option<Vec<String>>, Failure> {
        let (local, domain) = key.rsplit_once('@').unwrap_or_default();
        // All of them typed, so that a query may use any.
        let types = [Type::TEXT, Type::TEXT, Type::TEXT];
        let statement = client.prepare_typed_cached(&self.query, &types).await?;
        if statement.params().len() != types.len() {
            let detail = "the query has other parameters than $1, $2 and $3".to_owned();
            return Err(Failure::Wrong(detail));
        }
        let rows = client.query_raw(&statement, [key, local, domain]).await?;
        pin_mut!(rows);
        let mut values = Vec::new();
        while let Some(row) = rows.try_next().await? {
            texts(&row, &mut values)?;
            bounded(&values).map_err(Failure::Wrong)?;
        }
        Ok((!values.is_empty()).then_some(values))
    }

    fn failed(&self, error: &Error) -> LookupError {
        let detail = escape_peer_text(&chain(error));
        // SQLSTATE classes (PostgreSQL appendix A) of what is wrong with the question: the data, the login,
        // the database's name, the query.
        let code = error.code().map_or("", |code| code.code());
        let wrong = ["0A", "22", "23", "26", "28", "3D", "3F", "42"];
        if wrong.iter().any(|class| code.starts_with(class)) {
            return LookupError::invalid(self, &detail);
        }
        let check = if detail.contains("certificate") {
            "; is the host's name right, and its authority trusted? sslmode=disable does without TLS"
        } else if code.is_empty() {
            "; is the server running, and the url right?"
        } else {
            ""
        };
        LookupError::unavailable(self, &(detail + check))
    }
}

/// The columns of a row as they follow each other.
fn texts(row: &Row, values: &mut Vec<String>) -> Result<(), Failure> {
    for (at, column) in row.columns().iter().enumerate() {
        let value: Option<&str> = row.try_get(at).map_err(|_| {
            Failure::Wrong(format!(
                "the column `{}` is of type {}, which is no text; cast it as in `{0}::text`",
                column.name(),
                column.type_()
            ))
        })?;
        values.extend(value.filter(|value| !value.is_empty()).map(str::to_owned));
    }
    Ok(())
}

/// Hosts and database, without the password.
fn described(config: &Config) -> String {
    use tokio_postgres::config::Host;
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let hosts: Vec<String> = hosts.collect();
    format!(
        "{} {}",
        hosts.join(","),
        config.get_dbname().unwrap_or_default()
    )
}

impl Table for SqlTable {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        let mut attempts = 2;
        loop {
            attempts -= 1;
            let client = self.pool.get().await.map_err(|error| match error {
                PoolError::Backend(error) => self.failed(&error),
                other => LookupError::unavailable(self, &other.to_string()),
            })?;
            let mut leased = Leased(Some(client));
            let Some(client) = &mut leased.0 else {
                return Err(LookupError::unavailable(self, "no connection"));
            };
            let found = self.ask(client, key).await;
            match found {
                Ok(values) => {
                    leased.done();
                    return Ok(values);
                }
                Err(Failure::Wrong(detail)) => return Err(LookupError::invalid(self, &detail)),
                // It may have been closed while nobody used it, or the server been told to stop.
                Err(Failure::Database(error)) if attempts > 0 && lost(&error) => {}
                Err(Failure::Database(error)) => return Err(self.failed(&error)),
            }
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Whether an error is about the connection, not about what was asked.
fn lost(error: &Error) -> bool {
    error
        .as_db_error()
        .is_none_or(|said| said.code().code().starts_with("57P"))
}

impl fmt::Debug for SqlTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlTable({}, {})", self.name, self.query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let tls = Arc::new(tls);
        let open = |url: &str, query: &str| {
            let options = SqlOptions {
                url: url.to_owned(),
                password: None,
                query: query.to_owned(),
                timeout: Duration::from_secs(1),
                connections: 1,
            };
            SqlTable::new(&options, &tls).map(|table| table.name())
        };
        let query = "SELECT via FROM routes WHERE address = $1";
        for (url, name) in [
            (
                "postgres://me@db.example:5433/mail?sslmode=verify-full",
                "sql db.example mail",
            ),
            (
                "postgres:///mail?host=/run/postgresql",
                "sql /run/postgresql mail",
            ),
        ] {
            assert_eq!(open(url, query), Ok(name.to_owned()));
        }
        for url in [
            "",
            "mysql://h/x",
            "postgres:///mail",
            "postgres://h/x?sslmode=no",
        ] {
            let error = open(url, query).unwrap_err();
            assert!(matches!(error, SqlOptionsError::Url(_)), "{url}: {error}");
        }
        let error = open("postgres://me:secret@h/x", query).unwrap_err();
        assert_eq!(error, SqlOptionsError::Password);
        let error = open("postgres://h/x", "SELECT 1").unwrap_err();
        assert!(matches!(error, SqlOptionsError::NoKey(_)), "{error}");
    }
}
