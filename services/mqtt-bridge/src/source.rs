//! The session with the broker: always polled, acknowledged in order. Only this module knows the
//! MQTT client.
//!
//! Each connection has a client of its own, under the same client id. That makes two faults of a
//! reused client impossible: a receipt from before a reconnect cannot acknowledge another message
//! (its channel is closed), and no message of a dead connection is handed out. The broker keeps the
//! session and sends again what was not acknowledged.
//!
//! Flow control is not acknowledging. If the window is full all the same (of large messages, or
//! because the broker does not heed our limit), what comes is left unacknowledged with the broker,
//! and once all before it is stored the connection is made anew: then the broker sends it again.

mod session;

use std::{pin::pin, sync::Arc, time::Duration};

use rumqttc::{
    AsyncClient, ClientError, ConnectReturnCode, ConnectionError, Event as Activity, EventLoop,
    ManualAck, MqttOptions, Outgoing, Packet, Publish, StateError, SubAck, SubscribeFilter,
    SubscribeReasonCode,
};
use telemetry_decode::{Reason, Rejected, Router, decode};
use telemetry_model::{Clock, EventKind};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{self, Backoff},
    intake::Intake,
    link::Link,
    rejected::Extent,
    settings::Checked,
    window::weight,
};

/// How long the broker may take to hear our goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

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
    host: String,
    port: u16,
    queue: usize,
    filters: Vec<SubscribeFilter>,
    intake: Intake,
    link: Arc<Link>,
}

/// One connection.
struct Connection {
    client: AsyncClient,
    /// When to ask again for subscriptions that were refused.
    resubscribe_at: Option<Instant>,
    left: Left,
}

/// Whether messages were left with the broker because the window was full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    None,
    Some,
    /// They can be taken as soon as the broker has read our acknowledgements of those before. Its
    /// answer to another subscription says so, as it reads in order.
    Renewing,
}

/// Why a connection ended.
enum Ended {
    /// We are stopping.
    Stopped,
    /// We end it, to be sent again what was left with the broker.
    Renewed,
    /// It broke, or was not made.
    Lost(String),
    /// The broker does not want us: what happened, and what somebody has to do.
    Refused { what: &'static str, reason: String, fix: &'static str },
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
        let filters = settings.telemetry.iter().chain(&settings.heartbeat);
        let filters = filters.map(|filter| session::subscription(broker, filter.as_str()));
        let filters = filters.collect();
        let intake = Intake::new(router, decode, clock, Arc::clone(link.rejections()));
        Ok(Self {
            options: session::options(broker, settings.window)?,
            host: broker.host.clone(),
            port: broker.port,
            // An acknowledgement is queued once for each message on its way, and must find room.
            queue: 2 * usize::from(settings.window) + 64,
            filters,
            intake,
            link,
        })
    }

    /// Listens until told to leave; from `stopping` on, what arrives is left to the broker.
    pub(crate) async fn run(
        mut self,
        stopping: CancellationToken,
        leave: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let (host, port) = (self.host.as_str(), self.port);
            tracing::info!(host, port, "connecting to MQTT broker");
            let ended = self.listen(&mut backoff, &stopping, &leave).await;
            self.link.set_subscribed(false);
            self.link.window().void_receipts();
            let wait = match ended {
                Ended::Stopped => return Ok(()),
                // At once: what filled the window is stored, so this is no idle circle.
                Ended::Renewed => {
                    tracing::info!("the window has room again");
                    continue;
                }
                Ended::Lost(reason) => {
                    let wait = backoff.next();
                    let retry_in_ms = wait.as_millis();
                    tracing::info!(reason, retry_in_ms, "MQTT connection lost");
                    wait
                }
                Ended::Refused { what, reason, fix } => {
                    let wait = backoff.ceiling();
                    let retry_in_ms = wait.as_millis();
                    tracing::error!(reason, fix, retry_in_ms, "{what}");
                    wait
                }
            };
            if leave.run_until_cancelled(sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn listen(
        &mut self,
        backoff: &mut Backoff,
        stopping: &CancellationToken,
        leave: &CancellationToken,
    ) -> Ended {
        let (client, mut events) =
            AsyncClient::builder(self.options.clone()).capacity(self.queue).build();
        let mut connection = Connection { client, resubscribe_at: None, left: Left::None };
        loop {
            let activity = tokio::select! {
                ended = self.next_activity(&mut connection, &mut events) => ended,
                // Dropping the poll loses nothing that the broker would not send again.
                () = leave.cancelled() => {
                    say_goodbye(&connection.client, &mut events).await;
                    return Ended::Stopped;
                }
            };
            match activity {
                Ok(Activity::Incoming(Packet::ConnAck(connack))) => {
                    let session_present = connack.session_present;
                    tracing::info!(session_present, "connected to MQTT broker");
                    // Also with a session: that is how we learn that we may (still) read.
                    if let Err(error) = self.subscribe(&connection) {
                        return Ended::Lost(error.to_string());
                    }
                }
                Ok(Activity::Incoming(Packet::SubAck(_))) if connection.left == Left::Renewing => {
                    return Ended::Renewed;
                }
                Ok(Activity::Incoming(Packet::SubAck(suback))) => {
                    if self.is_granted(&suback) {
                        backoff.is_up();
                        self.link.set_subscribed(true);
                    } else {
                        connection.resubscribe_at = Some(Instant::now() + backoff::CEILING);
                    }
                }
                Ok(Activity::Incoming(Packet::Publish(publish))) if !stopping.is_cancelled() => {
                    self.receive(&mut connection, &publish);
                }
                Ok(_) => {}
                Err(ended) => return ended,
            }
        }
    }

    /// What happens next on the connection, which is polled without a break until it does.
    async fn next_activity(
        &self,
        connection: &mut Connection,
        events: &mut EventLoop,
    ) -> Result<Activity, Ended> {
        let mut poll = pin!(events.poll());
        loop {
            let resubscribe_at = connection.resubscribe_at;
            tokio::select! {
                biased;
                activity = &mut poll => return activity.map_err(|error| ended(&error)),
                () = sleep_until(resubscribe_at.unwrap_or_else(Instant::now)),
                    if resubscribe_at.is_some() =>
                {
                    connection.resubscribe_at = None;
                    self.subscribe(connection).map_err(|error| Ended::Lost(error.to_string()))?;
                }
                () = self.link.has_room(), if connection.left == Left::Some => {
                    connection.left = Left::Renewing;
                    self.subscribe(connection).map_err(|error| Ended::Lost(error.to_string()))?;
                }
            }
        }
    }

    fn subscribe(&self, connection: &Connection) -> Result<(), ClientError> {
        connection.client.try_subscribe_many(self.filters.clone())
    }

    /// Whether we may read everything. What we may read is read in any case.
    fn is_granted(&self, suback: &SubAck) -> bool {
        let mut is_granted = true;
        for (filter, code) in self.filters.iter().zip(&suback.return_codes) {
            let filter = filter.path.as_str();
            if let SubscribeReasonCode::Success(qos) = code {
                tracing::info!(filter, qos = *qos as u8, "subscribed");
                continue;
            }
            is_granted = false;
            let fix = "allow MQTT_BACKEND_USERNAME to read this topic in the broker's ACL";
            let retry_in_ms = backoff::CEILING.as_millis();
            let what = "MQTT broker refused the subscription";
            tracing::error!(filter, reason = ?code, fix, retry_in_ms, "{what}");
        }
        is_granted
    }

    /// Takes a message into the window.
    fn receive(&mut self, connection: &mut Connection, publish: &Publish) {
        let ack = connection.client.prepare_ack(publish);
        if ack.is_some() && connection.left != Left::None {
            // An acknowledgement must not overtake those of the messages that were left.
            return;
        }
        let receipt = ack.map(|ack| Receipt { client: connection.client.clone(), ack });
        let must_be_redelivered = receipt.is_some();
        let topic = String::from_utf8_lossy(&publish.topic);
        let event = self.intake.take(&topic, &publish.payload);
        let device = event.as_ref().map(|event| event.device.clone());
        let bytes = weight(event.as_ref());
        let mut window = self.link.window();
        let pushed = window.push(event, receipt, bytes);
        let settled = window.settled();
        if settled.is_empty() {
            drop(window);
        } else {
            self.link.acknowledge(window, settled);
        }
        match pushed {
            Ok(()) => self.link.has_arrived(),
            Err(_) if must_be_redelivered => {
                connection.left = Left::Some;
                tracing::warn!("window full, leaving messages with the broker");
            }
            Err(_) => {
                let detail = "the store is away and QoS 0 messages no longer fit in memory";
                let rejected = Rejected::new(Reason::WindowFull, "payload", detail);
                self.link.rejections().record(device.as_ref(), &topic, &rejected, Extent::Message);
            }
        }
    }
}

/// Leaves properly, after the acknowledgements that are queued: the broker keeps the session.
async fn say_goodbye(client: &AsyncClient, events: &mut EventLoop) {
    if client.try_disconnect().is_err() {
        return;
    }
    let said = async {
        while !matches!(events.poll().await, Err(_) | Ok(Activity::Outgoing(Outgoing::Disconnect)))
        {
        }
    };
    if timeout(GOODBYE, said).await.is_err() {
        tracing::debug!("the broker did not hear our goodbye");
    }
}

/// Tells a broker that refuses us from a network that fails us.
fn ended(error: &ConnectionError) -> Ended {
    let code = match error {
        ConnectionError::ConnectionRefused(code)
        | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => code,
        other => return Ended::Lost(other.to_string()),
    };
    let reason = format!("{code:?}");
    match code {
        ConnectReturnCode::BadUserNamePassword
        | ConnectReturnCode::NotAuthorized
        | ConnectReturnCode::BadAuthenticationMethod => Ended::Refused {
            what: "MQTT broker refused the credentials",
            reason,
            fix: "check MQTT_BACKEND_USERNAME and MQTT_BACKEND_PASSWORD against the broker's",
        },
        ConnectReturnCode::Banned
        | ConnectReturnCode::BadClientId
        | ConnectReturnCode::ClientIdentifierNotValid => Ended::Refused {
            what: "MQTT broker refused the client id",
            reason,
            fix: "choose another MQTT_CLIENT_ID",
        },
        _ => Ended::Lost(reason),
    }
}
