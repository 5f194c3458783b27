//! Where a recipient's mail goes next.
//!
//! A [`Router`] answers for a recipient with a [`Route`]; [`StaticRouter`] takes rules from a
//! configuration, your own may ask whatever it likes, and [`SharedRouter`] chains them. A route
//! by MX becomes hosts and addresses through [`MxLookup`], of which [`DnsResolver`] is the real
//! one; [`SecureDns`] says what DNSSEC vouches for. Only these two do I/O in this crate.
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

mod dane;
mod dns;
pub mod fuzz;
mod hops;
mod mx;
mod plan;
mod route;
mod security;
mod security_policies;
mod static_routes;
mod sts;
mod sts_policies;
mod via;

pub use dane::{SecureFuture, SecureLookup, TLSA_MAX};
pub use dns::{
    DnsError, DnsOptions, DnsResolver, NameServer, NameServerError, NoAnswer, SecureDns,
    SecureError, Secured, TlsaAnswer, TrustAnchor,
};
pub use hops::order_hops;
pub use mx::{ADDRESSES_MAX, AddressFamily, HOSTS_MAX};
pub use plan::{HopPlan, Host, MxLookup, PlanError};
pub use route::{
    BoxFuture, ChosenBy, Destination, Hop, HopAddress, Rate, Route, RouteCredentials, RouteError,
    RouteLimits, RouteOptions, RouteRequest, Router, SharedRouter, TlsMode,
};
pub use security::{HostSecurity, NoSecurity, PolicyKind, Requirement, SecurityLookup};
pub use security_policies::{PolicyMode, SecurityPolicies};
pub use static_routes::{Pattern, PatternError, RouteRule, StaticRouter};
pub use sts::{
    STS_MAX_AGE_MAX, STS_PATTERNS_MAX, STS_POLICY_MAX, StsMode, StsPolicy, StsPolicyError,
    StsRecord, fuzz_sts,
};
pub use sts_policies::{
    FETCH_AGAIN, Now, STS_FETCH_MAX, STS_PATIENCE, StsFetch, StsFetchError, StsPolicies, TxtLookup,
    fuzz_sts_kept,
};
pub use via::{HOPS_MAX, Via, ViaError};
