//! A table as a configuration describes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::Secret;
use rustls::ClientConfig;

use crate::cached::CacheOptions;
use crate::fetch::{HttpClient, HttpError, HttpOptions};
use crate::file::{FileKeys, FileTable};
use crate::guard::GuardOptions;
use crate::http::HttpTable;
use crate::ldap::{LdapOptions, LdapOptionsError, LdapTable};
use crate::route_file::RouteFile;
use crate::router::{RouteTable, TableRouter, TableRule};
use crate::socketmap::{MapNameError, SocketAddress, SocketmapTable};
use crate::sql::{SqlOptions, SqlOptionsError, SqlTable};
use crate::table::{SharedTable, VALUES_OCTETS_MAX};
use crate::watched::FileError;

/// Connections to a server, where nothing else is said.
pub const CONNECTIONS: usize = 4;
/// Octets of an HTTP answer, at most.
const HTTP_BODY_MAX: usize = VALUES_OCTETS_MAX;

/// A table and how it is asked. All but a file get a time limit, a circuit breaker and a cache.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// What it is.
    pub kind: TableKind,
    /// When to give up, and for how long.
    pub guard: GuardOptions,
    /// Connections, at most; more lookups wait.
    pub connections: usize,
    /// What is remembered; a `ttl` of zero: nothing.
    pub cache: CacheOptions,
}

/// The kinds of tables.
#[derive(Clone, Debug)]
pub enum TableKind {
    /// A text file: see [`FileTable`] and [`RouteFile`].
    File {
        /// Where.
        path: PathBuf,
    },
    /// See [`SocketmapTable`].
    Socketmap {
        /// The server.
        socket: SocketAddress,
        /// Which of its maps.
        map: String,
    },
    /// See [`HttpTable`].
    Http {
        /// Where to post.
        url: String,
        /// What the service calls the table.
        table: String,
        /// A bearer token. Over `http://` anybody on the way can read it.
        token: Option<Secret>,
    },
    /// See [`LdapOptions`].
    Ldap {
        /// The URL.
        url: String,
        /// TLS over `ldap://`.
        starttls: bool,
        /// Where the search starts.
        base: String,
        /// With `%s`, `%u`, `%d`.
        filter: String,
        /// Whose values count.
        attributes: Vec<String>,
        /// A DN and its password.
        bind: Option<(String, Secret)>,
    },
    /// See [`SqlOptions`].
    Sql {
        /// The URL.
        url: String,
        /// The password; none may stand in the URL.
        password: Option<Secret>,
        /// With `$1`.
        query: String,
    },
}

/// Why a table cannot be used, whatever it holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The name of a map.
    #[error(transparent)]
    Map(#[from] MapNameError),
    /// The URL of a service.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The options of a directory.
    #[error(transparent)]
    Ldap(#[from] LdapOptionsError),
    /// Those of a database.
    #[error(transparent)]
    Sql(#[from] SqlOptionsError),
}

impl TableSpec {
    /// With the usual bounds.
    #[must_use]
    pub fn new(kind: TableKind) -> Self {
        Self {
            kind,
            guard: GuardOptions::default(),
            connections: CONNECTIONS,
            cache: CacheOptions::default(),
        }
    }

    /// Opens it for alias keys (`user@domain`, `@domain`): a file is checked for them.
    ///
    /// A file is read, which blocks. Servers are not connected to before the first lookup; what
    /// they are like is then an error of that. `tls` decides which certificates are good.
    ///
    /// # Errors
    /// Where it can never work.
    pub fn open_aliases(&self, tls: &Arc<ClientConfig>) -> Result<SharedTable, OpenError> {
        self.open_keys(tls, FileKeys::Aliases)
    }

    /// Opens it for any keys; otherwise as [`open_aliases`](Self::open_aliases).
    ///
    /// # Errors
    /// Where it can never work.
    pub fn open(&self, tls: &Arc<ClientConfig>) -> Result<SharedTable, OpenError> {
        self.open_keys(tls, FileKeys::Any)
    }

    /// Opens it as the routes of a rule: a file has patterns then. Otherwise as
    /// [`open_aliases`](Self::open_aliases).
    ///
    /// # Errors
    /// Where it can never work.
    pub fn open_router(
        &self,
        tls: &Arc<ClientConfig>,
        rule: TableRule,
    ) -> Result<TableRouter, OpenError> {
        let table = match &self.kind {
            TableKind::File { path } => RouteTable::File(RouteFile::open(path)?),
            _ => RouteTable::Keys(self.open(tls)?),
        };
        Ok(TableRouter::new(table, rule))
    }

    fn open_keys(&self, tls: &Arc<ClientConfig>, keys: FileKeys) -> Result<SharedTable, OpenError> {
        let table = match &self.kind {
            // It is in memory already, and never waits.
            TableKind::File { path } => {
                return Ok(SharedTable::new(FileTable::open(path, keys)?));
            }
            TableKind::Socketmap { socket, map } => {
                SharedTable::new(SocketmapTable::new(socket.clone(), map, self.connections)?)
            }
            TableKind::Http { url, table, token } => {
                SharedTable::new(self.http(tls, url, table, token.clone())?)
            }
            TableKind::Ldap {
                url,
                starttls,
                base,
                filter,
                attributes,
                bind,
            } => {
                let options = LdapOptions {
                    url: url.clone(),
                    starttls: *starttls,
                    base: base.clone(),
                    filter: filter.clone(),
                    attributes: attributes.clone(),
                    bind: bind.clone(),
                    connections: self.connections,
                };
                SharedTable::new(LdapTable::new(options, Arc::clone(tls))?)
            }
            TableKind::Sql {
                url,
                password,
                query,
            } => {
                let options = SqlOptions {
                    url: url.clone(),
                    password: password.clone(),
                    query: query.clone(),
                    timeout: self.guard.timeout,
                    connections: self.connections,
                };
                SharedTable::new(SqlTable::new(&options, tls)?)
            }
        };
        let table = table.guarded(self.guard);
        Ok(if self.cache.ttl == Duration::ZERO {
            table
        } else {
            table.cached(self.cache)
        })
    }

    fn http(
        &self,
        tls: &Arc<ClientConfig>,
        url: &str,
        table: &str,
        token: Option<Secret>,
    ) -> Result<HttpTable, OpenError> {
        HttpClient::check(url)?;
        let options = HttpOptions {
            timeout: self.guard.timeout,
            body_max: HTTP_BODY_MAX,
            connections: self.connections,
            idle: self.connections,
            ..HttpOptions::default()
        };
        Ok(HttpTable::new(
            HttpClient::new(tls, options),
            url,
            table,
            token,
        ))
    }
}
