//! The process around the roles: configuration, assembly, telemetry, signals, administration.
//!
//! The shipped programs are this crate and a few lines; a program of your own is the same few
//! lines with your router or directory in them:
//!
//! ```no_run
//! use postroad_routing::{Destination, Route, RouteError, RouteRequest, Router};
//! use postroad_service::{Service, config, telemetry};
//!
//! struct Nowhere;
//!
//! impl Router for Nowhere {
//!     async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
//!         let discard = request.recipient.domain().ascii() == "nowhere.example";
//!         Ok(discard.then(|| Route::new(Destination::Discard)))
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let loaded = config::load("/etc/postroad/postroad.toml".as_ref())?;
//!     telemetry::start(&loaded.config.log)?;
//!     Service::new(loaded).router(Nowhere).run_until_signal().await?;
//!     Ok(())
//! }
//! ```

pub mod admin;
mod causes;
pub mod config;
pub mod dev;
pub mod explain;
mod history;
mod metrics;
pub mod queue;
mod service;
pub mod telemetry;
pub mod tls_report;
pub mod trace;

pub use causes::{exit_status, with_causes};
pub use service::{Service, ServiceError, open_store};
