//! How an event is kept in `device_log`: a `telemetry.v1.Event`, encoded. A reader of the table
//! needs nothing but the contract.

use prost::Message;
use telemetry_model::{Cursor, DeviceId, Invalid, StoredEvent};

use crate::{from_wire, v1};

/// A log record that this version cannot read.
#[derive(Debug)]
pub enum LogRecordError {
    /// It is not an encoded event.
    Malformed(prost::DecodeError),
    /// It is one, with a field that no version writes.
    Invalid(Invalid),
}

impl std::fmt::Display for LogRecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "malformed log record: {error}"),
            Self::Invalid(error) => write!(f, "invalid log record: {error}"),
        }
    }
}

impl std::error::Error for LogRecordError {}

/// The record of an event. Its cursor is kept beside it, not in it.
pub fn encode_log_record(event: StoredEvent) -> Vec<u8> {
    v1::Event::from(event).encode_to_vec()
}

/// The event in a record that stands at `cursor`.
pub fn decode_log_record(bytes: &[u8], cursor: Cursor) -> Result<StoredEvent, LogRecordError> {
    let wire = v1::Event::decode(bytes).map_err(LogRecordError::Malformed)?;
    stored_event(wire, cursor).map_err(LogRecordError::Invalid)
}

fn stored_event(wire: v1::Event, cursor: Cursor) -> Result<StoredEvent, Invalid> {
    Ok(StoredEvent {
        device: DeviceId::parse(&wire.device_id)?,
        cursor,
        kind: from_wire::stored_kind(&wire)?,
        time: from_wire::required_timestamp("time", wire.time)?,
        time_source: from_wire::time_source(wire.time_source())?,
        received: from_wire::required_timestamp("received", wire.received)?,
        trace: from_wire::trace_parent(&wire.trace_parent),
        presence: wire.presence.map(TryInto::try_into).transpose()?,
        readings: wire.readings.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
    })
}
