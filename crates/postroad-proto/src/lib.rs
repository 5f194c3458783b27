//! SMTP without I/O, without a clock and without a runtime.
//!
//! Two machines, [`server::Session`] and [`client::Session`], take bytes and moments in time and
//! give bytes, questions and deadlines; a driver (such as the one in `postroad-net`) moves them.

mod bdat;
pub mod client;
pub mod command;
mod content;
mod data;
mod ehlo;
#[doc(hidden)]
pub mod fuzz;
mod grammar;
mod lines;
mod params;
pub mod sasl;
pub mod server;

pub use ehlo::Extensions;
