//! What nobody sends but to harm: it is rejected by name, in a time and space like its own length.

use super::*;

const MEBIBYTE: usize = 1024 * 1024;

/// A payload of a mebibyte: `part` again and again, between `open` and `close`.
fn filled(open: &str, part: &str, close: &str) -> String {
    let times = (MEBIBYTE - open.len() - close.len()) / part.len();
    format!("{open}{}{close}", part.repeat(times))
}

fn rejected(payload: impl AsRef<[u8]>) -> Rejected {
    let payload = payload.as_ref();
    let rejected = decode(EventKind::Telemetry, payload).unwrap_err();
    assert!(rejected.field.len() <= Rejected::MAX_FIELD_BYTES, "{}", rejected.field.len());
    assert!(rejected.detail.len() <= 256, "{}", rejected.detail);
    // As a heartbeat it is a sign of life all the same.
    assert_eq!(decode(EventKind::Heartbeat, payload).unwrap().rejected, None);
    rejected
}

#[test]
fn a_mebibyte_of_anything() {
    for (payload, reason) in [
        ("\0".repeat(MEBIBYTE), Reason::NotJson),
        (" ".repeat(MEBIBYTE), Reason::NotJson),
        ("9".repeat(MEBIBYTE), Reason::NotJson),
        (filled("\"", "x", "\""), Reason::NotAnObject),
        (filled("{\"a\":\"", "x", "\"}"), Reason::InvalidValue),
        (filled("{\"a\":\"", "\\u0000", "\"}"), Reason::InvalidValue),
        (filled("{\"a\":", "9", "}"), Reason::InvalidValue),
        (filled("{\"", "k", "\":1}"), Reason::InvalidMetric),
        (filled("{\"", "\\n", "\":1}"), Reason::InvalidMetric),
        (filled("[", "{},", "{}]"), Reason::TooMany),
        (filled("[", "0,", "0]"), Reason::TooMany),
        (filled("{\"a\":[", "0,", "0]}"), Reason::TooMany),
        (filled("{\"a\":[", "null,", "null]}"), Reason::NoMeasurements),
        (filled("{\"a\":[", "\"\\ud800\",", "1e999]}"), Reason::InvalidValue),
    ] {
        let start: String = payload.chars().take(20).collect();
        assert_eq!(rejected(&payload).reason, reason, "{start}");
    }
    assert_eq!(rejected(vec![0xff; MEBIBYTE]).reason, Reason::NotUtf8);
}

#[test]
fn a_long_key_is_not_repeated_for_all_that_stands_under_it() {
    let long = "k".repeat(MEBIBYTE / 2);
    for (open, part, close) in [
        (format!("{{\"{long}\":["), "0,", "0]}"),
        (format!("{{\"a\":{{\"{long}\":["), "[0],", "0]}}"),
        (format!("{{\"a\":[{{\"{long}\":{{\"b\":["), "{},", "0]}}]}"),
    ] {
        let rejected = rejected(filled(&open, part, close));
        assert_eq!(rejected.reason, Reason::InvalidMetric);
        assert_eq!(rejected.detail, "must be at most 128 bytes", "and is the only fault");
    }
}

#[test]
fn a_hundred_thousand_levels() {
    let nested = |open: &str, close: &str| {
        format!("{{\"a\":{}1{}}}", open.repeat(100_000), close.repeat(100_000))
    };
    for payload in [nested("[", "]"), nested("{\"k\":", "}"), nested("[{\"k\":", "}]")] {
        assert_eq!(rejected(payload).reason, Reason::TooDeep);
    }
    // Never closed.
    assert_eq!(rejected(filled("", "[", "")).reason, Reason::NotJson);
    assert_eq!(rejected(filled("", "{\"a\":", "")).reason, Reason::NotJson);
    // An item of an array is a sample, which must be an object.
    let payload = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(rejected(payload).reason, Reason::NotAnObject);
}

#[test]
fn ten_thousand_keys() {
    let keys = |key: &dyn Fn(usize) -> String| {
        let fields: Vec<_> = (0..10_000).map(|n| format!("\"{}\":{n}", key(n))).collect();
        format!("{{{}}}", fields.join(","))
    };
    assert_eq!(rejected(keys(&|n| format!("k{n}"))).reason, Reason::TooMany);
    let bad = rejected(keys(&|n| format!(" {n}")));
    assert_eq!(bad.reason, Reason::InvalidMetric);
    assert!(bad.detail.ends_with("(the first of 10000 faults)"), "{}", bad.detail);
    // The last one counts.
    assert_eq!(shown(&one(&keys(&|_| "k".into()))), [("k", Value::Integer(9999))]);
    let times = keys(&|_| "ts".into()).replace('}', ",\"t\":1}");
    assert_eq!(one(&times).clock, DeviceClock::Counter(9999));
}

#[test]
fn numbers_that_are_none_or_beyond_all_bounds() {
    for json in
        ["NaN", "nan", "Infinity", "-Infinity", "inf", "+1", "01", ".5", "1.", "0x10", "1_0"]
    {
        assert_eq!(rejected(format!("{{\"a\":{json}}}")).reason, Reason::NotJson, "{json}");
    }
    for json in ["1e309", "-1e309", "1e99999999999999999999"] {
        assert_eq!(rejected(format!("{{\"a\":{json}}}")).reason, Reason::InvalidValue, "{json}");
        let payload = format!("{{\"ts\":{json},\"a\":1}}");
        assert_eq!(rejected(payload).reason, Reason::InvalidTime, "{json}");
    }
    for (json, number) in [("1e-999", 0.0), ("0e99999999999999999999", 0.0), ("1e308", 1e308)] {
        assert_eq!(shown(&one(&format!("{{\"a\":{json}}}"))), [("a", Value::Number(number))]);
    }
    let digits = format!("{{\"a\":0.{}}}", "1".repeat(100_000));
    assert_eq!(shown(&one(&digits)), [("a", Value::Number(1.0 / 9.0))]);
}

#[test]
fn clocks_of_other_centuries_are_taken_at_their_word() {
    for (json, expected) in [
        (r#""1970-01-01T00:00:00Z""#, wall("1970-01-01T00:00:00Z")),
        (r#""2200-01-01T00:00:00Z""#, wall("2200-01-01T00:00:00Z")),
        ("7258118400", wall("2200-01-01T00:00:00Z")),
        ("7258118400000", wall("2200-01-01T00:00:00Z")),
        ("1", DeviceClock::Counter(1)),
        (r#""0001-01-01T00:00:00Z""#, wall("0001-01-01T00:00:00Z")),
    ] {
        assert_eq!(one(&format!(r#"{{"ts":{json},"t":1}}"#)).clock, expected, "{json}");
    }
    for json in [r#""+10000-01-01T00:00:00Z""#, "99999999999999999999", r#""9999-12-31T25:00Z""#] {
        let payload = format!(r#"{{"ts":{json},"t":1}}"#);
        assert_eq!(rejected(payload).reason, Reason::InvalidTime, "{json}");
    }
    let endless = format!(r#"{{"ts":"{}","t":1}}"#, "1".repeat(MEBIBYTE / 2));
    assert_eq!(rejected(endless).reason, Reason::InvalidTime);
}

#[test]
fn what_our_parser_means_by_a_key_a_sender_cannot_mean() {
    for key in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
        let sample = one(&format!(r#"{{"a":{{"{key}":"5"}}}}"#));
        assert_eq!(shown(&sample), [(format!("a.{key}").as_str(), text("5"))]);
        let payload = format!(r#"{{"ts":{{"{key}":"5"}},"t":1}}"#);
        assert_eq!(rejected(payload).reason, Reason::InvalidTime);
    }
}
