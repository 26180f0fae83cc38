//! The session with the broker: always polled, acknowledged in order. Only this module knows the
//! MQTT client.
//!
//! Each connection has a client of its own, under the same client id. That makes two faults of a
//! reused client impossible: a receipt from before a reconnect cannot acknowledge another message
//! (its channel is closed), and no message of a dead connection is handed out. The broker keeps the
//! session and sends again what was not acknowledged.

mod session;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event as Activity, EventLoop, ManualAck,
    MqttOptions, Outgoing, Packet, Publish, StateError, SubAck, SubscribeFilter,
    SubscribeReasonCode,
};
use telemetry_model::{Clock, DeviceId, Event, EventKind, Sample, Timestamp};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    decode::decode,
    link::Link,
    rejected::{Reason, Rejected, Rejections},
    settings::Checked,
    topic::Router,
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
        if let Err(error) = self.client.try_manual_ack(self.ack) {
            tracing::trace!(%error, "not acknowledged, will be redelivered");
        }
    }
}

/// The listener.
#[derive(Debug)]
pub(crate) struct Source {
    options: MqttOptions,
    host: String,
    port: u16,
    filters: Vec<SubscribeFilter>,
    router: Router,
    rejections: Rejections,
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    last_received: Timestamp,
}

/// Why a connection ended.
enum Ended {
    /// We are stopping.
    Stopped,
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
        Ok(Self {
            options: session::options(broker)?,
            host: broker.host.clone(),
            port: broker.port,
            filters,
            router,
            rejections: Rejections::default(),
            link,
            clock,
            last_received: Timestamp::MIN,
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
            let wait = match ended {
                Ended::Stopped => return Ok(()),
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
        // An acknowledgement is queued once for each message on its way, and must find room.
        let capacity = 2 * usize::from(session::RECEIVE_MAXIMUM) + 64;
        let (client, mut connection) =
            AsyncClient::builder(self.options.clone()).capacity(capacity).build();
        loop {
            let activity = tokio::select! {
                activity = connection.poll() => activity,
                // Dropping the poll loses nothing that the broker would not send again.
                () = leave.cancelled() => {
                    say_goodbye(&client, &mut connection).await;
                    return Ended::Stopped;
                }
            };
            match activity {
                Ok(Activity::Incoming(Packet::ConnAck(connack))) => {
                    let session_present = connack.session_present;
                    tracing::info!(session_present, "connected to MQTT broker");
                    // Also with a session: that is how we learn that we may (still) read.
                    if let Err(error) = client.try_subscribe_many(self.filters.clone()) {
                        return Ended::Lost(error.to_string());
                    }
                }
                Ok(Activity::Incoming(Packet::SubAck(suback))) => {
                    if let Some(refused) = self.check_subscriptions(&suback) {
                        return refused;
                    }
                    backoff.is_up();
                    self.link.set_subscribed(true);
                }
                Ok(Activity::Incoming(Packet::Publish(publish))) if !stopping.is_cancelled() => {
                    self.receive(&client, &publish);
                }
                Ok(_) => {}
                Err(error) => return ended(&error),
            }
        }
    }

    fn check_subscriptions(&self, suback: &SubAck) -> Option<Ended> {
        for (filter, code) in self.filters.iter().zip(&suback.return_codes) {
            let SubscribeReasonCode::Success(qos) = code else {
                return Some(Ended::Refused {
                    what: "MQTT broker refused the subscription",
                    reason: format!("{}: {code:?}", filter.path),
                    fix: "allow the bridge's user to read this topic in the broker's ACL",
                });
            };
            let (filter, qos) = (filter.path.as_str(), *qos as u8);
            tracing::info!(filter, qos, "subscribed");
        }
        None
    }

    /// Takes a message into the window.
    fn receive(&mut self, client: &AsyncClient, publish: &Publish) {
        let receipt =
            client.prepare_ack(publish).map(|ack| Receipt { client: client.clone(), ack });
        let topic = String::from_utf8_lossy(&publish.topic);
        let event = match self.understand(&topic, &publish.payload) {
            Ok(event) => Some(event),
            Err((sender, rejected)) => {
                self.rejections.record(sender.as_ref().map_or(&topic, DeviceId::as_str), &rejected);
                None
            }
        };
        let sender = event.as_ref().map(|event| event.device.clone());
        // What the event takes in memory is some multiple of what it takes on the wire.
        let bytes = 256 + 8 * publish.payload.len();
        let mut window = self.link.window();
        let pushed = window.push(event, receipt, bytes);
        let settled = window.settled();
        drop(window);
        if pushed.is_err() {
            let detail = "the store is away and QoS 0 messages no longer fit in memory";
            let rejected = Rejected::new(Reason::WindowFull, "payload", detail);
            self.rejections.record(sender.as_ref().map_or(&topic, DeviceId::as_str), &rejected);
        }
        if !settled.is_empty() {
            self.link.acknowledge(settled);
        }
        self.link.has_arrived();
    }

    /// The event in a message; or who sent it, if that is clear, and what is wrong with it.
    fn understand(
        &mut self,
        topic: &str,
        payload: &[u8],
    ) -> Result<Event, (Option<DeviceId>, Rejected)> {
        let (device, kind) = self.router.route(topic).map_err(|rejected| (None, rejected))?;
        // A decoder that panics must not take the listener with it.
        let samples = std::panic::catch_unwind(AssertUnwindSafe(|| decode(kind, payload)));
        let samples = samples.unwrap_or_else(|_| {
            Err(Rejected::new(Reason::DecoderFailed, "payload", "the decoder panicked on it"))
        });
        match samples {
            Ok(samples) => {
                let received = self.stamp(&samples);
                Ok(Event { device, kind, received, samples })
            }
            Err(rejected) => Err((Some(device), rejected)),
        }
    }

    /// Now; but no two messages share an instant, nor do samples without a time of their own,
    /// which get the microseconds after it.
    fn stamp(&mut self, samples: &[Sample]) -> Timestamp {
        let received = self.clock.now().max(self.last_received.plus(Duration::from_micros(1)));
        let more = u64::try_from(samples.len().saturating_sub(1)).unwrap_or(u64::MAX);
        self.last_received = received.plus(Duration::from_micros(more));
        received
    }
}

/// Leaves properly: the broker keeps the session but publishes no will.
async fn say_goodbye(client: &AsyncClient, connection: &mut EventLoop) {
    if client.try_disconnect().is_err() {
        return;
    }
    let said = async {
        while !matches!(
            connection.poll().await,
            Err(_) | Ok(Activity::Outgoing(Outgoing::Disconnect))
        ) {}
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
