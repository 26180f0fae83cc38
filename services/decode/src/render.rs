//! The way back: an event as the JSON that it could have been.

use serde_json::{Map, Value as Json, json};
use telemetry_model::{DeviceClock, Event, Sample, Value};

/// A payload that [`crate::decode`] makes the same samples of.
pub fn render(event: &Event) -> Vec<u8> {
    let mut samples = event.samples.iter().map(sample);
    let json = match (samples.next(), event.samples.len()) {
        (Some(one), 1) => one,
        (first, _) => first.into_iter().chain(samples).collect(),
    };
    json.to_string().into_bytes()
}

fn sample(sample: &Sample) -> Json {
    let mut object = Map::new();
    match sample.clock {
        DeviceClock::None => {}
        DeviceClock::Wall(time) => _ = object.insert("timestamp".into(), json!(time.to_string())),
        DeviceClock::Counter(count) => _ = object.insert("timestamp".into(), json!(count)),
    }
    for measurement in &sample.measurements {
        let value = match &measurement.value {
            Value::Number(number) => json!(number),
            Value::Integer(integer) => json!(integer),
            Value::Flag(flag) => json!(flag),
            Value::Text(text) => json!(text.as_ref()),
        };
        object.insert(measurement.metric.as_str().to_owned(), value);
    }
    Json::Object(object)
}
