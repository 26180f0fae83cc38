//! Devices and their presence, to the wire and back.

use telemetry_model::{
    Device, DeviceCounts, DeviceFacts, Invalid, Presence, PresenceChange, PresenceReason, Standing,
};

use crate::{from_wire::required_timestamp, to_wire::signed_duration, v1, wire_timestamp};

impl From<Device> for v1::Device {
    fn from(device: Device) -> Self {
        let Standing { state, decided } = device.presence;
        let DeviceFacts { firmware, rssi_dbm, uptime_s, reboots, .. } = device.facts;
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        Self {
            device_id: device.id.as_str().to_owned(),
            first_seen: Some(wire_timestamp(device.first_seen)),
            last_seen: Some(wire_timestamp(device.last_seen)),
            last_heartbeat: device.last_heartbeat.map(wire_timestamp),
            clock_skew: device.clock_skew_us.map(signed_duration),
            presence: v1::Presence::from(state).into(),
            presence_since: decided.map(|(since, _)| wire_timestamp(since)),
            presence_reason: decided
                .map_or(v1::PresenceReason::Unspecified, |(_, reason)| reason.into())
                .into(),
            firmware: firmware.unwrap_or_default(),
            rssi_dbm,
            uptime: uptime_s.map(seconds),
            reboots,
            time_source: device
                .facts
                .time_source
                .map_or(v1::TimeSource::Unspecified, Into::into)
                .into(),
            counts: Some(device.counts.into()),
            last_kind: device.facts.last_kind.map_or(v1::EventKind::Unspecified, Into::into).into(),
            last_topic: device.facts.last_topic.unwrap_or_default(),
        }
    }
}

impl From<DeviceCounts> for v1::DeviceCounts {
    fn from(counts: DeviceCounts) -> Self {
        let DeviceCounts { messages, readings, duplicates, quarantined } = counts;
        Self { messages, readings, duplicates, quarantined }
    }
}

impl From<PresenceChange> for v1::PresenceChange {
    fn from(change: PresenceChange) -> Self {
        Self {
            state: v1::Presence::from(change.state).into(),
            previous: v1::Presence::from(change.previous).into(),
            since: Some(wire_timestamp(change.since)),
            reason: v1::PresenceReason::from(change.reason).into(),
        }
    }
}

/// A change that the log kept.
impl TryFrom<v1::PresenceChange> for PresenceChange {
    type Error = Invalid;

    fn try_from(wire: v1::PresenceChange) -> Result<Self, Invalid> {
        let must_be_set = |field| Invalid::new(field, "must be set");
        Ok(Self {
            state: presence(wire.state()).ok_or_else(|| must_be_set("state"))?,
            previous: presence(wire.previous()).ok_or_else(|| must_be_set("previous"))?,
            since: required_timestamp("since", wire.since)?,
            reason: match wire.reason() {
                v1::PresenceReason::Heard => PresenceReason::Heard,
                v1::PresenceReason::Silence => PresenceReason::Silence,
                v1::PresenceReason::LastWill => PresenceReason::LastWill,
                v1::PresenceReason::NotListening => PresenceReason::NotListening,
                v1::PresenceReason::Unspecified => return Err(must_be_set("reason")),
            },
        })
    }
}

/// The presence, if one is named.
pub fn presence(wire: v1::Presence) -> Option<Presence> {
    match wire {
        v1::Presence::Unspecified => None,
        v1::Presence::Unknown => Some(Presence::Unknown),
        v1::Presence::Online => Some(Presence::Online),
        v1::Presence::Offline => Some(Presence::Offline),
    }
}

impl From<Presence> for v1::Presence {
    fn from(presence: Presence) -> Self {
        match presence {
            Presence::Unknown => Self::Unknown,
            Presence::Online => Self::Online,
            Presence::Offline => Self::Offline,
        }
    }
}

impl From<PresenceReason> for v1::PresenceReason {
    fn from(reason: PresenceReason) -> Self {
        match reason {
            PresenceReason::Heard => Self::Heard,
            PresenceReason::Silence => Self::Silence,
            PresenceReason::LastWill => Self::LastWill,
            PresenceReason::NotListening => Self::NotListening,
        }
    }
}
