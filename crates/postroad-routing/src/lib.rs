//! Where a recipient's mail goes next.
//!
//! A [`Router`] answers for a recipient with a [`Route`]; [`StaticRouter`] takes rules from a
//! configuration, your own may ask whatever it likes, and [`SharedRouter`] chains them. A route
//! by MX becomes hosts and addresses through [`MxLookup`], of which [`DnsResolver`] is the real
//! one and the only place where this crate does I/O.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use postroad_routing::{Destination, Hop, RouteRequest, RouteRule, SharedRouter, StaticRouter, Via};
//!
//! let rule = RouteRule {
//!     recipient: Some("*@partner.example".parse()?),
//!     ..RouteRule::new("smtp://10.0.0.5:2525".parse::<Via>()?)
//! };
//! let router = SharedRouter::new(StaticRouter::new(vec![rule]));
//!
//! let (recipient, sender) = ("bob@partner.example".parse()?, "<me@example.org>".parse()?);
//! let request = RouteRequest { recipient: &recipient, sender: &sender, user: None, network: None, size: 1000 };
//! let route = router.route(&request).await?;
//! assert!(route.destination == Destination::Hops(vec![Hop::smtp("[10.0.0.5]".parse()?, 2525)]));
//! # Ok(()) }
//! ```

mod dns;
mod mx;
mod plan;
mod route;
mod security;
mod static_routes;

pub use dns::{DnsError, DnsOptions, DnsResolver};
pub use mx::{ADDRESSES_MAX, AddressFamily, HOSTS_MAX};
pub use plan::{HopPlan, Host, MxLookup, PlanError};
pub use route::{
    BoxFuture, ChosenBy, Destination, Hop, HopAddress, Rate, Route, RouteCredentials, RouteError,
    RouteLimits, RouteOptions, RouteRequest, Router, SharedRouter, TlsMode,
};
pub use security::{HostSecurity, NoSecurity, PolicyKind, Requirement, SecurityLookup};
pub use static_routes::{Pattern, PatternError, RouteRule, StaticRouter, Via, ViaError};
