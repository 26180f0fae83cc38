//! A device as it is known: when it was heard of, whether it is there, what it says of itself.

use crate::{DeviceId, EventKind, TimeSource, Timestamp};

/// A device that has been heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// When its first message was received.
    pub first_seen: Timestamp,
    /// When its newest message was received.
    pub last_seen: Timestamp,
    /// When its newest heartbeat was received.
    pub last_heartbeat: Option<Timestamp>,
    /// How many microseconds its wall clock was ahead of the time of receipt when it last told one.
    pub clock_skew_us: Option<i64>,
    /// Whether it is there.
    pub presence: Standing,
    /// What its messages tell besides readings.
    pub facts: DeviceFacts,
    /// How many messages it sent, and what became of them.
    pub counts: DeviceCounts,
}

/// What a device's messages tell besides readings: of each, what was told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The version of its firmware.
    pub firmware: Option<String>,
    /// Its signal strength in dBm.
    pub rssi_dbm: Option<i64>,
    /// Its uptime in seconds, by its heartbeats.
    pub uptime_s: Option<i64>,
    /// How often its uptime was seen to begin anew.
    pub reboots: u64,
    /// How the time of its newest message was decided.
    pub time_source: Option<TimeSource>,
    /// What kind its newest message was of.
    pub last_kind: Option<EventKind>,
    /// The topic of that message.
    pub last_topic: Option<String>,
}

/// How many messages a device sent, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Messages that could be understood, at least in part.
    pub messages: u64,
    /// Readings stored.
    pub readings: u64,
    /// Readings that were there already.
    pub duplicates: u64,
    /// Messages that went to the quarantine, wholly or in part.
    pub quarantined: u64,
}

/// Whether a device is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Presence {
    /// We cannot say.
    #[default]
    Unknown,
    /// It was heard of lately.
    Online,
    /// It said that it leaves, or was silent for long while we listened.
    Offline,
}

/// Why a device's presence changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PresenceReason {
    /// It sent something.
    Heard,
    /// It was silent for long while we listened.
    Silence,
    /// It said so, or the broker in its name (its last will).
    LastWill,
    /// It was not heard of for long, but we did not listen all the time.
    NotListening,
}

/// The presence of a device as it was decided last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The presence.
    pub state: Presence,
    /// Since when, and why. Nothing as long as it was never decided.
    pub decided: Option<(Timestamp, PresenceReason)>,
}

impl Standing {
    /// Since when it is so.
    pub fn since(&self) -> Option<Timestamp> {
        self.decided.map(|(since, _)| since)
    }
}

/// A change of presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    /// What it is from then on.
    pub state: Presence,
    /// What it was before.
    pub previous: Presence,
    /// From when on.
    pub since: Timestamp,
    /// Why.
    pub reason: PresenceReason,
}

impl PresenceChange {
    /// The presence after it.
    pub fn standing(&self) -> Standing {
        Standing { state: self.state, decided: Some((self.since, self.reason)) }
    }
}
