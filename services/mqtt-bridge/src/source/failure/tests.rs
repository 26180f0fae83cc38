//! Each class from what the client reports.

use super::*;

fn state(error: StateError) -> ConnectionError {
    ConnectionError::MqttState(error)
}

fn dismissed_for(reason_code: DisconnectReasonCode) -> ConnectionError {
    state(StateError::ServerDisconnect { reason_code, reason_string: None })
}

fn os(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

fn distrust() -> io::Error {
    let error = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Every way to fail, how long after CONNACK it happens, and its class.
fn table() -> Vec<(ConnectionError, Option<u64>, Class)> {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, TimedOut};
    let refused = ConnectionError::ConnectionRefused;
    let unresolved = io::Error::new(NotFound, Unresolved(os(NotFound)));
    let oversize = PacketError::PayloadSizeLimitExceeded { pkt_size: 2, max: 1 };
    let reset = || state(StateError::Deserialization(PacketError::Io(os(ConnectionReset))));
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
    let alert = io::Error::new(io::ErrorKind::InvalidData, alert);
    let bare = |code| {
        let error = io::Error::other(Dismissed(code));
        state(StateError::Deserialization(PacketError::Io(error)))
    };
    vec![
        (bare(0x8e), Some(1), Class::TakenOver),
        (bare(0x8b), Some(1), Class::Network),
        (bare(0x98), Some(60), Class::Kicked),
        (bare(0xff), Some(60), Class::Protocol),
        (refused(ConnectReturnCode::BadUserNamePassword), None, Class::Credentials),
        (refused(ConnectReturnCode::NotAuthorized), None, Class::Credentials),
        (dismissed_for(DisconnectReasonCode::NotAuthorized), Some(60), Class::Credentials),
        (refused(ConnectReturnCode::ClientIdentifierNotValid), None, Class::ClientId),
        (ConnectionError::Io(distrust()), None, Class::Tls),
        (state(StateError::Deserialization(PacketError::Io(alert))), None, Class::Tls),
        (ConnectionError::Io(os(ConnectionReset)), None, Class::Network),
        (ConnectionError::Io(unresolved), None, Class::Dns),
        (ConnectionError::Io(os(ConnectionRefused)), None, Class::Network),
        (ConnectionError::Io(os(TimedOut)), None, Class::Network),
        (state(StateError::AwaitPingResp), Some(60), Class::Network),
        (state(StateError::ConnectionAborted), Some(60), Class::Network),
        (reset(), Some(60), Class::Network),
        (dismissed_for(DisconnectReasonCode::ServerShuttingDown), Some(1), Class::Network),
        (state(StateError::ConnectionAborted), None, Class::Kicked),
        (state(StateError::ConnectionAborted), Some(1), Class::Kicked),
        (reset(), Some(1), Class::Kicked),
        (refused(ConnectReturnCode::ServerBusy), None, Class::Kicked),
        (dismissed_for(DisconnectReasonCode::AdministrativeAction), Some(60), Class::Kicked),
        (dismissed_for(DisconnectReasonCode::SessionTakenOver), Some(1), Class::TakenOver),
        (state(StateError::Deserialization(oversize)), Some(60), Class::PacketTooLarge),
        (dismissed_for(DisconnectReasonCode::PacketTooLarge), Some(60), Class::PacketTooLarge),
        (refused(ConnectReturnCode::UnsupportedProtocolVersion), None, Class::Protocol),
        (state(StateError::Unsolicited(7)), Some(60), Class::Protocol),
        (state(StateError::Deserialization(PacketError::MalformedPacket)), None, Class::Protocol),
    ]
}

#[test]
fn every_failure_has_its_class() {
    for (error, accepted, class) in table() {
        let failure = Failure::of(&error, accepted.map(Duration::from_secs));
        assert_eq!(failure.class, class, "{error:?} after {accepted:?}");
        assert!(!failure.reason.is_empty());
    }
}

#[test]
fn what_somebody_has_to_mend_is_tried_once_a_minute_and_the_rest_by_backoff() {
    for (_, _, class) in table() {
        let wait = class.wait(&mut Backoff::default());
        if matches!(class, Class::Dns | Class::Network | Class::Kicked | Class::Protocol) {
            assert!(wait < Duration::from_secs(2), "{class:?}");
        } else {
            assert!(wait >= Duration::from_mins(1), "{class:?}");
        }
    }
}

#[test]
fn names_are_snake_case_and_differ() {
    let names: std::collections::BTreeSet<_> =
        table().iter().map(|(_, _, class)| class.name()).collect();
    assert_eq!(names.len(), 9, "all but acl, which a SUBACK says: {names:?}");
    assert!(names.iter().all(|name| name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())));
}
