//! Any payload, as telemetry and as a heartbeat: what comes out is what a plain JSON parser finds in
//! it, or a part of that if something is rejected.
//!
//! ```sh
//! cargo install cargo-fuzz && cd services/decode
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none payload fuzz/corpus/payload fuzz/seeds/payload -- \
//!     -max_len=4096 -max_total_time=600
//! ```
//!
//! `RUSTC_BOOTSTRAP` lets the stable compiler count what is covered. There is no unsafe code here
//! that a sanitizer could find at fault.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use serde_json::Value as Json;
use telemetry_decode::{Rejected, decode};
use telemetry_model::{Event, EventKind, Sample, Value};

/// The values of a sample with their names, as text.
type Said = BTreeSet<(String, String)>;

fuzz_target!(|payload: &[u8]| {
    let said = serde_json::from_slice(payload).ok().map(|json| said(&json));
    match decode(EventKind::Telemetry, payload) {
        Ok(decoded) => {
            assert!((1..=Event::MAX_SAMPLES).contains(&decoded.samples.len()));
            let found = found(&decoded.samples);
            assert!(found.iter().all(|sample| !sample.is_empty()));
            match (&decoded.rejected, &said) {
                (None, Some(said)) => assert_eq!(&found, said),
                // What is wrong with a time that another takes precedence over is not looked at.
                (None, None) => {}
                (Some(rejected), said) => {
                    check(rejected);
                    assert!(said.as_ref().is_none_or(|said| is_part(&found, said)));
                }
            }
        }
        Err(rejected) => check(&rejected),
    }
    let heartbeat = decode(EventKind::Heartbeat, payload).expect("a heartbeat may say anything");
    assert!(heartbeat.samples.len() <= 1 && heartbeat.rejected.is_none());
    let found = found(&heartbeat.samples);
    assert!(said.is_none_or(|said| is_part(&found, &said)));
});

fn check(rejected: &Rejected) {
    assert!(rejected.field.len() <= Rejected::MAX_FIELD_BYTES);
    assert!(!rejected.detail.is_empty() && rejected.detail.len() <= 512);
}

fn is_part(found: &[Said], said: &[Said]) -> bool {
    found.iter().all(|found| found.is_empty() || said.iter().any(|said| found.is_subset(said)))
}

fn found(samples: &[Sample]) -> Vec<Said> {
    let found = |sample: &Sample| {
        assert!(sample.measurements.len() <= Sample::MAX_MEASUREMENTS);
        let measurements = sample.measurements.iter();
        measurements.map(|m| (m.metric.to_string(), format!("{:?}", m.value))).collect()
    };
    samples.iter().map(found).collect()
}

/// What is said by the samples that say something.
fn said(json: &Json) -> Vec<Said> {
    let samples = json.as_array().map_or(std::slice::from_ref(json), Vec::as_slice);
    let mut said: Vec<_> = samples.iter().map(named).collect();
    said.retain(|sample| !sample.is_empty());
    said
}

fn named(sample: &Json) -> Said {
    let mut said = Said::new();
    for (key, value) in sample.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "timestamp" | "ts" | "time") {
            name(key, value, &mut said);
        }
    }
    said
}

fn name(path: &str, value: &Json, said: &mut Said) {
    let value = match value {
        Json::Null => return,
        Json::Object(fields) => {
            for (key, value) in fields {
                name(&format!("{path}.{key}"), value, said);
            }
            return;
        }
        Json::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                name(&format!("{path}.{n}"), value, said);
            }
            return;
        }
        Json::Bool(flag) => Value::Flag(*flag),
        Json::String(text) => Value::Text(text.as_str().into()),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Number(number.as_f64().expect("parsed as one")),
        },
    };
    said.insert((path.to_owned(), format!("{value:?}")));
}
