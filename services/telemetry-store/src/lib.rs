//! gRPC in, database out, live out.
//!
//! The path of an event: `grpc` checks what an Ingest stream brings and hands it to the
//! `batcher`, which gathers the events of all streams and appends them to `storage` in one
//! transaction, together with the sender's account and what goes to the quarantine; the stream
//! acknowledges what was committed. Storage then hints at the commit, and the `hub` reads what is
//! new in the log and hands it to each `watcher` whom it concerns; one that comes later, or is too
//! slow, reads the log by itself. Another replica's commits come in by the same door. Queries ask
//! storage directly; `history` makes of its answers what no database is asked for.
//!
//! Nothing is acknowledged or shown before it is committed, and no state is kept in memory that
//! the database does not have, but for hints and caches.

mod batcher;
mod clock_repair;
mod error;
mod grpc;
mod history;
mod housekeeping;
mod hub;
mod metrics;
mod presence;
mod settings;
mod startup;
pub mod storage;
mod watcher;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use service_kit::{
    auth::{Door, Opened},
    health::Health,
    incoming::Incoming,
    lifecycle::Lifecycle,
    metrics::{Endpoint, Push},
    reload::Reloaded,
};
use telemetry_model::{Clock, SystemClock};
use tokio::{net::TcpListener, sync::Mutex, time::timeout};

use crate::{
    batcher::Batcher,
    grpc::{Parts, SERVICES},
    housekeeping::Housekeeping,
    hub::Hub,
    metrics::Metrics,
    storage::Storage,
};
pub use crate::{
    error::{BoxError, Error, Result},
    settings::{Cli, Command, DatabaseSettings, Reflection, Settings},
    startup::run,
};

/// How long open streams and calls may take to end after they were asked to.
const DRAIN_DEADLINE: Duration = Duration::from_secs(8);

/// A store that has its database and its ports, and is ready to run.
#[derive(Debug)]
pub struct Server {
    incoming: Incoming,
    auth: Opened,
    max_streams: usize,
    reflection: bool,
    local_addr: SocketAddr,
    metrics: Option<Endpoint>,
    push: Option<Push>,
    storage: Arc<dyn Storage>,
    offline_after: Duration,
    /// Tasks that outlive the server's streams.
    background: Lifecycle,
    /// How long the log is kept.
    horizon: Duration,
    /// How long a connection may last.
    max_age: Option<Duration>,
}

impl Server {
    /// Opens the database, which must be up to date, and the ports.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let background = Lifecycle::new();
        let auth = settings.auth.open(settings.listen)?;
        let tls = settings.tls.open()?;
        anyhow::ensure!(
            settings.tls.client_ca.is_none() || auth.knows_certificates(),
            "STORE_CLIENT_CA needs AUTH_TOKENS_FILE, which says what each certificate may do"
        );
        let metrics = Endpoint::bind(&settings.metrics).await?;
        let url = settings.database.url()?;
        let opened = storage::open(&url, settings.policy()?, &background).await;
        let storage = opened.inspect_err(|_| background.stop())?;
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (STORE_LISTEN)", settings.listen))?;
        let local_addr = listener.local_addr()?;
        let push = Push::new()?;
        if tls.is_none() && !auth.lets_anyone_in() && !local_addr.ip().is_loopback() {
            let fix = "set STORE_TLS_CERT and STORE_TLS_KEY, unless something in front does it";
            tracing::warn!(fix, "tokens come in over the network in the clear");
        }
        let certificates = tls.as_ref().map(Reloaded::subscribe);
        if let Some(tls) = tls {
            background.spawn("certificates", tls.run(background.token()));
        }
        let limits = settings.limits;
        let incoming = Incoming::new(listener, certificates, limits.max_connections);
        let reflection = settings.reflection.map(|reflection| reflection == Reflection::On);
        Ok(Self {
            incoming,
            max_streams: limits.max_streams_per_identity,
            reflection: reflection.unwrap_or(auth.lets_anyone_in()),
            auth,
            local_addr,
            metrics,
            push,
            storage,
            offline_after: settings.offline_after,
            background,
            horizon: settings.watch_horizon,
            max_age: settings.max_connection_age,
        })
    }

    /// The address it listens on, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until the lifecycle stops, then drains: no new connections, watches end and ingest
    /// streams get their last acknowledgements, the last batch is written, the database is closed.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self {
            incoming,
            auth,
            local_addr,
            metrics: endpoint,
            push,
            storage,
            offline_after,
            background,
            ..
        } = self;
        let (health, health_service) = Health::new(SERVICES).await;
        let (batcher, batching, failed_at) = Batcher::new(Arc::clone(&storage));
        let hub = Hub::default();
        let appends = Arc::clone(batcher.appends());
        let calls = grpc::calls();
        let metrics = Arc::new(Metrics {
            storage: Arc::clone(&storage),
            health: health.clone(),
            appends,
            connections: incoming.counts(),
            hub: hub.clone(),
            calls: calls.clone(),
            ledger: Mutex::default(),
        });
        if let Some(endpoint) = endpoint {
            background.spawn("metrics", endpoint.run(Arc::clone(&metrics), background.token()));
        }
        if let Some(push) = push {
            background.spawn("metrics push", push.run(metrics, background.token()));
        }
        background.spawn("batcher", batching);
        let following =
            hub.clone().run(Arc::clone(&storage), storage.commits(), background.token());
        background.spawn("hub", following);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let housekeeping = Housekeeping {
            storage: Arc::clone(&storage),
            health: health.clone(),
            clock: Arc::clone(&clock),
            failed_at,
            offline_after,
        };
        background.spawn("housekeeping", housekeeping.run(background.token()));

        let parts = Parts {
            storage: Arc::clone(&storage),
            batcher,
            hub,
            clock,
            lifecycle: lifecycle.clone(),
            horizon: self.horizon,
            max_age: self.max_age,
        };
        let door = Door::new(auth.start(&background), grpc::rule, self.max_streams);
        let stopping = {
            let (lifecycle, background, health) = (lifecycle.clone(), background.clone(), health);
            async move {
                tokio::select! {
                    () = lifecycle.stopping() => {}
                    () = background.stopping() => lifecycle.stop(),
                }
                health.set(false).await;
            }
        };
        let serving = grpc::router(parts, calls, door, health_service, self.reflection)?
            .serve_with_incoming_shutdown(incoming.into_stream(), stopping);
        tracing::info!(address = %local_addr, "telemetry store is serving");
        serve_until_drained(serving, &lifecycle).await?;

        background.stop();
        let clean = background.drained().await;
        if let Err(error) = storage.flush_devices(SystemClock.now()).await {
            tracing::warn!(%error, "could not write when devices were last seen");
        }
        storage.close().await;
        anyhow::ensure!(clean, "a background task failed");
        Ok(())
    }
}

/// Waits for the server to end, but once it was asked to stop not longer than the deadline.
async fn serve_until_drained(
    serving: impl Future<Output = std::result::Result<(), tonic::transport::Error>>,
    lifecycle: &Lifecycle,
) -> anyhow::Result<()> {
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended.context("serving gRPC"),
        () = lifecycle.stopping() => {}
    }
    match timeout(DRAIN_DEADLINE, serving).await {
        Ok(ended) => ended.context("serving gRPC"),
        Err(_) => {
            let deadline_s = DRAIN_DEADLINE.as_secs();
            tracing::warn!(deadline_s, "connections still open, closing them");
            Ok(())
        }
    }
}
