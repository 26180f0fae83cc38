//! What a message of a device becomes: an event on its way in, a stored event, its readings.

use crate::{Cursor, DeviceId, MetricName, PresenceChange, Timestamp, TraceParent, Value};

/// What one message became: parsed, but not yet placed in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Who sent it.
    pub device: DeviceId,
    /// What kind of message it was.
    pub kind: EventKind,
    /// When the bridge received it; no two events of a device share one.
    pub received: Timestamp,
    /// What was measured; a heartbeat has one sample at most, a status exactly one, see [`Status`].
    pub samples: Vec<Sample>,
    /// The span that it comes from, if somebody traces it.
    pub trace: Option<TraceParent>,
}

impl Event {
    /// Marks a status as one that the broker had kept; false if that takes all meaning from it.
    pub fn mark_retained(&mut self) -> bool {
        let says_gone = self.status().is_some_and(|status| !status.online);
        let Some(sample) = self.samples.first_mut().filter(|_| says_gone) else { return false };
        let Ok(metric) = MetricName::parse(Status::RETAINED) else { return false };
        sample.measurements.push(Measurement { metric, value: Value::Flag(true) });
        true
    }

    /// What a status says; nothing if it is of another kind.
    pub fn status(&self) -> Option<Status> {
        if self.kind != EventKind::Presence {
            return None;
        }
        let said = self.samples.iter().flat_map(|sample| &sample.measurements);
        let flag = |name| {
            let mut said = said.clone().filter(|m| m.metric.as_str() == name);
            said.find_map(|m| if let Value::Flag(flag) = m.value { Some(flag) } else { None })
        };
        Some(Status {
            online: flag(Status::ONLINE)?,
            retained: flag(Status::RETAINED) == Some(true),
        })
    }

    /// The most samples one event may have.
    pub const MAX_SAMPLES: usize = 1000;
}

/// What a device says of its presence, or the broker in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it is there.
    pub online: bool,
    /// Whether the broker had kept it, so that nobody knows of when it is.
    pub retained: bool,
}

impl Status {
    /// Under which names the only sample of a status has the two, as flags. The second may be left
    /// out.
    pub const ONLINE: &str = "online";
    /// The second name.
    pub const RETAINED: &str = "retained";
}

/// The kinds of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Measurements.
    Telemetry,
    /// A sign of life: what it says of the device is shown, but is no reading.
    Heartbeat,
    /// Whether the device is there: as a message what a status topic said, in the log a change.
    Presence,
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
    /// How the device's presence changed, if that is what happened.
    pub presence: Option<PresenceChange>,
    /// The span that stored it, if somebody traces it.
    pub trace: Option<TraceParent>,
}
