//! Any filter and topic, a line each: a device is found just where a naive matcher finds one.
//!
//! ```sh
//! cargo install cargo-fuzz && cd services/decode
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none topic fuzz/corpus/topic fuzz/seeds/topic -- \
//!     -max_len=4096 -max_total_time=600
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetry_decode::{Reason, Router, TopicFilter};
use telemetry_model::EventKind;

fuzz_target!(|lines: &str| {
    let Some((pattern, topic)) = lines.split_once('\n') else { return };
    let Ok(filter) = TopicFilter::parse("filter", pattern) else { return };
    assert_eq!(filter.as_str(), pattern);
    let mut router = Router::default();
    router.add(&[filter], EventKind::Telemetry);
    let (filter, levels): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), topic.split('/').collect());
    let is_hidden = topic.starts_with('$') && matches!(filter[0], "+" | "#");
    let matches = !is_hidden && is_match(&filter, &levels);
    match router.route(topic) {
        Ok((device, kind)) => {
            let first = filter.iter().position(|level| *level == "+").expect("has a place for it");
            assert!(matches && kind == EventKind::Telemetry && levels[first] == device.as_str());
        }
        Err(rejected) => {
            assert_eq!(rejected.reason == Reason::InvalidDeviceId, matches);
            assert_eq!(rejected.reason == Reason::UnknownTopic, !matches);
            assert_eq!(rejected.field, "topic");
        }
    }
});

/// Matching written the slow and obvious way.
fn is_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        ([], []) | (["#"], _) => true,
        (["+", filter @ ..], [_, topic @ ..]) => is_match(filter, topic),
        ([a, filter @ ..], [b, topic @ ..]) => a == b && is_match(filter, topic),
        _ => false,
    }
}
