//! Every payload that real devices send, and those that nobody should.

mod half_bad;
mod hostile;

use proptest::prelude::*;
use telemetry_model::Timestamp;

use super::*;

/// The samples of a payload without a fault.
fn samples(payload: &str) -> Vec<Sample> {
    let decoded = decode(EventKind::Telemetry, payload.as_bytes()).unwrap();
    assert_eq!(decoded.rejected, None, "{payload}");
    decoded.samples
}

fn one(payload: &str) -> Sample {
    let mut samples = samples(payload);
    assert_eq!(samples.len(), 1, "{payload}");
    samples.remove(0)
}

fn shown(sample: &Sample) -> Vec<(&str, Value)> {
    sample.measurements.iter().map(|m| (m.metric.as_str(), m.value.clone())).collect()
}

fn wall(text: &str) -> DeviceClock {
    DeviceClock::Wall(Timestamp::parse(text).unwrap())
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn the_specification_the_firmware_and_the_simulator() {
    let spec = one(
        r#"{"timestamp":"2026-01-07T12:00:00Z","soil_moisture":45.2,"temperature":22.5,"humidity":65.0,"light_level":800}"#,
    );
    assert_eq!(spec.clock, wall("2026-01-07T12:00:00Z"));
    assert_eq!(
        shown(&spec),
        [
            ("humidity", Value::Number(65.0)),
            ("light_level", Value::Integer(800)),
            ("soil_moisture", Value::Number(45.2)),
            ("temperature", Value::Number(22.5)),
        ]
    );
    let firmware = one(r#"{"timestamp":4294967295,"soil_moisture":45.2}"#);
    assert_eq!(firmware.clock, DeviceClock::Counter(u32::MAX));
    let simulator =
        one(r#"{"temperature":21.0,"light":512,"timestamp":"2026-01-07T12:00:00.123456Z"}"#);
    assert_eq!(simulator.clock, wall("2026-01-07T12:00:00.123456Z"));
}

#[test]
fn every_type_nested_or_not() {
    let sample = one(
        r#"{"a":{"b":{"c":1},"d":[1.5,null,true]},"s":"dry","n":null,"big":18446744073709551615,"neg":-3,"x":1e3}"#,
    );
    assert_eq!(sample.clock, DeviceClock::None);
    assert_eq!(
        shown(&sample),
        [
            ("a.b.c", Value::Integer(1)),
            ("a.d.0", Value::Number(1.5)),
            ("a.d.2", Value::Flag(true)),
            ("big", Value::Number(18_446_744_073_709_551_615.0)),
            ("neg", Value::Integer(-3)),
            ("s", text("dry")),
            ("x", Value::Number(1000.0)),
        ]
    );
}

#[test]
fn several_samples_in_one_message() {
    let payload = r#"[{"ts":1767787200123,"t":1},{"time":"2026-01-07 12:00:01","t":2},{"t":3}]"#;
    let clocks: Vec<_> = samples(payload).iter().map(|sample| sample.clock).collect();
    let expected =
        [wall("2026-01-07T12:00:00.123Z"), wall("2026-01-07T12:00:01Z"), DeviceClock::None];
    assert_eq!(clocks, expected);
}

#[test]
fn what_says_nothing_is_skipped() {
    assert_eq!(samples(r#"[{"t":1},{"ts":5},{},{"t":null}]"#).len(), 1);
    let sample = one(r#"{"timestamp":null,"time":60000,"ts":null,"t":1}"#);
    assert_eq!(sample.clock, DeviceClock::Counter(60_000));
    assert_eq!(shown(&sample), [("t", Value::Integer(1))]);
    let sample = one(r#"{"a":1,"a":2}"#);
    assert_eq!(shown(&sample), [("a", Value::Integer(2))]);
    assert_eq!(shown(&one(r#"{"Timestamp":5}"#)), [("Timestamp", Value::Integer(5))]);
}

#[test]
fn times_in_every_form() {
    let noon = "2026-01-07T12:00:00Z";
    for (json, expected) in [
        (r#""2026-01-07T12:00:00Z""#, wall(noon)),
        (r#""2026-01-07T12:00:00""#, wall(noon)),
        (r#""2026-01-07 12:00:00""#, wall(noon)),
        (r#""2026-01-07T13:00:00+01:00""#, wall(noon)),
        (r#""2026-01-07T12:00:00.123456789Z""#, wall("2026-01-07T12:00:00.123456Z")),
        (r#""2026-01-07T12:00:00.1234567890123456+00:00""#, wall("2026-01-07T12:00:00.123456Z")),
        (r#""2026-01-07 12:00:00.5""#, wall("2026-01-07T12:00:00.5Z")),
        (r#"" 2026-01-07T12:00Z ""#, wall(noon)),
        (r#""2026-01-07t12:00:00z""#, wall(noon)),
        (r#""2026-01-07T12:00:00+0000""#, wall(noon)),
        (r#""2026-01-07""#, wall("2026-01-07T00:00:00Z")),
        // A leap second is the second before it: nobody's clock has room for it.
        (r#""2016-12-31T23:59:60Z""#, wall("2016-12-31T23:59:59Z")),
        (r#""2016-12-31T23:59:60.25Z""#, wall("2016-12-31T23:59:59.25Z")),
        (r#""2017-01-01 00:59:60+01:00""#, wall("2016-12-31T23:59:59Z")),
        (r#""60000""#, DeviceClock::Counter(60_000)),
        (r#""1767787200.5""#, wall("2026-01-07T12:00:00.5Z")),
        ("1767787200", DeviceClock::Counter(1_767_787_200)),
        (r#""1767787200""#, DeviceClock::Counter(1_767_787_200)),
        ("1767787200.123", wall("2026-01-07T12:00:00.123Z")),
        ("1767787200.0", wall(noon)),
        ("1767787200123.5", wall("2026-01-07T12:00:00.1235Z")),
        (r#""1767787200123.456""#, wall("2026-01-07T12:00:00.123456Z")),
        ("1767787200123456.7", wall("2026-01-07T12:00:00.123456Z")),
        ("1767787200000", wall(noon)),
        ("1767787200000000", wall(noon)),
        ("1767787200000000000", wall(noon)),
        ("0", DeviceClock::Counter(0)),
        ("60000", DeviceClock::Counter(60_000)),
        ("60000.7", DeviceClock::Counter(60_000)),
        ("4294967296", wall("2106-02-07T06:28:16Z")),
        ("null", DeviceClock::None),
    ] {
        for key in TIME_KEYS {
            assert_eq!(one(&format!(r#"{{"{key}":{json},"t":1}}"#)).clock, expected, "{json}");
        }
    }
}

#[test]
fn what_cannot_be_understood_says_why_and_where() {
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(5000));
    let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
    let many = serde_json::to_string(&vec![1; 1001]).unwrap();
    let many = format!(r#"{{"a":{many}}}"#);
    let times = [
        r#""soon""#,
        "-1",
        "-1.5",
        r#""-1""#,
        r#""2026-13-01""#,
        r#""NaN""#,
        "true",
        "{}",
        "[1]",
        "1e300",
        r#""""#,
    ];
    let times = times.map(|json| (format!(r#"{{"timestamp":{json},"t":1}}"#), "timestamp"));
    let mut cases = vec![
        ("", Reason::EmptyPayload, "payload"),
        ("\u{1}", Reason::NotJson, "payload"),
        ("{\"a\":1", Reason::NotJson, "payload"),
        ("{\"a\":NaN}", Reason::NotJson, "payload"),
        ("{\"a\":1e999}", Reason::InvalidValue, "a"),
        ("42", Reason::NotAnObject, "payload"),
        ("\"online\"", Reason::NotAnObject, "payload"),
        ("[]", Reason::NoMeasurements, "payload"),
        ("{}", Reason::NoMeasurements, "payload"),
        ("[{},{\"ts\":1}]", Reason::NoMeasurements, "payload"),
        ("{\"ts\":1,\"a\":null}", Reason::NoMeasurements, "payload"),
        ("[{},2]", Reason::NotAnObject, "[1]"),
        ("[{},{\"ts\":\"x\",\"a\":1}]", Reason::InvalidTime, "[1].ts"),
        ("{\"\":1}", Reason::InvalidMetric, ""),
        ("{\"a\":{\"b\\n\":1}}", Reason::InvalidMetric, "a.b\n"),
        ("{\"a\":\"\\u0000\"}", Reason::InvalidValue, "a"),
        (&long, Reason::InvalidValue, "a"),
        (&many, Reason::TooMany, "a.1000"),
    ];
    cases.extend(times.iter().map(|(json, field)| (json.as_str(), Reason::InvalidTime, *field)));
    for (payload, reason, field) in cases {
        let rejected = decode(EventKind::Telemetry, payload.as_bytes()).unwrap_err();
        assert_eq!((rejected.reason, rejected.field.as_str()), (reason, field), "{payload}");
    }
    let rejected = decode(EventKind::Telemetry, deep.as_bytes()).unwrap_err();
    assert_eq!(rejected.reason, Reason::TooDeep);
    assert_eq!(decode(EventKind::Telemetry, b"\xff").unwrap_err().reason, Reason::NotUtf8);
}

#[test]
fn a_heartbeat_may_say_anything() {
    let decode = |payload: &[u8]| {
        let decoded = decode(EventKind::Heartbeat, payload).unwrap();
        assert_eq!(decoded.rejected, None);
        decoded.samples
    };
    for silent in [&b""[..], b"{}", b"online", b"\xff", b"42", b"[1]", b"null"] {
        assert_eq!(decode(silent), [], "{silent:?}");
    }
    let firmware = decode(br#"{"timestamp":60000,"uptime":60,"rssi":-67}"#);
    assert_eq!(firmware[0].clock, DeviceClock::Counter(60_000));
    assert_eq!(
        shown(&firmware[0]),
        [("rssi", Value::Integer(-67)), ("uptime", Value::Integer(60))]
    );
    let odd = decode(br#"{"timestamp":"soon","status":"online","":1}"#);
    assert_eq!(odd[0].clock, DeviceClock::None);
    assert_eq!(shown(&odd[0]), [("status", text("online"))]);
    let zeros = vec!["0"; 2000].join(",");
    let endless = decode(format!(r#"{{"ts":60000,"a":[{zeros}]}}"#).as_bytes());
    assert_eq!(endless[0].clock, DeviceClock::Counter(60_000));
    assert_eq!(endless[0].measurements, []);
}

proptest! {
    #[test]
    fn never_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(decode(EventKind::Telemetry, &payload));
        drop(decode(EventKind::Heartbeat, &payload));
    }
}
