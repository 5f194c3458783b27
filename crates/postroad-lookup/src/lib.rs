//! Tables that are asked for a key and give values: files, socketmap servers, HTTP services, LDAP
//! directories and SQL databases, behind one trait.
//!
//! A [`Table`] says what stands behind a key, that nothing does, or that it cannot say; the last is
//! never taken for the second. [`TableSpec`] opens one as a configuration describes it, with a time
//! limit and a circuit breaker ([`SharedTable::guarded`]) and a cache ([`SharedTable::cached`]):
//!
//! | kind | table | asked |
//! |---|---|---|
//! | file | [`FileTable`], [`RouteFile`] | in memory; read again when it changes |
//! | socketmap | [`SocketmapTable`] | Postfix's protocol, over TCP or a Unix socket |
//! | HTTP | [`HttpTable`] | `POST` with JSON |
//! | LDAP | [`LdapTable`] | a search with the key in its filter |
//! | SQL | [`SqlTable`] | a query of PostgreSQL with the key as `$1` |
//!
//! Two things are built on tables: [`TableRouter`], which decides where mail goes, and [`Aliases`],
//! which say what an address stands for. [`HttpClient`] fetches other things, too.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use postroad_lookup::{AliasTable, Aliases, Expanded, LookupError, SharedTable, Table};
//!
//! struct Fixed;
//! impl Table for Fixed {
//!     async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
//!         Ok((key == "all@example.org").then(|| vec!["ann@example.org, bob@example.net".to_owned()]))
//!     }
//!     fn name(&self) -> String { "fixed".to_owned() }
//! }
//!
//! let table = SharedTable::new(Fixed);
//! assert_eq!(table.lookup("nobody@example.org").await?, None);
//!
//! let domains = vec!["example.org".parse()?];
//! let aliases = Aliases::new(vec![AliasTable { table, domains }]);
//! let Expanded::Members(all) = aliases.expand(&"All@example.org".parse()?).await? else { unreachable!() };
//! assert_eq!(all[1].address.to_string(), "bob@example.net");
//! assert_eq!(aliases.expand(&"nobody@example.org".parse()?).await?, Expanded::Unknown);
//! # Ok(()) }
//! ```

mod aliases;
mod cached;
mod fetch;
mod file;
pub mod fuzz;
mod guard;
mod http;
mod key;
mod ldap;
mod ldap_filter;
mod lines;
mod netstring;
mod pool;
mod route_file;
mod router;
mod socketmap;
mod spec;
mod sql;
mod sts;
mod table;
#[cfg(test)]
mod test_log;
mod watched;

pub use aliases::{
    AliasError, AliasTable, Aliases, DEPTH_MAX, EXPANSION_TIME_MAX, Expanded, MEMBERS_MAX, Member,
};
pub use cached::CacheOptions;
pub use fetch::{HttpAnswer, HttpClient, HttpError, HttpOptions, Resolve};
pub use file::{FileKeys, FileTable};
pub use guard::GuardOptions;
pub use http::HttpTable;
pub use key::address_key;
pub use ldap::{LdapOptions, LdapOptionsError, LdapTable};
pub use route_file::RouteFile;
pub use router::{PARENTS_MAX, RouteTable, TableRouter, TableRule};
pub use socketmap::{MapNameError, SocketAddress, SocketAddressError, SocketmapTable};
pub use spec::{CONNECTIONS, OpenError, TableKind, TableSpec};
pub use sql::{SqlOptions, SqlOptionsError, SqlTable};
pub use sts::HttpsStsFetch;
pub use table::{LookupError, SharedTable, Table, VALUES_MAX, VALUES_OCTETS_MAX};
pub use watched::{FILE_OCTETS_MAX, FileError};
