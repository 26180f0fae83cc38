//! What a watch promises, by name.

mod ends;
mod guarantees;
mod replicas;
mod selection;

use e2e::Device;
use telemetry_proto::v1::{Event, reading::Value};

/// The whole numbers in events, in their order.
fn values(events: &[Event]) -> Vec<i64> {
    let readings = events.iter().flat_map(|event| &event.readings);
    let integer = |value: &Option<Value>| match value {
        Some(Value::Integer(integer)) => *integer,
        other => panic!("not an integer: {other:?}"),
    };
    readings.map(|reading| integer(&reading.value)).collect()
}

/// Those of one device.
fn values_of(events: &[Event], device: &str) -> Vec<i64> {
    values(&events.iter().filter(|event| event.device_id == device).cloned().collect::<Vec<_>>())
}

fn lines(values: std::ops::Range<i64>) -> String {
    values.map(|value| format!("{{\"t\":{value}}}\n")).collect()
}

/// Publishes a message for each value.
fn publish(device: &Device, id: &str, values: std::ops::Range<i64>) -> anyhow::Result<()> {
    device.publish_lines(&format!("devices/{id}/telemetry"), 1, &lines(values))
}
