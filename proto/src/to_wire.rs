//! Model to wire: cannot fail.

use std::time::Duration;

use telemetry_model::{
    DeviceClock, EventKind, Measurement, Message, MetricName, Reading, Refusal, Sample, Sender,
    StoredEvent, TimeSource, Timestamp, TraceParent, Value,
};

use crate::v1;

impl From<&Message> for v1::IngestEvent {
    fn from(message: &Message) -> Self {
        let Message { topic, qos, event, refusal } = message;
        let event = event.as_ref();
        let refused = refusal.as_ref();
        let device = event.map(|e| &e.device).or(refused.and_then(|r| r.device.as_ref()));
        let kind = event.map(|e| e.kind).or(refused.and_then(|r| r.kind));
        let received = event.map(|e| e.received).or(refused.map(|r| r.received));
        Self {
            device_id: device.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            kind: kind.map_or(v1::EventKind::Unspecified, v1::EventKind::from).into(),
            received: received.map(wire_timestamp),
            samples: event.iter().flat_map(|e| &e.samples).map(Into::into).collect(),
            topic: topic.as_ref().to_owned(),
            qos: u32::from(*qos),
            refusal: refused.map(Into::into),
            trace_parent: trace_parent(event.and_then(|e| e.trace.as_ref())),
        }
    }
}

impl From<&Refusal> for v1::Refusal {
    fn from(refusal: &Refusal) -> Self {
        Self {
            reason: refusal.reason.clone(),
            field: refusal.field.clone(),
            detail: refusal.detail.clone(),
            payload: refusal.payload.clone(),
        }
    }
}

impl From<&Sender> for v1::Sender {
    fn from(sender: &Sender) -> Self {
        Self {
            process_id: sender.process.as_str().to_owned(),
            client_id: sender.client.as_str().to_owned(),
            started: Some(wire_timestamp(sender.started)),
        }
    }
}

impl From<&Sample> for v1::Sample {
    fn from(sample: &Sample) -> Self {
        let clock = match sample.clock {
            DeviceClock::None => None,
            DeviceClock::Wall(time) => Some(v1::sample::Clock::Time(wire_timestamp(time))),
            DeviceClock::Counter(count) => Some(v1::sample::Clock::Counter(count)),
        };
        Self { clock, measurements: sample.measurements.iter().map(Into::into).collect() }
    }
}

impl From<&Measurement> for v1::Measurement {
    fn from(measurement: &Measurement) -> Self {
        use v1::measurement::Value as Wire;
        let value = match &measurement.value {
            Value::Number(number) => Wire::Number(*number),
            Value::Integer(integer) => Wire::Integer(*integer),
            Value::Flag(flag) => Wire::Flag(*flag),
            Value::Text(text) => Wire::Text(text.as_ref().to_owned()),
        };
        Self { metric: measurement.metric.as_str().to_owned(), value: Some(value) }
    }
}

impl From<Reading> for v1::Reading {
    fn from(reading: Reading) -> Self {
        use v1::reading::Value as Wire;
        let value = match reading.value {
            Value::Number(number) => Wire::Number(number),
            Value::Integer(integer) => Wire::Integer(integer),
            Value::Flag(flag) => Wire::Flag(flag),
            Value::Text(text) => Wire::Text(text.as_ref().to_owned()),
        };
        Self {
            metric: reading.metric.as_str().to_owned(),
            value: Some(value),
            time: Some(wire_timestamp(reading.time)),
            time_source: v1::TimeSource::from(reading.time_source).into(),
        }
    }
}

impl From<StoredEvent> for v1::Event {
    fn from(event: StoredEvent) -> Self {
        Self {
            device_id: event.device.as_str().to_owned(),
            kind: v1::EventKind::from(event.kind).into(),
            time: Some(wire_timestamp(event.time)),
            time_source: v1::TimeSource::from(event.time_source).into(),
            received: Some(wire_timestamp(event.received)),
            readings: event.readings.into_iter().map(Into::into).collect(),
            presence: event.presence.map(Into::into),
            trace_parent: trace_parent(event.trace.as_ref()),
        }
    }
}

impl From<MetricName> for v1::Metric {
    fn from(name: MetricName) -> Self {
        Self { metric: name.as_str().to_owned() }
    }
}

impl From<EventKind> for v1::EventKind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Telemetry => Self::Telemetry,
            EventKind::Heartbeat => Self::Heartbeat,
            EventKind::Presence => Self::Presence,
        }
    }
}

impl From<TimeSource> for v1::TimeSource {
    fn from(source: TimeSource) -> Self {
        match source {
            TimeSource::Device => Self::Device,
            TimeSource::Uptime => Self::Uptime,
            TimeSource::Received => Self::Received,
        }
    }
}

fn trace_parent(trace: Option<&TraceParent>) -> String {
    trace.map(|trace| trace.as_str().to_owned()).unwrap_or_default()
}

/// A length of time in microseconds, which may be negative; then so are both parts.
pub(crate) fn signed_duration(micros: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: micros / 1_000_000,
        nanos: i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0),
    }
}

/// The length of time on the wire.
pub fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// The instant on the wire.
pub fn wire_timestamp(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
    }
}
