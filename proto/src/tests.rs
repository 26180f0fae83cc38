//! Conversion: what is well formed survives the wire, what is not is refused by name.

use proptest::prelude::*;
use prost::Message as _;
use telemetry_model::{
    Cursor, Device, DeviceClock, DeviceCounts, DeviceFacts, DeviceId, Event, EventKind,
    Measurement, Message, MetricName, Partition, Presence, PresenceChange, PresenceReason, Reading,
    Refusal, Sample, Standing, StoredEvent, TimeSource, Timestamp, TraceParent, Value,
};

use super::*;

fn timestamps() -> impl Strategy<Value = Timestamp> {
    (Timestamp::MIN.micros()..=Timestamp::MAX.micros())
        .prop_map(|micros| Timestamp::from_micros(micros).unwrap())
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Value::Number),
        any::<i64>().prop_map(Value::Integer),
        any::<bool>().prop_map(Value::Flag),
        "[^\u{0}]{0,40}".prop_map(|text| Value::Text(text.into())),
    ]
}

fn measurements() -> impl Strategy<Value = Measurement> {
    ("[a-zäöü_.]{1,20}", values())
        .prop_map(|(name, value)| Measurement { metric: MetricName::parse(&name).unwrap(), value })
}

fn samples() -> impl Strategy<Value = Sample> {
    let clock = prop_oneof![
        Just(DeviceClock::None),
        timestamps().prop_map(DeviceClock::Wall),
        any::<u32>().prop_map(DeviceClock::Counter),
    ];
    (clock, prop::collection::vec(measurements(), 1..5))
        .prop_map(|(clock, measurements)| Sample { clock, measurements })
}

fn device() -> DeviceId {
    DeviceId::parse("fern-1").unwrap()
}

fn trace() -> Option<TraceParent> {
    TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").ok()
}

proptest! {
    #[test]
    fn messages_survive_the_wire(
        received in timestamps(),
        samples in prop::collection::vec(samples(), 1..4),
        (refused, half_bad) in any::<(bool, bool)>(),
    ) {
        let event = Event { device: device(), kind: EventKind::Telemetry, received, samples, trace: trace() };
        let refusal = refused.then(|| Refusal {
            device: Some(device()),
            kind: Some(EventKind::Telemetry),
            received,
            reason: "invalid_value".into(),
            field: "t".into(),
            detail: "must be finite".into(),
            payload: b"{}".into(),
        });
        let event = (!refused || half_bad).then_some(event);
        let message = Message { topic: "devices/fern-1/telemetry".into(), qos: 1, event, refusal };
        let bytes = v1::IngestEvent::from(&message).encode_to_vec();
        let wire = v1::IngestEvent::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(super::message(&wire).unwrap(), message);
    }

    #[test]
    fn log_records_survive_the_table(
        time in timestamps(),
        received in timestamps(),
        measured in prop::collection::vec(measurements(), 0..5),
    ) {
        let time_source = TimeSource::Uptime;
        let reading = |Measurement { metric, value }| Reading { metric, value, time, time_source };
        let event = StoredEvent {
            device: device(),
            cursor: Cursor { partition: Partition::new(3).unwrap(), position: 7 },
            kind: EventKind::Heartbeat,
            time,
            time_source,
            received,
            readings: measured.into_iter().map(reading).collect(),
            presence: Some(PresenceChange {
                state: Presence::Offline,
                previous: Presence::Online,
                since: time,
                reason: PresenceReason::Silence,
            }),
            trace: trace(),
        };
        let record = encode_log_record(event.clone());
        prop_assert_eq!(decode_log_record(&record, event.cursor).unwrap(), event);
    }

    #[test]
    fn arbitrary_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let cursor = Cursor { partition: Partition::new(0).unwrap(), position: 1 };
        drop(decode_log_record(&bytes, cursor));
    }
}

#[test]
fn what_is_malformed_is_named() {
    let time = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
    let measurement =
        v1::Measurement { metric: "t".to_owned(), value: Some(v1::measurement::Value::Integer(1)) };
    let sample = v1::Sample { clock: None, measurements: vec![measurement.clone()] };
    let good = v1::IngestEvent {
        device_id: "fern-1".to_owned(),
        kind: v1::EventKind::Telemetry.into(),
        received: time,
        samples: vec![sample],
        ..Default::default()
    };
    let refusal = |reason: &str| v1::Refusal { reason: reason.into(), ..Default::default() };
    assert!(message(&good).is_ok());
    let with_measurement = |measurement| v1::IngestEvent {
        samples: vec![v1::Sample { clock: None, measurements: vec![measurement] }],
        ..good.clone()
    };
    let text = "x".repeat(4097);
    for (wire, field) in [
        (v1::IngestEvent { device_id: String::new(), ..good.clone() }, "device_id"),
        (v1::IngestEvent { kind: 0, ..good.clone() }, "kind"),
        (v1::IngestEvent { kind: 99, ..good.clone() }, "kind"),
        (v1::IngestEvent { received: None, ..good.clone() }, "received"),
        (v1::IngestEvent { samples: vec![], ..good.clone() }, "samples"),
        (
            v1::IngestEvent { kind: v1::EventKind::Presence.into(), ..good.clone() },
            "samples[0].measurements",
        ),
        (v1::IngestEvent { qos: 3, ..good.clone() }, "qos"),
        (v1::IngestEvent { topic: "x".repeat(65_536), ..good.clone() }, "topic"),
        (v1::IngestEvent { refusal: Some(refusal("")), ..good.clone() }, "refusal.reason"),
        (
            with_measurement(v1::Measurement { metric: "\n".into(), ..measurement.clone() }),
            "samples[0].measurements[0].metric",
        ),
        (
            with_measurement(v1::Measurement { value: None, ..measurement.clone() }),
            "samples[0].measurements[0].value",
        ),
        (
            with_measurement(v1::Measurement {
                value: Some(v1::measurement::Value::Text(text)),
                ..measurement
            }),
            "samples[0].measurements[0].text",
        ),
    ] {
        assert_eq!(message(&wire).unwrap_err().field, field);
    }
    let late = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    assert_eq!(timestamp("end_time", late).unwrap_err().field, "end_time");
    let odd = prost_types::Timestamp { seconds: 0, nanos: -1 };
    assert_eq!(timestamp("end_time", odd).unwrap_err().field, "end_time");
    assert_eq!(duration("bucket_width", None).unwrap_err().field, "bucket_width");
}

#[test]
fn a_clock_that_is_behind_is_negative_in_both_parts() {
    let wire = |clock_skew_us| {
        let (first_seen, last_seen) = (Timestamp::EPOCH, Timestamp::EPOCH);
        let id = device();
        let device = Device {
            id,
            first_seen,
            last_seen,
            last_heartbeat: None,
            clock_skew_us,
            presence: Standing::default(),
            facts: DeviceFacts::default(),
            counts: DeviceCounts::default(),
        };
        v1::Device::from(device).clock_skew
    };
    assert_eq!(wire(None), None);
    let parts = wire(Some(-1_500_000)).unwrap();
    assert_eq!((parts.seconds, parts.nanos), (-1, -500_000_000));
    let parts = wire(Some(3_600_000_001)).unwrap();
    assert_eq!((parts.seconds, parts.nanos), (3600, 1000));
}
