//! What we ask of a session: kept for a week, acknowledged by hand, bounded.

use std::{pin::Pin, time::Duration};

use rumqttc::{
    AckMode, IncomingPacketSizeLimit, MqttOptions, NetworkOptions, PersistedAckMode,
    PersistedSession, QoS, RetainForwardRule, SessionMode, SessionStore, SessionStoreError,
    SessionStoreKey, SubscribeFilter, TlsConfiguration, Transport,
};
use service_kit::secret::ExposeSecret;

use crate::settings::{Broker, Tls};

/// How many messages the broker may send ahead of our acknowledgements.
pub(super) const RECEIVE_MAXIMUM: u16 = 4096;
/// The largest packet we take. The broker drops larger ones instead of sending them.
const MAX_PACKET_BYTES: u32 = 256 * 1024;
/// How long the broker keeps the session while we are away.
const SESSION_EXPIRY: Duration = Duration::from_hours(7 * 24);
/// The keep-alive, in seconds.
const KEEP_ALIVE_S: u16 = 15;
/// We publish nothing, so nothing of ours is ever in flight.
const OUTGOING_IN_FLIGHT: u16 = 1;

/// What the client needs to know.
pub(super) fn options(broker: &Broker) -> anyhow::Result<MqttOptions> {
    let mut options =
        MqttOptions::new(broker.client_id.as_str(), (broker.host.as_str(), broker.port));
    // Acknowledgements are small and must not wait for each other.
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let expiry = u32::try_from(SESSION_EXPIRY.as_secs()).unwrap_or(u32::MAX);
    options
        .set_keep_alive(KEEP_ALIVE_S)
        .set_connect_timeout(Duration::from_secs(10))
        .set_session_mode(SessionMode::Persistent)
        .set_session_expiry_interval(Some(expiry))
        .set_session_store(NothingInFlight { client_id: broker.client_id.clone() })
        .set_outgoing_inflight_upper_limit(OUTGOING_IN_FLIGHT)
        .set_ack_mode(AckMode::Manual)
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(MAX_PACKET_BYTES));
    if let Some((username, password)) = &broker.credentials {
        options.set_credentials(username, password.expose_secret().to_owned());
    }
    if let Some(tls) = &broker.tls {
        options.set_transport(Transport::Tls(tls_configuration(tls)?));
    }
    Ok(options)
}

fn tls_configuration(tls: &Tls) -> anyhow::Result<TlsConfiguration> {
    let Some(ca) = &tls.ca else {
        return Ok(TlsConfiguration::try_default_rustls()?);
    };
    let client = tls.client.as_ref();
    Ok(TlsConfiguration::Simple {
        ca: ca.clone(),
        alpn: None,
        client_auth: client.map(|client| (client.certificate.clone(), client.key.clone())),
    })
}

/// A subscription at `QoS` 1, within the group if there is one. A retained message comes only when
/// the subscription is new, not at each reconnect.
pub(super) fn subscription(broker: &Broker, filter: &str) -> SubscribeFilter {
    let path = match &broker.shared_group {
        Some(group) => format!("$share/{group}/{filter}"),
        None => filter.to_owned(),
    };
    let mut subscription = SubscribeFilter::new(path, QoS::AtLeastOnce);
    subscription.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
    subscription
}

/// Tells the client what of ours was in flight when the last connection ended: nothing, as we only
/// subscribe. Without this answer it would not subscribe within a session that the broker kept,
/// and we could not find out whether we (still) may read.
#[derive(Debug)]
struct NothingInFlight {
    client_id: String,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for NothingInFlight {
    fn load<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: self.client_id.clone(),
            clean_start: false,
            session_expiry_interval: u32::try_from(SESSION_EXPIRY.as_secs()).ok(),
            outgoing_inflight_upper_limit: Some(OUTGOING_IN_FLIGHT),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(async { Ok(Some(session)) })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
