//! What a payload says: samples, and what in it cannot be understood. Pure.
//!
//! Telemetry is a JSON object, which is one sample, or an array of objects, which are several.
//! Keys are metrics; those of nested objects and the indices of nested arrays are joined with `.`;
//! null says nothing. If a key comes twice the last one counts, as in most parsers. The time stands
//! under `timestamp`, `ts` or `time`, see [`time`].
//!
//! What can be understood is kept, whatever stands beside it: a value that cannot costs itself, a
//! time that cannot costs its sample, which would else be stored under another time. But a message
//! with too many samples or measurements is rejected as a whole, since no part of it is better than
//! another. A heartbeat may say anything: what cannot be understood of it is not missed. A status
//! says one thing, see [`status`].

mod faults;
mod json;
mod status;
mod time;

use serde_json::{Value as Scalar, value::RawValue};
use telemetry_model::{
    DeviceClock, Event, EventKind, Invalid, Measurement, MetricName, Sample, Value,
};

use self::{
    faults::Faults,
    json::{Fields, Json},
};
use crate::{Reason, Rejected};

/// Objects and arrays may be nested so deep. Each level is read once more than the one around it,
/// so this also bounds what a payload costs: at most 25 ms a MiB, where one level takes 5 ms.
const MAX_DEPTH: usize = 16;
/// Where the time of a sample may stand, in order of preference. None of them is a metric.
const TIME_KEYS: [&str; 3] = ["timestamp", "ts", "time"];

/// What a payload says.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// What can be understood. Telemetry has one sample at least, each with a measurement.
    pub samples: Vec<Sample>,
    /// What cannot, if anything: the first fault in detail, with the number of the others.
    pub rejected: Option<Rejected>,
}

/// Reads a payload of this kind. Fails if there is nothing in it to keep; a heartbeat never does.
pub fn decode(kind: EventKind, payload: &[u8]) -> Result<Decoded, Rejected> {
    match kind {
        EventKind::Telemetry => telemetry(payload),
        EventKind::Heartbeat => Ok(Decoded { samples: heartbeat(payload), rejected: None }),
        EventKind::Presence => {
            Ok(Decoded { samples: vec![status::status(payload)?], rejected: None })
        }
    }
}

fn telemetry(payload: &[u8]) -> Result<Decoded, Rejected> {
    let reject = |reason, detail: &str| Err(Rejected::new(reason, "payload", detail));
    let (samples, faults) = match parse(payload)? {
        Json::Object(fields) => {
            let (sample, faults) = sample(&fields)?;
            (sample.into_iter().collect(), faults)
        }
        Json::Array(items) if items.len() > Event::MAX_SAMPLES => {
            let detail = format!("holds {} samples, more than {}", items.len(), Event::MAX_SAMPLES);
            return reject(Reason::TooMany, &detail);
        }
        Json::Array(items) => several(&items)?,
        Json::Scalar(_) => {
            return reject(Reason::NotAnObject, "must be a JSON object, or an array of them");
        }
    };
    match (samples.is_empty(), faults.into_rejected()) {
        (false, rejected) => Ok(Decoded { samples, rejected }),
        (true, Some(rejected)) => Err(rejected),
        (true, None) => {
            reject(Reason::NoMeasurements, "holds no number, flag or text besides its time")
        }
    }
}

fn heartbeat(payload: &[u8]) -> Vec<Sample> {
    let Ok(Json::Object(fields)) = parse(payload) else { return Vec::new() };
    let clock = clock(&fields).unwrap_or(DeviceClock::None);
    let measurements = measurements(&fields, &mut Faults::default()).unwrap_or_default();
    if measurements.is_empty() && clock == DeviceClock::None {
        return Vec::new();
    }
    vec![Sample { clock, measurements }]
}

fn parse(payload: &[u8]) -> Result<Json<'_>, Rejected> {
    let reject = |reason, detail: String| Err(Rejected::new(reason, "payload", detail));
    if payload.is_empty() {
        return reject(Reason::EmptyPayload, "is empty".to_owned());
    }
    let text = match std::str::from_utf8(payload) {
        Ok(text) => text,
        Err(error) => return reject(Reason::NotUtf8, error.to_string()),
    };
    match json::read(text) {
        Ok(json) => Ok(json),
        Err(error) => reject(Reason::NotJson, error.to_string()),
    }
}

fn several(items: &[&RawValue]) -> Result<(Vec<Sample>, Faults), Rejected> {
    let (mut samples, mut faults) = (Vec::with_capacity(items.len()), Faults::default());
    for (n, item) in items.iter().enumerate() {
        let path = format!("[{n}]");
        match json::read(item.get()) {
            Ok(Json::Object(fields)) => {
                let (sample, within) = sample(&fields).map_err(|fault| fault.within(&path))?;
                samples.extend(sample);
                faults.add_within(&path, within);
            }
            Ok(_) => {
                faults.add(Rejected::new(Reason::NotAnObject, &path, "must be a JSON object"));
            }
            Err(error) => faults.add(Rejected::new(Reason::NotJson, &path, json::reason(&error))),
        }
    }
    Ok((samples, faults))
}

/// The sample in an object, if it says something that can be understood, and what cannot.
fn sample(fields: &Fields<'_>) -> Result<(Option<Sample>, Faults), Rejected> {
    let mut faults = Faults::default();
    let clock = match clock(fields) {
        Ok(clock) => clock,
        Err(rejected) => {
            faults.add(rejected);
            return Ok((None, faults));
        }
    };
    let measurements = measurements(fields, &mut faults)?;
    let sample = (!measurements.is_empty()).then_some(Sample { clock, measurements });
    Ok((sample, faults))
}

fn clock(fields: &Fields<'_>) -> Result<DeviceClock, Rejected> {
    for key in TIME_KEYS {
        let clock = match fields.get(key).map(|value| json::read(value.get())) {
            None | Some(Ok(Json::Scalar(Scalar::Null))) => continue,
            Some(Ok(Json::Scalar(value))) => time::clock(&value),
            Some(_) => None,
        };
        return clock.ok_or_else(|| {
            let detail = "is not an ISO 8601 time, nor a number of s, ms, us or ns since 1970 or \
                          of ms since the device booted";
            Rejected::new(Reason::InvalidTime, key, detail)
        });
    }
    Ok(DeviceClock::None)
}

/// What all but the time says. Fails only if that is too much.
fn measurements(fields: &Fields<'_>, faults: &mut Faults) -> Result<Vec<Measurement>, Rejected> {
    let mut found = Vec::with_capacity(fields.len().min(Sample::MAX_MEASUREMENTS));
    for (key, value) in fields {
        if !TIME_KEYS.contains(&key.as_str()) {
            flatten(key, value, 1, &mut found, faults)?;
        }
    }
    Ok(found)
}

/// Finds the measurements in `value`, which stands at `path`. Fails only if there are too many.
fn flatten(
    path: &str,
    value: &RawValue,
    depth: usize,
    found: &mut Vec<Measurement>,
    faults: &mut Faults,
) -> Result<(), Rejected> {
    if depth > MAX_DEPTH {
        let detail = format!("is nested more than {MAX_DEPTH} levels deep");
        faults.add(Rejected::new(Reason::TooDeep, path, detail));
        return Ok(());
    }
    match json::read(value.get()) {
        Ok(Json::Scalar(Scalar::Null)) => {}
        Ok(Json::Scalar(value)) => match measurement(path, &value) {
            Ok(_) if found.len() == Sample::MAX_MEASUREMENTS => {
                let most = Sample::MAX_MEASUREMENTS;
                let detail = format!("is the first of more than {most} measurements");
                return Err(Rejected::new(Reason::TooMany, path, detail));
            }
            Ok(measurement) => found.push(measurement),
            Err(rejected) => faults.add(rejected),
        },
        // The names of what stands in it would be longer still, and each a copy of this one.
        Ok(_) if path.len() > MetricName::MAX_BYTES => {
            let detail = format!("must be at most {} bytes", MetricName::MAX_BYTES);
            faults.add(Rejected::new(Reason::InvalidMetric, path, detail));
        }
        Ok(Json::Object(fields)) => {
            for (key, value) in &fields {
                flatten(&format!("{path}.{key}"), value, depth + 1, found, faults)?;
            }
        }
        Ok(Json::Array(items)) => {
            for (n, value) in items.iter().enumerate() {
                flatten(&format!("{path}.{n}"), value, depth + 1, found, faults)?;
            }
        }
        Err(error) => {
            faults.add(Rejected::new(Reason::InvalidValue, path, json::reason(&error)));
        }
    }
    Ok(())
}

fn measurement(path: &str, value: &Scalar) -> Result<Measurement, Rejected> {
    let value = match value {
        Scalar::Bool(flag) => Ok(Value::Flag(*flag)),
        Scalar::String(text) => Value::text(text),
        Scalar::Number(number) => match number.as_i64() {
            Some(integer) => Ok(Value::Integer(integer)),
            None => Value::number(number.as_f64().unwrap_or(f64::NAN)),
        },
        Scalar::Null | Scalar::Array(_) | Scalar::Object(_) => {
            Err(Invalid::new("value", "must be a number, a flag or a text"))
        }
    };
    let reject = |reason| move |error: Invalid| Rejected::new(reason, path, error.reason);
    Ok(Measurement {
        metric: MetricName::parse(path).map_err(reject(Reason::InvalidMetric))?,
        value: value.map_err(reject(Reason::InvalidValue))?,
    })
}

#[cfg(test)]
mod tests;
