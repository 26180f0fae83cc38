//! The gRPC surface: which services a store offers, with which limits.

mod access;
mod admin;
mod diagnostics;
mod explain;
mod export;
mod hints;
mod ingest;
pub(crate) mod ledger;
mod page_token;
mod query;
mod status;
mod stream_end;
mod summary;
mod watch;

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use service_kit::{
    auth::{Behind, Door},
    calls::Calls,
    lifecycle::Lifecycle,
};
use telemetry_model::Clock;
use telemetry_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        admin_service_server::AdminServiceServer,
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

pub(crate) use self::access::rule;
use self::{
    admin::Admin, diagnostics::Diagnostics, ingest::Ingest, query::Query, stream_end::StreamEnd,
    watch::Watch,
};
use crate::{batcher::Batcher, hub::Hub, storage::Storage, watcher::Sources};

/// The names whose health is reported, beside the overall one.
pub(crate) const SERVICES: &[&str] = &[
    "telemetry.v1.AdminService",
    "telemetry.v1.DiagnosticsService",
    "telemetry.v1.IngestService",
    "telemetry.v1.QueryService",
    "telemetry.v1.WatchService",
];

/// The largest request, in bytes.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// The largest head of a request, in bytes.
const MAX_HEADER_BYTES: u32 = 8 * 1024;
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
    /// How long the log is kept.
    pub(crate) horizon: Duration,
    /// How long a connection may last, if not for ever.
    pub(crate) max_age: Option<Duration>,
}

/// Counts of the calls to each method.
pub(crate) fn calls() -> Calls {
    // It is what this binary was built with.
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default().file;
    let methods = files.iter().flat_map(|file| {
        file.service.iter().flat_map(move |service| {
            let name = move |method: &MethodDescriptorProto| {
                format!("{}.{}/{}", file.package(), service.name(), method.name())
            };
            service.method.iter().map(name)
        })
    });
    Calls::new(methods)
}

/// All services behind the door, ready to be served.
pub(crate) fn router(
    parts: Parts,
    calls: Calls,
    door: Door,
    health: HealthServer<impl Health>,
    explains_itself: bool,
) -> Result<Router<Behind>, tonic_reflection::server::Error> {
    let Parts { storage, batcher, hub, clock, lifecycle, horizon, max_age } = parts;
    let diagnostics = Diagnostics::new(Arc::clone(&storage), batcher.clone(), Arc::clone(&clock));
    let admin = Admin::new(Arc::clone(&storage), Arc::clone(&clock));
    let end = StreamEnd::new(lifecycle.clone(), max_age);
    let ingest = Ingest::new(Arc::clone(&storage), batcher, Arc::clone(&clock), end.clone());
    let query = Query::new(Arc::clone(&storage), lifecycle);
    let watch = Watch::new(Sources::new(storage, hub, clock, horizon), end);
    let mut routes = Routes::new(health)
        .add_service(IngestServiceServer::new(ingest).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(AdminServiceServer::new(admin))
        .add_service(DiagnosticsServiceServer::new(diagnostics))
        .add_service(QueryServiceServer::new(query))
        .add_service(WatchServiceServer::new(watch));
    if explains_itself {
        routes =
            routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    }
    let mut server = Server::builder();
    if let Some(max_age) = max_age {
        // It only tells clients to use another connection for what they begin. What is under way
        // ends by itself (StreamEnd), not by the builder's grace, which cuts without a status.
        server = server.max_connection_age(max_age);
    }
    Ok(server
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .http2_max_header_list_size(Some(MAX_HEADER_BYTES))
        .layer(calls)
        .layer(door)
        .add_routes(routes))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The details of errors, so that clients without their definitions can show them.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
