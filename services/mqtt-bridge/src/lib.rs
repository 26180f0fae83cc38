//! MQTT in, gRPC out.
//!
//! The path of a message: the [`source`] keeps the session with the broker and hands over what is
//! published; the [`topic`] says which device sent it and which kind it is; [`decode`] makes an
//! event of it, or a rejection, which is logged and counted ([`rejected`]); either enters the
//! [`window`] of deliveries that the broker is owed an acknowledgement for. The [`uplink`] sends
//! the window's events to the store and, when the store says that they are committed, releases
//! their acknowledgements to the broker, in the order of receipt.
//!
//! Nothing is acknowledged that is not committed, and nothing is kept on disk: what is lost with
//! this process the broker sends again.

mod backoff;
mod decode;
mod link;
mod rejected;
mod settings;
mod source;
mod topic;
mod uplink;
mod window;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use service_kit::{health::Health, lifecycle::Lifecycle};
use telemetry_model::SystemClock;
use tokio::{net::TcpListener, time::timeout};
use tonic::transport::{Server, server::TcpIncoming};

pub use crate::settings::{Cli, Settings};
use crate::{link::Link, settings::Checked, source::Source, uplink::Uplink};

/// How long the store may take to acknowledge what it was sent, once we are stopping.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// A bridge with checked settings and its health port, ready to run.
#[derive(Debug)]
pub struct Bridge {
    listener: TcpListener,
    local_addr: SocketAddr,
    settings: Checked,
}

impl Bridge {
    /// Checks the settings and opens the health port.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let settings = settings.check()?;
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (BRIDGE_LISTEN)", settings.listen))?;
        let local_addr = listener.local_addr()?;
        Ok(Self { listener, local_addr, settings })
    }

    /// The address of the health service, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Carries messages until the lifecycle stops; then takes no more, waits for the last
    /// acknowledgements and leaves the broker, which keeps the session.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self { listener, settings, .. } = self;
        let link = Arc::new(Link::default());
        // Ends the tasks below once the window is drained.
        let drained = Lifecycle::new();
        let source = Source::new(&settings, Arc::clone(&link), Arc::new(SystemClock))?;
        let uplink = Uplink::new(&settings.store_url, Arc::clone(&link))?;
        drained.spawn("mqtt source", source.run(lifecycle.token(), drained.token()));
        drained.spawn("uplink", uplink.run(drained.token()));

        let (health, service) = Health::new(&["mqtt-bridge"]).await;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stopped = drained.clone();
        drained.spawn("health", async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, async { stopped.stopping().await }).await
        });
        let (reported, ready) = (Arc::clone(&link), lifecycle.token());
        drained.spawn("readiness", async move {
            ready.run_until_cancelled(reported.report(&health)).await;
            health.set(false).await;
            Ok::<_, anyhow::Error>(())
        });

        tokio::select! {
            () = lifecycle.stopping() => {}
            () = drained.stopping() => {}
        }
        if timeout(DRAIN_DEADLINE, link.empty()).await.is_err() {
            tracing::warn!("the store did not acknowledge everything; the broker will resend it");
        }
        drained.stop();
        anyhow::ensure!(drained.drained().await, "a task failed");
        Ok(())
    }
}
