//! Wire to model: everything that comes in is checked here, and the error names the field.

use std::time::Duration;

use prost::Message as _;
use telemetry_model::{
    ClientId, DeviceClock, DeviceId, Event, EventKind, Invalid, Listening, Measurement, Message,
    MetricName, ProcessId, Reading, Refusal, Sample, Sender, SenderReport, TimeRange, TimeSource,
    Timestamp, TraceParent, Value,
};

use crate::v1;

/// The longest topic, in bytes: MQTT's own limit.
const MAX_TOPIC_BYTES: usize = 65_535;
/// The longest payload of a refusal, in bytes.
const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// Nobody counts so far, and a million of these can still be added up.
const MAX_COUNT: u64 = 1 << 43;
/// What is kept of a text about a fault, in bytes.
const MAX_FAULT_BYTES: usize = 1024;

/// A message that a client wants settled.
pub fn message(wire: &v1::IngestEvent) -> Result<Message, Invalid> {
    let topic = wire.topic.as_str();
    if topic.len() > MAX_TOPIC_BYTES || topic.contains('\0') {
        let reason = format!("must be at most {MAX_TOPIC_BYTES} bytes, without NUL characters");
        return Err(Invalid::new("topic", reason));
    }
    let topic = topic.into();
    let qos = u8::try_from(wire.qos).ok().filter(|qos| *qos <= 2);
    let qos = qos.ok_or_else(|| Invalid::new("qos", "must be 0, 1 or 2"))?;
    let Some(refusal) = &wire.refusal else {
        return Ok(Message { topic, qos, event: Some(event(wire)?), refusal: None });
    };
    let refusal = self::refusal(wire, refusal).map_err(|error| error.within("refusal"))?;
    let event = if wire.samples.is_empty() { None } else { Some(event(wire)?) };
    Ok(Message { topic, qos, event, refusal: Some(refusal) })
}

fn refusal(wire: &v1::IngestEvent, refusal: &v1::Refusal) -> Result<Refusal, Invalid> {
    let v1::Refusal { reason, field, detail, payload } = refusal;
    if reason.is_empty() || reason.len() > 64 {
        return Err(Invalid::new("reason", "must be 1 to 64 bytes"));
    }
    if payload.len() > MAX_PAYLOAD_BYTES {
        let reason = format!("must be at most {MAX_PAYLOAD_BYTES} bytes, is {}", payload.len());
        return Err(Invalid::new("payload", reason));
    }
    Ok(Refusal {
        device: match wire.device_id.as_str() {
            "" => None,
            id => Some(DeviceId::parse(id)?),
        },
        kind: event_kind(wire.kind()).ok(),
        received: required_timestamp("received", wire.received)?,
        reason: clean(reason),
        field: clean(field),
        detail: clean(detail),
        payload: payload.clone(),
    })
}

/// Text about a fault: without NUL characters, which `PostgreSQL` cannot keep, and not too long.
fn clean(text: &str) -> String {
    let text = text.get(..text.floor_char_boundary(MAX_FAULT_BYTES)).unwrap_or(text);
    text.replace('\0', "\u{FFFD}")
}

/// Who sends.
pub fn sender(wire: &v1::Sender) -> Result<Sender, Invalid> {
    Ok(Sender {
        process: ProcessId::parse(&wire.process_id)?,
        client: ClientId::parse(&wire.client_id)?,
        started: required_timestamp("started", wire.started)?,
    })
}

/// What a sender told of itself.
pub fn report(wire: &v1::BridgeReport) -> SenderReport {
    let dropped = wire.dropped.iter().fold(0_u64, |sum, each| sum.saturating_add(each.count));
    SenderReport {
        received: wire.received.min(MAX_COUNT),
        dropped: dropped.min(MAX_COUNT),
        record: wire.encode_to_vec(),
        listening: wire.listening.as_ref().and_then(listening),
    }
}

/// What makes no sense counts as nothing told: a report is not worth refusing events for.
fn listening(wire: &v1::Listening) -> Option<Listening> {
    let since = required_timestamp("since", wire.since).ok()?;
    let through = required_timestamp("through", wire.through).ok()?;
    (since <= through).then_some(Listening { since, through, leaves: wire.leaves })
}

/// An event that a client wants stored.
fn event(wire: &v1::IngestEvent) -> Result<Event, Invalid> {
    let kind = event_kind(wire.kind())?;
    let samples = &wire.samples;
    let (least, most) = match kind {
        EventKind::Telemetry => (1, Event::MAX_SAMPLES),
        EventKind::Heartbeat => (0, 1),
        EventKind::Presence => (1, 1),
    };
    if !(least..=most).contains(&samples.len()) {
        let reason = format!("must hold {least} to {most} samples, holds {}", samples.len());
        return Err(Invalid::new("samples", reason));
    }
    let event = Event {
        device: DeviceId::parse(&wire.device_id)?,
        kind,
        received: required_timestamp("received", wire.received)?,
        samples: samples
            .iter()
            .enumerate()
            .map(|(n, wire)| sample(wire, kind).map_err(|e| e.within(format!("samples[{n}]"))))
            .collect::<Result<_, _>>()?,
        trace: trace_parent(&wire.trace_parent),
    };
    if kind == EventKind::Presence && event.status().is_none() {
        return Err(Invalid::new("samples[0].measurements", "must hold the flag `online`"));
    }
    Ok(event)
}

/// What is none counts as none: a trace is not worth refusing an event for.
pub(crate) fn trace_parent(text: &str) -> Option<TraceParent> {
    if text.is_empty() { None } else { TraceParent::parse(text).ok() }
}

fn event_kind(kind: v1::EventKind) -> Result<EventKind, Invalid> {
    match kind {
        v1::EventKind::Telemetry => Ok(EventKind::Telemetry),
        v1::EventKind::Heartbeat => Ok(EventKind::Heartbeat),
        v1::EventKind::Presence => Ok(EventKind::Presence),
        v1::EventKind::Unspecified => Err(Invalid::new("kind", "must be set")),
    }
}

/// The kinds in `field`, by their numbers.
pub fn event_kinds(field: &str, numbers: &[i32]) -> Result<Vec<EventKind>, Invalid> {
    let kind = |(n, number): (usize, &i32)| {
        let kind = v1::EventKind::try_from(*number).ok().and_then(|kind| event_kind(kind).ok());
        kind.ok_or_else(|| Invalid::new(format!("{field}[{n}]"), "is no kind of event"))
    };
    numbers.iter().enumerate().map(kind).collect()
}

fn sample(wire: &v1::Sample, kind: EventKind) -> Result<Sample, Invalid> {
    let count = wire.measurements.len();
    let least = usize::from(kind != EventKind::Heartbeat);
    if !(least..=Sample::MAX_MEASUREMENTS).contains(&count) {
        let most = Sample::MAX_MEASUREMENTS;
        let reason = format!("must hold {least} to {most}, holds {count}");
        return Err(Invalid::new("measurements", reason));
    }
    let clock = match wire.clock {
        None => DeviceClock::None,
        Some(v1::sample::Clock::Time(time)) => DeviceClock::Wall(timestamp("time", time)?),
        Some(v1::sample::Clock::Counter(count)) => DeviceClock::Counter(count),
    };
    let measurements = wire
        .measurements
        .iter()
        .enumerate()
        .map(|(n, wire)| measurement(wire).map_err(|e| e.within(format!("measurements[{n}]"))))
        .collect::<Result<_, _>>()?;
    Ok(Sample { clock, measurements })
}

fn measurement(wire: &v1::Measurement) -> Result<Measurement, Invalid> {
    use v1::measurement::Value as Wire;
    let metric = MetricName::parse(&wire.metric)?;
    let value = match &wire.value {
        None => return Err(Invalid::new("value", "must be set")),
        Some(Wire::Number(number)) => Value::number(*number)?,
        Some(Wire::Integer(integer)) => Value::Integer(*integer),
        Some(Wire::Flag(flag)) => Value::Flag(*flag),
        Some(Wire::Text(text)) => Value::text(text)?,
    };
    Ok(Measurement { metric, value })
}

/// A reading that a server sent or the log kept.
impl TryFrom<v1::Reading> for Reading {
    type Error = Invalid;

    fn try_from(wire: v1::Reading) -> Result<Self, Invalid> {
        use v1::reading::Value as Wire;
        let time_source = time_source(wire.time_source())?;
        let value = match wire.value {
            None => return Err(Invalid::new("value", "must be set")),
            Some(Wire::Number(number)) => Value::number(number)?,
            Some(Wire::Integer(integer)) => Value::Integer(integer),
            Some(Wire::Flag(flag)) => Value::Flag(flag),
            Some(Wire::Text(text)) => Value::text(&text)?,
        };
        Ok(Self {
            metric: MetricName::parse(&wire.metric)?,
            value,
            time: required_timestamp("time", wire.time)?,
            time_source,
        })
    }
}

pub(crate) fn stored_kind(wire: &v1::Event) -> Result<EventKind, Invalid> {
    event_kind(wire.kind())
}

pub(crate) fn time_source(source: v1::TimeSource) -> Result<TimeSource, Invalid> {
    match source {
        v1::TimeSource::Device => Ok(TimeSource::Device),
        v1::TimeSource::Uptime => Ok(TimeSource::Uptime),
        v1::TimeSource::Received => Ok(TimeSource::Received),
        v1::TimeSource::Unspecified => Err(Invalid::new("time_source", "must be set")),
    }
}

/// The instant in `field`, cut to the microsecond.
pub fn timestamp(field: &str, wire: prost_types::Timestamp) -> Result<Timestamp, Invalid> {
    let invalid = |reason| Invalid::new(field, reason);
    if !(0..1_000_000_000).contains(&wire.nanos) {
        return Err(invalid("nanos must be between 0 and 999999999"));
    }
    wire.seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(i64::from(wire.nanos / 1000)))
        .and_then(Timestamp::from_micros)
        .ok_or_else(|| invalid("must be between the years 0001 and 9999"))
}

pub(crate) fn required_timestamp(
    field: &str,
    wire: Option<prost_types::Timestamp>,
) -> Result<Timestamp, Invalid> {
    timestamp(field, wire.ok_or_else(|| Invalid::new(field, "must be set"))?)
}

/// The range between `start_time` and `end_time`, each open if unset.
pub fn time_range(
    start: Option<prost_types::Timestamp>,
    end: Option<prost_types::Timestamp>,
) -> Result<TimeRange, Invalid> {
    let start = start.map_or(Ok(Timestamp::MIN), |start| timestamp("start_time", start))?;
    let end = end.map_or(Ok(Timestamp::MAX), |end| timestamp("end_time", end))?;
    TimeRange::new(start, end)
}

/// The length of time in `field`, which must be set and not negative.
pub fn duration(field: &str, wire: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let wire = wire.ok_or_else(|| Invalid::new(field, "must be set"))?;
    Duration::try_from(wire).map_err(|_| Invalid::new(field, "must not be negative"))
}
