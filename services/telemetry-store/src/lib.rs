//! gRPC in, database out, live out.
//!
//! The path of an event: `grpc` checks what an Ingest stream brings and hands it to the
//! `batcher`, which gathers the events of all streams and appends them to `storage` in one
//! transaction, together with the sender's account and what goes to the quarantine; the stream
//! acknowledges what was committed. Storage then hints at the commit, the
//! `hub` wakes the watchers of the devices concerned, and each `watcher` reads what is new from
//! the log. Another replica's commits come in by the same door. Queries ask storage directly.
//!
//! Nothing is acknowledged or shown before it is committed, and no state is kept in memory that
//! the database does not have, but for hints and caches.

mod batcher;
mod clock_repair;
mod error;
mod grpc;
mod housekeeping;
mod hub;
mod metrics;
mod settings;
mod startup;
pub mod storage;
mod watcher;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use service_kit::{health::Health, lifecycle::Lifecycle, metrics::Endpoint};
use telemetry_model::{Clock, SystemClock};
use tokio::{net::TcpListener, time::timeout};
use tonic::transport::server::TcpIncoming;

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
    settings::{Cli, Command, DatabaseSettings, Settings},
    startup::run,
};

/// How long open streams and calls may take to end after they were asked to.
const DRAIN_DEADLINE: Duration = Duration::from_secs(8);

/// A store that has its database and its ports, and is ready to run.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    metrics: Option<Endpoint>,
    storage: Arc<dyn Storage>,
    /// Tasks that outlive the server's streams.
    background: Lifecycle,
}

impl Server {
    /// Opens the database, which must be up to date, and the ports.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let background = Lifecycle::new();
        let url = settings.database.url()?;
        let opened = storage::open(&url, settings.policy(), &background).await;
        let storage = opened.inspect_err(|_| background.stop())?;
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (STORE_LISTEN)", settings.listen))?;
        let local_addr = listener.local_addr()?;
        let metrics = Endpoint::bind(&settings.metrics).await?;
        Ok(Self { listener, local_addr, metrics, storage, background })
    }

    /// The address it listens on, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until the lifecycle stops, then drains: no new connections, watches end and ingest
    /// streams get their last acknowledgements, the last batch is written, the database is closed.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self { listener, local_addr, metrics, storage, background } = self;
        let (health, health_service) = Health::new(SERVICES).await;
        let (batcher, batching, failed_at) = Batcher::new(Arc::clone(&storage));
        let hub = Hub::default();
        if let Some(endpoint) = metrics {
            let appends = Arc::clone(batcher.appends());
            let metrics = Metrics::new(Arc::clone(&storage), health.clone(), appends);
            background.spawn("metrics", endpoint.run(Arc::new(metrics), background.token()));
        }
        background.spawn("batcher", batching);
        let following = hub.clone().run(storage.commits(), background.token());
        background.spawn("hub", following);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let housekeeping = Housekeeping {
            storage: Arc::clone(&storage),
            health: health.clone(),
            clock: Arc::clone(&clock),
            failed_at,
        };
        background.spawn("housekeeping", housekeeping.run(background.token()));

        let parts = Parts {
            storage: Arc::clone(&storage),
            batcher,
            hub,
            clock,
            lifecycle: lifecycle.clone(),
        };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
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
        let serving =
            grpc::router(parts, health_service)?.serve_with_incoming_shutdown(incoming, stopping);
        tracing::info!(address = %local_addr, "telemetry store is serving");
        serve_until_drained(serving, &lifecycle).await?;

        background.stop();
        let clean = background.drained().await;
        if let Err(error) = storage.flush_devices().await {
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
