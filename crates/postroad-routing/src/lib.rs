//! Where a recipient's mail goes next.

mod plan;
mod route;

pub use plan::{HopPlan, Host, MxLookup, PlanError};
pub use route::{
    BoxFuture, Destination, Hop, Route, RouteError, RouteOptions, RouteRequest, Router,
    SharedRouter, TlsMode,
};
