//! The session with the broker: acknowledged in order, and read to its end. Only this module knows
//! the MQTT client.
//!
//! Each connection has a client of its own, under the same client id. That makes two faults of a
//! reused client impossible: a receipt from before a reconnect cannot acknowledge another message
//! (its channel is closed), and no message of a dead connection is handed out. The broker keeps the
//! session and sends again what was not acknowledged; what of that we have already is not taken twice.
//!
//! Flow control for `QoS` 1 is not acknowledging. If the window is full all the same (of large
//! messages, or because the broker does not heed our limit), what comes is left unacknowledged with
//! the broker, and once all before it is stored the connection is made anew: then the broker sends
//! it again.
//!
//! A message of `QoS` 0 is nowhere but in what the broker has sent, so everything sent is read:
//! - While the store is up but slower than the broker, reading pauses and TCP holds the broker
//!   back; meanwhile we write, so that the broker knows us alive.
//! - While the store is away, the window fills. Before it is full we leave: the broker keeps the
//!   session and, if configured so, queues `QoS` 0 for it as well. We come back when the store does.
//!   If the broker has too much under way to leave without loss, reading pauses as above.
//! - When we stop: see [`crate::Bridge::run`].
//!
//! Leaving is always the same: a question is asked and its answer awaited, then our direction of the
//! connection is closed and the other read to its end.

mod connection;
mod failure;
mod leaving;
mod receive;
mod session;
mod socket;

use std::{hash::RandomState, sync::Arc};

use rumqttc::{AsyncClient, ClientError, ManualAck, MqttOptions, SubscribeFilter};
use telemetry_decode::{Router, decode};
use telemetry_model::{Clock, EventKind};
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    intake::{Intake, MAX_MESSAGE_BYTES},
    link::Link,
    rate::Rates,
    settings::{Checked, TlsFiles},
    source::{
        connection::{Connection, Ended},
        failure::Failure,
        socket::{Encryption, MAX_READ_BYTES},
    },
};

/// Memory that must be free to read on: for the message that is read next, and for small ones that
/// are read together with its end. No message weighs more than 128 times what is read of it.
const ROOM: usize = MAX_MESSAGE_BYTES + 128 * MAX_READ_BYTES;

/// What it takes to acknowledge a message, on the connection that brought it.
#[derive(Debug)]
pub(crate) struct Receipt {
    client: AsyncClient,
    ack: ManualAck,
}

impl Receipt {
    /// Acknowledges, unless the connection is gone: then the broker sends the message again.
    pub(crate) fn acknowledge(self) {
        match self.client.try_manual_ack(self.ack) {
            Ok(()) | Err(ClientError::RequestChannelDisconnected(_)) => {}
            // The queue has room for more than the broker may send unacknowledged.
            Err(error) => tracing::warn!(%error, "not acknowledged, to be redelivered"),
        }
    }
}

/// The listener.
#[derive(Debug)]
pub(crate) struct Source {
    options: MqttOptions,
    tls: Option<TlsFiles>,
    encryption: Option<Encryption>,
    host: String,
    port: u16,
    queue: usize,
    /// Memory that must be free for what comes while we leave.
    reserve: usize,
    filters: Vec<SubscribeFilter>,
    /// How many of them, from the front, we cannot do without.
    needed: usize,
    intake: Intake,
    /// Not to be foreseen by whoever publishes.
    fingerprints: RandomState,
    rates: Option<Rates>,
    clock: Arc<dyn Clock>,
    link: Arc<Link>,
}

impl Source {
    pub(crate) fn new(
        settings: &Checked,
        link: Arc<Link>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let broker = &settings.broker;
        let mut router = Router::default();
        router.add(&settings.telemetry, EventKind::Telemetry);
        router.add(&settings.heartbeat, EventKind::Heartbeat);
        router.add(&settings.status, EventKind::Presence);
        let filters = settings.telemetry.iter().chain(&settings.heartbeat).chain(&settings.status);
        let filters = filters.map(|filter| session::subscription(broker, filter.as_str()));
        let filters = filters.collect();
        let rejections = Arc::clone(link.rejections());
        link.delivery().receive_maximum = settings.window;
        Ok(Self {
            options: session::options(broker, settings.window),
            encryption: session::encryption(&broker.host, broker.tls.as_ref())?,
            tls: broker.tls.clone(),
            host: broker.host.clone(),
            port: broker.port,
            // An acknowledgement is queued once for each message on its way, and must find room.
            queue: 2 * usize::from(settings.window) + 64,
            // More than what makes reading pause, or we could not leave any more.
            reserve: ROOM + settings.window_bytes / 16,
            filters,
            needed: settings.telemetry.len() + settings.heartbeat.len(),
            intake: Intake::new(router, decode, Arc::clone(&clock), rejections),
            fingerprints: RandomState::new(),
            rates: settings.device_rate.map(|(rate, burst)| Rates::new(rate, burst)),
            clock,
            link,
        })
    }

    /// Listens until told to leave; from `stopping` on, only what the broker would not send again is
    /// still taken.
    pub(crate) async fn run(
        mut self,
        stopping: CancellationToken,
        leave: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            self.renew_encryption();
            let (host, port) = (self.host.as_str(), self.port);
            tracing::info!(host, port, "connecting to MQTT broker");
            let ended = Connection::listen(&mut self, &mut backoff, &stopping, &leave).await;
            self.link.set_subscribed(false);
            self.link.delivery().disconnected();
            self.link.window().void_receipts();
            let waited = match ended {
                Ended::Left => {
                    tracing::info!("left the MQTT broker, which keeps the session");
                    // At once then: what made us leave is over, so this is no idle circle.
                    stopping.run_until_cancelled(self.link.is_flowing()).await
                }
                Ended::Failed(failure) => {
                    let wait = failure.class.wait(&mut backoff);
                    self.failed(&failure, None, wait);
                    stopping.run_until_cancelled(sleep(wait)).await
                }
            };
            if waited.is_none() {
                return Ok(());
            }
        }
    }

    /// Takes the files of TLS as they are now, if they can be used.
    fn renew_encryption(&mut self) {
        match session::encryption(&self.host, self.tls.as_ref()) {
            Ok(encryption) => self.encryption = encryption,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "cannot use the files of TLS, keeping what was in them");
            }
        }
    }

    /// Says and counts a failure.
    fn failed(&self, failure: &Failure, filter: Option<&str>, wait: Duration) {
        let Failure { class, reason } = failure;
        class.log(reason, filter, wait);
        self.link.delivery().failed(class.name(), reason.clone(), self.clock.now());
    }
}
