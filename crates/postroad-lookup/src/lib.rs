//! Tables that are asked for a key and give values: files, socketmap servers, HTTP services, LDAP
//! directories and SQL databases, behind one trait.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use postroad_lookup::{LookupError, SharedTable, Table};
//!
//! struct Fixed;
//! impl Table for Fixed {
//!     async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
//!         Ok((key == "a@b").then(|| vec!["mx".to_owned()]))
//!     }
//!     fn name(&self) -> String { "fixed".to_owned() }
//! }
//!
//! let table = SharedTable::new(Fixed);
//! assert_eq!(table.lookup("a@b").await?, Some(vec!["mx".to_owned()]));
//! # Ok(()) }
//! ```

mod table;

pub use table::{LookupError, SharedTable, Table};
