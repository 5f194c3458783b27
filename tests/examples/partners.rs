//! A program of a site's own: mail for one partner goes over a private link, everything else as
//! the configuration says.

use postroad_routing::{Destination, Hop, Route, RouteError, RouteRequest, Router};
use postroad_service::{Service, config, telemetry};

struct Partners {
    gateway: Hop,
}

impl Router for Partners {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        let partner = request.recipient.domain().ascii() == "partner.example";
        Ok(partner.then(|| Route::new(Destination::Hops(vec![self.gateway.clone()]))))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .unwrap_or_else(|| "/etc/postroad/postroad.toml".to_owned());
    let port = arguments.next().map_or(Ok(25), |port| port.parse())?;
    let gateway = Hop::smtp("[127.0.0.1]".parse()?, port);

    let loaded = config::load(path.as_ref())?;
    telemetry::start(&loaded.config.log)?;
    Ok(Service::new(loaded)
        .router(Partners { gateway })
        .run_until_signal()
        .await?)
}
