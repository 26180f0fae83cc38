//! MQTT in, gRPC out.
//!
//! The path of a message: the `source` keeps the session with the broker and hands over what is
//! published; the `intake` makes an event of it, or a rejection, by what `telemetry_decode` reads in
//! its topic and payload. A rejection is counted and logged (`rejected`); either enters the `window`
//! of deliveries that the broker is owed an acknowledgement for. The `uplink` sends the window's
//! events to the store and, when the store says that they are committed, releases their
//! acknowledgements to the broker, in the order of receipt.
//!
//! Nothing is acknowledged that is not committed, and nothing is kept on disk: what is lost with
//! this process the broker sends again, but for what came at `QoS` 0 in its last moments.

mod backoff;
mod delivery;
mod intake;
mod link;
mod metrics;
mod rate;
mod rejected;
mod settings;
mod source;
mod uplink;
mod window;

use std::{fmt, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context;
use service_kit::{
    health::Health,
    lifecycle::Lifecycle,
    metrics::{Endpoint, Push},
};
use telemetry_model::{ClientId, Clock, Invalid, ProcessId, Sender, SystemClock};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

pub use crate::settings::{BrokerSettings, Cli, Settings};
use crate::{link::Link, settings::Checked, source::Source, uplink::Uplink, window::Limits};

/// How long the store may take to acknowledge what it was sent, once we are stopping, and then what
/// was taken while we left.
const ACK_DEADLINE: Duration = Duration::from_secs(4);
const STORE_DEADLINE: Duration = Duration::from_secs(1);
/// How long those who watch our health may take to hang up after that.
const HEALTH_DEADLINE: Duration = Duration::from_secs(1);

/// Runs a bridge with these settings until the lifecycle stops.
pub async fn run(settings: Settings, lifecycle: Lifecycle) -> anyhow::Result<()> {
    Bridge::bind(settings).await?.run(lifecycle).await
}

/// A bridge with checked settings and its ports, ready to run.
pub struct Bridge {
    listener: TcpListener,
    local_addr: SocketAddr,
    metrics: Option<Endpoint>,
    push: Option<Push>,
    link: Arc<Link>,
    source: Source,
    uplink: Uplink,
}

/// Without the settings, some of which are secret.
impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Bridge {
    /// Checks the settings and opens the ports: of health, and of metrics if it has one.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let settings = settings.check()?;
        let limits = Limits { owed: settings.window.into(), bytes: settings.window_bytes };
        let link = Arc::new(Link::new(limits));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let source = Source::new(&settings, Arc::clone(&link), Arc::clone(&clock))?;
        let store = service_kit::channel::connect(&settings.store_url, &settings.access)
            .with_context(|| format!("STORE_URL: cannot use {}", settings.store_url))?;
        let store_url = settings.store_url.clone();
        let uplink = Uplink::new(sender(&settings)?, store_url, store, Arc::clone(&link), clock);
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {} (BRIDGE_LISTEN)", settings.listen))?;
        let local_addr = listener.local_addr()?;
        let metrics = Endpoint::bind(&settings.metrics).await?;
        let push = Push::new()?;
        Ok(Self { listener, local_addr, metrics, push, link, source, uplink })
    }

    /// The address of the health service, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Carries messages until the lifecycle stops. Then, within a deadline:
    /// 1. the source takes only what the broker would not send again (`QoS` 0), until all that was
    ///    taken before is stored and acknowledged, for which the connection must stand;
    /// 2. it leaves, and reads what the broker had sent to the end: the broker keeps the session;
    /// 3. the uplink ends once that is stored as well.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self { listener, metrics, push, link, source, uplink, .. } = self;
        // Ends the tasks below once the window is drained.
        let drained = Lifecycle::new();
        let stopping = lifecycle.token().child_token();
        let (leave, left) = (CancellationToken::new(), CancellationToken::new());
        let source = source.run(stopping.clone(), leave.clone());
        let leaving = left.clone().drop_guard();
        drained.spawn("mqtt source", async move {
            let _leaving = leaving;
            source.await
        });
        drained.spawn("uplink", uplink.run(drained.token()));
        if let Some(metrics) = metrics {
            drained.spawn("metrics", metrics.run(Arc::clone(&link), drained.token()));
        }
        if let Some(push) = push {
            drained.spawn("metrics push", push.run(Arc::clone(&link), drained.token()));
        }
        let reported = Arc::clone(&link);
        drained.spawn("health", report(listener, reported, lifecycle.token(), drained.token()));

        tokio::select! {
            () = lifecycle.stopping() => {}
            () = drained.stopping() => stopping.cancel(),
        }
        let is_acknowledged = timeout(ACK_DEADLINE, link.has_room()).await.is_ok();
        leave.cancel();
        left.cancelled().await;
        let is_stored = timeout(STORE_DEADLINE, link.empty()).await.is_ok();
        if !(is_acknowledged && is_stored) {
            tracing::warn!("not everything was stored; the broker will resend what is of QoS 1");
        }
        drained.stop();
        anyhow::ensure!(drained.drained().await, "a task failed");
        Ok(())
    }
}

/// Who we are to the store: a process unlike any other, in the session that the broker keeps.
fn sender(settings: &Checked) -> Result<Sender, Invalid> {
    let process = format!("{:032x}", fastrand::u128(..));
    Ok(Sender {
        process: ProcessId::parse(&process)?,
        client: ClientId::parse(&settings.broker.client_id)
            .map_err(|error| Invalid::new("MQTT_CLIENT_ID", error.reason))?,
        started: SystemClock.now(),
    })
}

/// Serves our health until the end: true until we are stopping, not serving from then on.
async fn report(
    listener: TcpListener,
    link: Arc<Link>,
    stopping: CancellationToken,
    end: CancellationToken,
) -> anyhow::Result<()> {
    let (health, service) = Health::new(&["mqtt-bridge"]).await;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(service);
    let mut server = pin!(server.serve_with_incoming_shutdown(incoming, end.cancelled()));
    let reported = async {
        stopping.run_until_cancelled(link.report(&health)).await;
        health.set(false).await;
        end.cancelled().await;
    };
    tokio::select! {
        ended = &mut server => return ended.context("serving health"),
        () = reported => {}
    }
    // A stream of grpc.health.v1.Health/Watch ends only when its client hangs up.
    timeout(HEALTH_DEADLINE, server).await.unwrap_or(Ok(())).context("serving health")
}
