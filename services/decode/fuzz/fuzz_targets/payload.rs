//! Any payload, as telemetry and as a heartbeat: what comes out keeps its limits and is what a plain
//! JSON parser finds in it.
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
use telemetry_decode::{Decoded, Rejected, decode};
use telemetry_model::{EventKind, Sample, Value};

fuzz_target!(|payload: &[u8]| {
    let parsed = serde_json::from_slice(payload).ok();
    match decode(EventKind::Telemetry, payload) {
        Ok(decoded) => {
            assert!((1..=1000).contains(&decoded.samples.len()));
            assert!(decoded.samples.iter().all(|sample| !sample.measurements.is_empty()));
            check(&decoded, parsed.as_ref());
        }
        Err(rejected) => check_rejected(&rejected),
    }
    let heartbeat = decode(EventKind::Heartbeat, payload).expect("a heartbeat may say anything");
    assert!(heartbeat.samples.len() <= 1 && heartbeat.rejected.is_none());
    check(&heartbeat, parsed.as_ref());
});

fn check_rejected(rejected: &Rejected) {
    assert!(rejected.field.len() <= Rejected::MAX_FIELD_BYTES);
    assert!(!rejected.detail.is_empty() && rejected.detail.len() <= 512);
}

fn check(decoded: &Decoded, parsed: Option<&Json>) {
    decoded.rejected.iter().for_each(check_rejected);
    let expected = parsed.map(|json| match json {
        Json::Array(items) => items.iter().map(named).collect(),
        json => vec![named(json)],
    });
    for Sample { measurements, .. } in &decoded.samples {
        assert!(measurements.len() <= Sample::MAX_MEASUREMENTS);
        let found: BTreeSet<_> =
            measurements.iter().map(|m| (m.metric.to_string(), shown(&m.value))).collect();
        if let Some(expected) = &expected {
            assert!(expected.iter().any(|all| found.is_subset(all)), "made up: {found:?}");
        }
    }
}

/// Every value in a sample with its name.
fn named(sample: &Json) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for (key, value) in sample.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "timestamp" | "ts" | "time") {
            name(key, value, &mut all);
        }
    }
    all
}

fn name(path: &str, value: &Json, all: &mut BTreeSet<(String, String)>) {
    let value = match value {
        Json::Null => return,
        Json::Object(fields) => {
            return fields
                .iter()
                .for_each(|(key, value)| name(&format!("{path}.{key}"), value, all));
        }
        Json::Array(items) => {
            let items = items.iter().enumerate();
            return items.for_each(|(n, value)| name(&format!("{path}.{n}"), value, all));
        }
        Json::Bool(flag) => Value::Flag(*flag),
        Json::String(text) => Value::Text(text.as_str().into()),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Number(number.as_f64().expect("parsed as one")),
        },
    };
    all.insert((path.to_owned(), shown(&value)));
}

fn shown(value: &Value) -> String {
    format!("{value:?}")
}
