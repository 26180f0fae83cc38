//! What a message of a device becomes: an event on its way in, a stored event, its readings.

use crate::{Cursor, DeviceId, MetricName, Timestamp, Value};

/// What one message became: parsed, but not yet placed in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Who sent it.
    pub device: DeviceId,
    /// What kind of message it was.
    pub kind: EventKind,
    /// When the bridge received it; no two events of a device share one.
    pub received: Timestamp,
    /// What was measured; a heartbeat has one sample at most.
    pub samples: Vec<Sample>,
}

impl Event {
    /// The most samples one event may have.
    pub const MAX_SAMPLES: usize = 1000;
}

/// The two kinds of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Measurements.
    Telemetry,
    /// A sign of life: what it says of the device is shown, but is no reading.
    Heartbeat,
}

/// What a device measured at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What the device's clock said.
    pub clock: DeviceClock,
    /// The measurements.
    pub measurements: Vec<Measurement>,
}

impl Sample {
    /// The most measurements one sample may have.
    pub const MAX_MEASUREMENTS: usize = 1000;
}

/// What a message says of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceClock {
    /// Nothing.
    None,
    /// A wall-clock time.
    Wall(Timestamp),
    /// A bare count: milliseconds since boot, or seconds since 1970. Only the device's history
    /// tells which.
    Counter(u32),
}

/// One metric and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What was measured.
    pub metric: MetricName,
    /// What it measured.
    pub value: Value,
}

/// How the time of a reading was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeSource {
    /// By the device's wall clock.
    Device,
    /// From the device's uptime and the instant it booted.
    Uptime,
    /// It is the time of receipt: the device gave none that can be believed.
    Received,
}

/// One value of one metric of one device at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What was measured.
    pub metric: MetricName,
    /// What it measured.
    pub value: Value,
    /// When.
    pub time: Timestamp,
    /// How `time` was decided.
    pub time_source: TimeSource,
}

/// An event as the log keeps it and watches show it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Who sent it.
    pub device: DeviceId,
    /// Its position in the log.
    pub cursor: Cursor,
    /// What kind of message it was.
    pub kind: EventKind,
    /// When it happened; of several samples, the first.
    pub time: Timestamp,
    /// How `time` was decided.
    pub time_source: TimeSource,
    /// When the bridge received it.
    pub received: Timestamp,
    /// The readings it added; of a heartbeat, what the device said of itself.
    pub readings: Vec<Reading>,
}

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
}
