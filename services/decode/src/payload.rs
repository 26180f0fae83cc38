//! What a payload says: samples, or why it cannot be understood. Pure.
//!
//! Telemetry is a JSON object, which is one sample, or an array of objects, which are several.
//! Keys are metrics; those of nested objects and the indices of nested arrays are joined with `.`;
//! null says nothing. If a key comes twice the last one counts, as in most parsers. The time stands
//! under `timestamp`, `ts` or `time`, see [`time`]. One value that cannot be understood rejects the
//! message, but samples that say nothing are skipped as long as others say something. A heartbeat
//! may say anything: what can be understood of it is kept, the rest is not missed.

mod time;

use serde_json::{Map, Value as Json};
use telemetry_model::{
    DeviceClock, Event, EventKind, Invalid, Measurement, MetricName, Sample, Value,
};

use crate::rejected::{Reason, Rejected};

/// Objects and arrays may be nested so deep.
const MAX_DEPTH: usize = 32;
/// Where the time of a sample may stand, in order of preference. None of them is a metric.
const TIME_KEYS: [&str; 3] = ["timestamp", "ts", "time"];

/// The samples in a payload of this kind.
pub fn decode(kind: EventKind, payload: &[u8]) -> Result<Vec<Sample>, Rejected> {
    match kind {
        EventKind::Telemetry => telemetry(payload),
        EventKind::Heartbeat => Ok(heartbeat(payload)),
    }
}

fn telemetry(payload: &[u8]) -> Result<Vec<Sample>, Rejected> {
    let reject = |reason, detail: &str| Err(Rejected::new(reason, "payload", detail));
    let mut samples = match parse(payload)? {
        Json::Object(object) => vec![sample(&object)?],
        Json::Array(items) if items.len() > Event::MAX_SAMPLES => {
            let detail = format!("holds {} samples, more than {}", items.len(), Event::MAX_SAMPLES);
            return reject(Reason::TooMany, &detail);
        }
        Json::Array(items) => items.iter().enumerate().map(item).collect::<Result<_, _>>()?,
        _ => return reject(Reason::NotAnObject, "must be a JSON object, or an array of them"),
    };
    samples.retain(|sample| !sample.measurements.is_empty());
    if samples.is_empty() {
        let detail = "holds no number, flag or text besides its time";
        return reject(Reason::NoMeasurements, detail);
    }
    Ok(samples)
}

fn item((n, item): (usize, &Json)) -> Result<Sample, Rejected> {
    let path = format!("[{n}]");
    let Json::Object(object) = item else {
        return Err(Rejected::new(Reason::NotAnObject, path, "must be a JSON object"));
    };
    sample(object).map_err(|rejected| {
        let field = format!("{path}.{}", rejected.field);
        Rejected { field, ..rejected }
    })
}

fn heartbeat(payload: &[u8]) -> Vec<Sample> {
    let Ok(Json::Object(object)) = parse(payload) else { return Vec::new() };
    let clock = clock(&object).unwrap_or(DeviceClock::None);
    let mut measurements = Vec::new();
    for (key, value) in fields(&object) {
        let kept = measurements.len();
        if flatten(key, value, 1, &mut measurements).is_err() {
            measurements.truncate(kept);
        }
    }
    if measurements.is_empty() && clock == DeviceClock::None {
        return Vec::new();
    }
    vec![Sample { clock, measurements }]
}

fn parse(payload: &[u8]) -> Result<Json, Rejected> {
    let reject = |reason, detail: String| Err(Rejected::new(reason, "payload", detail));
    if payload.is_empty() {
        return reject(Reason::EmptyPayload, "is empty".to_owned());
    }
    let text = match std::str::from_utf8(payload) {
        Ok(text) => text,
        Err(error) => return reject(Reason::NotUtf8, error.to_string()),
    };
    match serde_json::from_str(text) {
        Ok(json) => Ok(json),
        Err(error) => reject(Reason::NotJson, error.to_string()),
    }
}

fn sample(object: &Map<String, Json>) -> Result<Sample, Rejected> {
    let clock = clock(object)?;
    let mut measurements = Vec::with_capacity(object.len());
    for (key, value) in fields(object) {
        flatten(key, value, 1, &mut measurements)?;
    }
    Ok(Sample { clock, measurements })
}

/// All but the time.
fn fields(object: &Map<String, Json>) -> impl Iterator<Item = (&str, &Json)> {
    let fields = object.iter().map(|(key, value)| (key.as_str(), value));
    fields.filter(|(key, _)| !TIME_KEYS.contains(key))
}

fn clock(object: &Map<String, Json>) -> Result<DeviceClock, Rejected> {
    let said = |key: &'static str| Some((key, object.get(key).filter(|value| !value.is_null())?));
    let Some((key, value)) = TIME_KEYS.into_iter().find_map(said) else {
        return Ok(DeviceClock::None);
    };
    time::clock(value).ok_or_else(|| {
        let detail = "is not an ISO 8601 time, nor a number of s, ms, us or ns since 1970 or of \
                      ms since the device booted";
        Rejected::new(Reason::InvalidTime, key, detail)
    })
}

/// Adds the measurements in `value`, which stands at `path`.
fn flatten(
    path: &str,
    value: &Json,
    depth: usize,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Rejected> {
    if depth > MAX_DEPTH {
        let detail = format!("is nested more than {MAX_DEPTH} levels deep");
        return Err(Rejected::new(Reason::TooDeep, path, detail));
    }
    let value = match value {
        Json::Null => return Ok(()),
        Json::Object(object) => {
            return object.iter().try_for_each(|(key, value)| {
                flatten(&format!("{path}.{key}"), value, depth + 1, measurements)
            });
        }
        Json::Array(items) => {
            return items.iter().enumerate().try_for_each(|(n, value)| {
                flatten(&format!("{path}.{n}"), value, depth + 1, measurements)
            });
        }
        Json::Bool(flag) => Ok(Value::Flag(*flag)),
        Json::String(text) => Value::text(text),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Ok(Value::Integer(integer)),
            None => Value::number(number.as_f64().unwrap_or(f64::NAN)),
        },
    };
    let reject = |reason| move |error: Invalid| Rejected::new(reason, path, error.reason);
    if measurements.len() == Sample::MAX_MEASUREMENTS {
        let detail = format!("is the first of more than {} measurements", Sample::MAX_MEASUREMENTS);
        return Err(Rejected::new(Reason::TooMany, path, detail));
    }
    measurements.push(Measurement {
        metric: MetricName::parse(path).map_err(reject(Reason::InvalidMetric))?,
        value: value.map_err(reject(Reason::InvalidValue))?,
    });
    Ok(())
}

#[cfg(test)]
mod tests;
