//! How a connection with the broker fails: which class of failure it is, what to do about it, and
//! how long to wait. Pure.

use std::{error::Error, io, time::Duration};

use rumqttc::{
    ConnectReturnCode, ConnectionError, DisconnectReasonCode, StateError,
    mqttbytes::Error as PacketError, tokio_rustls::rustls,
};

use crate::backoff::{Backoff, STABLE};

/// A failure, and what was said of it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) reason: String,
}

/// The classes of failure. Their names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Credentials,
    ClientId,
    Acl,
    Tls,
    Dns,
    Network,
    Kicked,
    TakenOver,
    PacketTooLarge,
    Protocol,
}

impl Class {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::ClientId => "client_id",
            Self::Acl => "acl",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::Network => "network",
            Self::Kicked => "kicked",
            Self::TakenOver => "taken_over",
            Self::PacketTooLarge => "packet_too_large",
            Self::Protocol => "protocol",
        }
    }

    /// What happened, as the log says it.
    fn what(self) -> &'static str {
        match self {
            Self::Credentials => "MQTT broker refused the credentials",
            Self::ClientId => "MQTT broker refused the client id",
            Self::Acl => "MQTT broker refused the subscription",
            Self::Tls => "MQTT broker and bridge do not agree on TLS",
            Self::TakenOver => "another client uses our MQTT_CLIENT_ID",
            Self::PacketTooLarge => "MQTT packet too large",
            Self::Dns | Self::Network | Self::Kicked | Self::Protocol => "MQTT connection lost",
        }
    }

    /// What somebody has to do, if it does not pass.
    fn fix(self) -> &'static str {
        match self {
            Self::Credentials => {
                "check MQTT_BACKEND_USERNAME and MQTT_BACKEND_PASSWORD against the broker's"
            }
            Self::ClientId => "choose another MQTT_CLIENT_ID",
            Self::Acl => "allow MQTT_BACKEND_USERNAME to read this topic in the broker's ACL",
            Self::Tls => {
                "check MQTT_CA_CERT, MQTT_CLIENT_CERT and MQTT_TLS_PORT, and that MQTT_HOST is a \
                 name in the broker's certificate"
            }
            Self::Dns => "check MQTT_HOST",
            Self::Network => "check that the broker runs, and MQTT_HOST and MQTT_PORT",
            Self::Kicked => "the broker's log says why it ends our connections",
            Self::TakenOver => "give each bridge a MQTT_CLIENT_ID of its own",
            Self::PacketTooLarge => "limit the size of packets at the broker to 1 MiB",
            Self::Protocol => "check that MQTT_HOST and MQTT_PORT are an MQTT 5 broker's",
        }
    }

    /// Whether it stays until somebody mends it: then trying again soon is of no use, and may do
    /// harm, as two clients with one id throw each other out.
    fn needs_mending(self) -> bool {
        match self {
            Self::Dns | Self::Network | Self::Kicked | Self::Protocol => false,
            Self::Credentials
            | Self::ClientId
            | Self::Acl
            | Self::Tls
            | Self::TakenOver
            | Self::PacketTooLarge => true,
        }
    }

    /// How long to wait before the next attempt.
    pub(super) fn wait(self, backoff: &mut Backoff) -> Duration {
        match self {
            // Not in step with the other one.
            Self::TakenOver => backoff.ceiling().mul_f64(1.0 + fastrand::f64() / 2.0),
            _ if self.needs_mending() => backoff.ceiling(),
            _ => backoff.next(),
        }
    }

    /// Says it in the log. The filter is the one that was refused, if that is what happened.
    pub(super) fn log(self, reason: &str, filter: Option<&str>, wait: Duration) {
        let (class, what, fix) = (self.name(), self.what(), self.fix());
        let retry_in_ms = wait.as_millis();
        if self.needs_mending() {
            tracing::error!(class, filter, reason, fix, retry_in_ms, "{what}");
        } else if self == Self::Network {
            tracing::info!(class, reason, fix, retry_in_ms, "{what}");
        } else {
            tracing::warn!(class, reason, fix, retry_in_ms, "{what}");
        }
    }
}

impl Failure {
    /// The failure behind an error of a connection that was accepted so long ago, if it was.
    pub(super) fn of(error: &ConnectionError, accepted: Option<Duration>) -> Self {
        let class = match error {
            ConnectionError::ConnectionRefused(code) => refused(*code),
            ConnectionError::MqttState(error) => broken(error, accepted),
            ConnectionError::Io(error) => of_io(error),
            ConnectionError::Timeout(_) => Class::Network,
            _ => Class::Protocol,
        };
        Self { class, reason: explained(error) }
    }

    /// The broker says nothing any more.
    pub(super) fn silence() -> Self {
        Self { class: Class::Network, reason: "the broker does not answer".to_owned() }
    }
}

/// By CONNACK.
fn refused(code: ConnectReturnCode) -> Class {
    match code {
        ConnectReturnCode::BadUserNamePassword
        | ConnectReturnCode::NotAuthorized
        | ConnectReturnCode::BadAuthenticationMethod => Class::Credentials,
        ConnectReturnCode::Banned
        | ConnectReturnCode::BadClientId
        | ConnectReturnCode::ClientIdentifierNotValid => Class::ClientId,
        ConnectReturnCode::PacketTooLarge => Class::PacketTooLarge,
        ConnectReturnCode::RefusedProtocolVersion
        | ConnectReturnCode::UnsupportedProtocolVersion
        | ConnectReturnCode::MalformedPacket
        | ConnectReturnCode::ProtocolError => Class::Protocol,
        _ => Class::Kicked,
    }
}

/// By DISCONNECT.
fn dismissed(code: DisconnectReasonCode) -> Class {
    match code {
        DisconnectReasonCode::SessionTakenOver => Class::TakenOver,
        DisconnectReasonCode::NotAuthorized => Class::Credentials,
        DisconnectReasonCode::PacketTooLarge => Class::PacketTooLarge,
        DisconnectReasonCode::ServerShuttingDown => Class::Network,
        DisconnectReasonCode::MalformedPacket
        | DisconnectReasonCode::ProtocolError
        | DisconnectReasonCode::ReceiveMaximumExceeded
        | DisconnectReasonCode::TopicAliasInvalid => Class::Protocol,
        _ => Class::Kicked,
    }
}

/// After the connection was made.
fn broken(error: &StateError, accepted: Option<Duration>) -> Class {
    let hung_up = || {
        let is_early = accepted.is_none_or(|accepted| accepted < STABLE);
        if is_early { Class::Kicked } else { Class::Network }
    };
    match error {
        StateError::ServerDisconnect { reason_code, .. } => dismissed(*reason_code),
        StateError::ConnFail { reason } => refused(*reason),
        StateError::IncomingPacketTooLarge { .. }
        | StateError::Deserialization(PacketError::PayloadSizeLimitExceeded { .. }) => {
            Class::PacketTooLarge
        }
        StateError::ConnectionAborted => hung_up(),
        StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)) => {
            match of_io(error) {
                Class::Network if is_hang_up(error) => hung_up(),
                class => class,
            }
        }
        StateError::AwaitPingResp => Class::Network,
        _ => Class::Protocol,
    }
}

/// By what the connection itself reports.
fn of_io(error: &io::Error) -> Class {
    match error.get_ref() {
        None => Class::Network,
        Some(cause) => match cause.downcast_ref() {
            Some(Dismissed(code)) => {
                DisconnectReasonCode::try_from(*code).map_or(Class::Protocol, dismissed)
            }
            None if cause.is::<rustls::Error>() => Class::Tls,
            None if cause.is::<Unresolved>() => Class::Dns,
            None => Class::Network,
        },
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    )
}

/// A host's name has no address.
#[derive(Debug)]
pub(super) struct Unresolved(pub(super) io::Error);

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Unresolved {}

/// The broker ended the connection with this reason code.
#[derive(Debug)]
pub(super) struct Dismissed(pub(super) u8);

impl std::fmt::Display for Dismissed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match DisconnectReasonCode::try_from(self.0) {
            Ok(reason) => write!(f, "{reason:?}"),
            Err(_) => write!(f, "unknown reason code {:#x}", self.0),
        }
    }
}

impl Error for Dismissed {}

/// What people are told: what the broker said, else what the client says.
fn explained(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code)
        | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => format!("{code:?}"),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            match reason_string {
                Some(text) => format!("{reason_code:?}: {text}"),
                None => format!("{reason_code:?}"),
            }
        }
        ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error))) => {
            error.to_string()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
