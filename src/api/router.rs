//! Which address is answered by which function, and the description of it all.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::api::problem::Problem;
use crate::api::webhooks;
use crate::api::{State, again, analytics, consumers, dead_letters, deliveries, description};
use crate::api::{events, gate, health};
use crate::api::{leases, publish, replays, saga_commands, saga_definitions, sagas, stream};
use crate::pages;

/// Largest body of a request that publishes nothing: 1 MiB.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The whole API.
pub(crate) fn router(state: State) -> Router {
    // What answers a publish is too short to compress. It bounds its body itself.
    let publishing = OpenApiRouter::new().routes(routes!(publish::publish));
    let (router, api) = OpenApiRouter::with_openapi(description::begin())
        .routes(routes!(events::list))
        .routes(routes!(events::get))
        .routes(routes!(events::trace))
        .routes(routes!(stream::stream))
        .routes(routes!(consumers::list))
        .routes(routes!(consumers::get, consumers::put, consumers::delete))
        .routes(routes!(consumers::pause))
        .routes(routes!(consumers::resume))
        .routes(routes!(replays::rebuild))
        .routes(routes!(leases::lease))
        .routes(routes!(leases::ack))
        .routes(routes!(leases::nak))
        .routes(routes!(leases::extend))
        .routes(routes!(dead_letters::list, dead_letters::delete))
        .routes(routes!(dead_letters::groups))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(replays::start, replays::list))
        .routes(routes!(replays::get))
        .routes(routes!(replays::pause))
        .routes(routes!(replays::resume))
        .routes(routes!(replays::cancel))
        .routes(routes!(saga_definitions::list))
        .routes(routes!(saga_definitions::get, saga_definitions::put))
        .routes(routes!(saga_definitions::version))
        .routes(routes!(sagas::start, sagas::list))
        .routes(routes!(sagas::get))
        .routes(routes!(sagas::journal))
        .routes(routes!(saga_commands::cancel))
        .routes(routes!(saga_commands::retry))
        .routes(routes!(saga_commands::skip))
        .routes(routes!(saga_commands::compensate))
        .routes(routes!(saga_commands::abandon))
        .routes(routes!(saga_commands::signal))
        .routes(routes!(saga_commands::complete))
        .routes(routes!(saga_commands::refuse))
        .routes(routes!(sagas::wait))
        .routes(routes!(sagas::wait_for_sagas))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::filter_test))
        .routes(routes!(webhooks::public_keys))
        .routes(routes!(webhooks::get, webhooks::patch, webhooks::delete))
        .routes(routes!(webhooks::secret))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(webhooks::enable))
        .routes(routes!(webhooks::disable))
        .routes(routes!(webhooks::erase))
        .routes(routes!(deliveries::test))
        .routes(routes!(deliveries::recover))
        .routes(routes!(deliveries::statistics))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::get))
        .routes(routes!(deliveries::resend))
        .routes(routes!(analytics::timeseries))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .layer(from_fn(again::again))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CompressionLayer::new())
        .merge(publishing)
        .split_for_parts();
    router
        .merge(SwaggerUi::new("/docs").url("/openapi.json", description::complete(api)))
        .merge(pages::router())
        .fallback(|| async { Problem::not_found("such address") })
        .method_not_allowed_fallback(|| async { Problem::no_method() })
        .layer(from_fn_with_state(state.clone(), gate::gate))
        // What is left coded is refused by the gate.
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .with_state(state)
}
