//! The gRPC surface: which services a store offers, with which limits.

mod diagnostics;
mod explain;
mod hints;
mod ingest;
pub(crate) mod ledger;
mod page_token;
mod query;
mod status;
mod watch;

use std::{sync::Arc, time::Duration};

use service_kit::lifecycle::Lifecycle;
use telemetry_model::Clock;
use telemetry_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        diagnostics_service_server::DiagnosticsServiceServer,
        ingest_service_server::IngestServiceServer, query_service_server::QueryServiceServer,
        watch_service_server::WatchServiceServer,
    },
};
use tonic::{
    service::Routes,
    transport::{Server, server::Router},
};
use tonic_health::pb::health_server::{Health, HealthServer};

use self::{diagnostics::Diagnostics, ingest::Ingest, query::Query, watch::Watch};
use crate::{batcher::Batcher, hub::Hub, storage::Storage};

/// The names whose health is reported, beside the overall one.
pub(crate) const SERVICES: &[&str] = &[
    "telemetry.v1.DiagnosticsService",
    "telemetry.v1.IngestService",
    "telemetry.v1.QueryService",
    "telemetry.v1.WatchService",
];

/// The largest request, in bytes.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// The most streams and calls at once on one connection.
const MAX_STREAMS: u32 = 10_000;

/// What the services work with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) batcher: Batcher,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<dyn Clock>,
    /// Its streams are tasks of this group and end when it stops.
    pub(crate) lifecycle: Lifecycle,
}

/// All services, ready to be served.
pub(crate) fn router(
    parts: Parts,
    health: HealthServer<impl Health>,
) -> Result<Router, tonic_reflection::server::Error> {
    let Parts { storage, batcher, hub, clock, lifecycle } = parts;
    let diagnostics = Diagnostics::new(Arc::clone(&storage), batcher.clone(), Arc::clone(&clock));
    let ingest = Ingest::new(Arc::clone(&storage), batcher, clock, lifecycle.clone());
    let query = Query::new(Arc::clone(&storage));
    let watch = Watch::new(storage, hub, lifecycle);
    let (v1, v1alpha) = (reflection(), reflection());
    let routes = Routes::new(health)
        .add_service(IngestServiceServer::new(ingest).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(DiagnosticsServiceServer::new(diagnostics))
        .add_service(QueryServiceServer::new(query))
        .add_service(WatchServiceServer::new(watch))
        .add_service(v1.build_v1()?)
        .add_service(v1alpha.build_v1alpha()?);
    Ok(Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .add_routes(routes))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The details of errors, so that clients without their definitions can show them.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
