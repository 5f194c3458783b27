//! The configuration: one TOML file, and the files it includes.
//!
//! The types of its keys are the reference: their comments are its text, their defaults its defaults.

mod certificate;
mod check;
mod doubts;
mod files;
mod keys;
mod load;
mod meaning;
mod open_relay;
mod own;
mod place;
mod problem;
mod reach;
mod reference;
mod restart;
mod roles;
mod routes;
mod table_reach;
mod tables;
pub mod units;
mod words;

pub(crate) use certificate::report as report_certificate;
pub use check::{Findings, check};
pub(crate) use files::{authorities, certificates, users};
pub use keys::*;
pub use load::{Loaded, load};
pub use problem::{ConfigError, Problem};
pub use reference::{reference, schema};
pub(crate) use restart::changed_at_restart;
pub use roles::{Roles, RolesError, TlsReporting};
pub use routes::RouteStep;
pub use tables::AliasStep;
