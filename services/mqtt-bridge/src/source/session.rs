//! What we ask of a session: kept for a week, acknowledged by hand, bounded.

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use rumqttc::{
    AckMode, IncomingPacketSizeLimit, MqttOptions, PersistedAckMode, PersistedSession, QoS,
    RetainForwardRule, SessionMode, SessionStore, SessionStoreError, SessionStoreKey,
    SubscribeFilter, TlsConfiguration,
    tokio_rustls::{
        TlsConnector,
        rustls::{
            ClientConfig, RootCertStore,
            crypto::aws_lc_rs,
            pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        },
    },
};
use service_kit::secret::ExposeSecret;

use super::socket::Encryption;
use crate::settings::{Broker, Tls, TlsFiles};

/// The largest packet we take. The broker drops larger ones instead of sending them.
const MAX_PACKET_BYTES: u32 = 1024 * 1024;
/// How long the broker keeps the session while we are away.
const SESSION_EXPIRY: Duration = Duration::from_hours(7 * 24);
/// The keep-alive, in seconds: the broker gives us up after one and a half times as long.
const KEEP_ALIVE_S: u16 = 10;
/// We publish nothing, so nothing of ours is ever in flight.
const OUTGOING_IN_FLIGHT: u16 = 1;
/// Acknowledgements that go out in one write.
const ACK_BATCH: usize = 64;
/// Packets that are read at a time. When a connection ends, the client forgets those that it read
/// together with the end.
const READ_BATCH: usize = 1;

/// What the client needs to know. Of `window` messages the broker need not await our
/// acknowledgement before it sends more.
pub(super) fn options(broker: &Broker, window: u16) -> MqttOptions {
    let mut options =
        MqttOptions::new(broker.client_id.as_str(), (broker.host.as_str(), broker.port));
    let expiry = u32::try_from(SESSION_EXPIRY.as_secs()).unwrap_or(u32::MAX);
    options
        .set_keep_alive(KEEP_ALIVE_S)
        .set_connect_timeout(Duration::from_secs(10))
        .set_session_mode(SessionMode::Persistent)
        .set_session_expiry_interval(Some(expiry))
        .set_session_store(NothingInFlight { client_id: broker.client_id.clone() })
        .set_outgoing_inflight_upper_limit(OUTGOING_IN_FLIGHT)
        .set_ack_mode(AckMode::Manual)
        .set_receive_maximum(Some(window))
        .set_max_request_batch(ACK_BATCH)
        .set_read_batch_size(READ_BATCH)
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(MAX_PACKET_BYTES));
    if let Some((username, password)) = &broker.credentials {
        options.set_credentials(username, password.expose_secret().to_owned());
    }
    options
}

/// How to speak TLS, if we do.
pub(super) fn encryption(host: &str, tls: Option<&TlsFiles>) -> anyhow::Result<Option<Encryption>> {
    let Some(tls) = tls else { return Ok(None) };
    let name = ServerName::try_from(host.to_owned()).context("MQTT_HOST")?;
    let connector = TlsConnector::from(tls_configuration(&tls.read()?)?);
    Ok(Some(Encryption { connector, name }))
}

/// Built here and not by the client, so that unusable files are found before anything starts.
fn tls_configuration(tls: &Tls) -> anyhow::Result<Arc<ClientConfig>> {
    let Some(ca) = &tls.ca else {
        let configuration = TlsConfiguration::try_default_rustls()
            .context("cannot load this system's certificate authorities: set MQTT_CA_CERT")?;
        let TlsConfiguration::Rustls(config) = configuration else {
            bail!("this system's certificate authorities cannot be used: set MQTT_CA_CERT");
        };
        return Ok(config);
    };
    let mut authorities = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(ca).collect::<Result<Vec<_>, _>>();
    authorities.add_parsable_certificates(certificates.context("MQTT_CA_CERT")?);
    ensure!(!authorities.is_empty(), "MQTT_CA_CERT holds no PEM certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities);
    let config = match &tls.client {
        None => config.with_no_client_auth(),
        Some(client) => {
            let chain = CertificateDer::pem_slice_iter(&client.certificate);
            let chain = chain.collect::<Result<Vec<_>, _>>().context("MQTT_CLIENT_CERT")?;
            let key = PrivateKeyDer::from_pem_slice(&client.key)
                .context("MQTT_CLIENT_KEY holds no usable PEM key")?;
            config
                .with_client_auth_cert(chain, key)
                .context("MQTT_CLIENT_CERT and MQTT_CLIENT_KEY do not make a pair")?
        }
    };
    Ok(Arc::new(config))
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
