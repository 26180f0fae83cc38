//! A message that is good in part: the good is kept, the bad is named, nothing is made up.

use std::collections::BTreeMap;

use proptest::sample::select;

use super::*;

fn half_bad(payload: &str) -> (Vec<Sample>, Rejected) {
    let decoded = decode(EventKind::Telemetry, payload.as_bytes()).unwrap();
    (decoded.samples, decoded.rejected.unwrap())
}

#[test]
fn one_bad_value_costs_itself_alone() {
    let long_text = format!("\"{}\"", "x".repeat(5000));
    let long_key = "k".repeat(129);
    let deep = format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    let endless = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for (key, value, reason) in [
        ("z", long_text.as_str(), Reason::InvalidValue),
        ("z", r#""\u0000""#, Reason::InvalidValue),
        ("z", r#""\ud800""#, Reason::InvalidValue),
        ("z", "1e999", Reason::InvalidValue),
        ("z", "-1e999", Reason::InvalidValue),
        ("z", r#"{"\ud800":1}"#, Reason::InvalidValue),
        ("", "1", Reason::InvalidMetric),
        (" z", "1", Reason::InvalidMetric),
        ("z\\n", "1", Reason::InvalidMetric),
        (&long_key, "1", Reason::InvalidMetric),
        (&long_key, "{\"a\":1}", Reason::InvalidMetric),
        ("z", &deep, Reason::TooDeep),
        ("z", &endless, Reason::TooDeep),
    ] {
        let payload = format!(r#"{{"ts":60000,"a":1,"{key}":{value},"b":{{"c":2}}}}"#);
        let (samples, rejected) = half_bad(&payload);
        assert_eq!(samples, super::samples(r#"{"ts":60000,"a":1,"b":{"c":2}}"#), "{payload}");
        assert_eq!(rejected.reason, reason, "{payload}");
        assert!(!rejected.detail.contains("faults"), "{}", rejected.detail);
    }
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
    assert_eq!(one(&deep).measurements.len(), 1);
    let (samples, rejected) = half_bad(r#"{"e":{"t":1e999,"h":[1,"\u0000",3]}}"#);
    assert_eq!(
        shown(&samples[0]),
        [("e.h.0", Value::Integer(1)), ("e.h.2", Value::Integer(3))],
        "names are not shifted"
    );
    assert_eq!(rejected.field, "e.h.1");
    assert_eq!(rejected.detail, "must not contain NUL characters (the first of 2 faults)");
}

#[test]
fn one_bad_sample_costs_itself_alone() {
    let (samples, rejected) =
        half_bad(r#"[{"t":1},2,{"ts":"soon","t":3,"u":1e999},{"ts":60000,"t":4,"":5},null]"#);
    assert_eq!(samples, super::samples(r#"[{"t":1},{"ts":60000,"t":4}]"#));
    assert_eq!((rejected.reason, rejected.field.as_str()), (Reason::NotAnObject, "[1]"));
    assert_eq!(rejected.detail, "must be a JSON object (the first of 4 faults)");
    let (_, rejected) = half_bad(r#"[{"t":1},{"t":{"v":1e999}}]"#);
    assert_eq!((rejected.reason, rejected.field.as_str()), (Reason::InvalidValue, "[1].t.v"));
    assert_eq!(rejected.detail, "number out of range");
}

#[test]
fn of_too_much_no_part_is_kept() {
    let zeros = |n: usize| vec!["0"; n].join(",");
    let samples = |n: usize| vec![r#"{"t":1}"#; n].join(",");
    for (payload, field) in [
        (format!("[{}]", samples(1001)), "payload"),
        (format!(r#"{{"a":1,"b":[{}]}}"#, zeros(1000)), "b.999"),
        (format!(r#"[{{"t":1}},{{"b":[{}]}}]"#, zeros(1001)), "[1].b.1000"),
    ] {
        let rejected = decode(EventKind::Telemetry, payload.as_bytes()).unwrap_err();
        assert_eq!((rejected.reason, rejected.field.as_str()), (Reason::TooMany, field));
    }
    assert_eq!(super::samples(&format!("[{}]", samples(1000))).len(), 1000);
    let full = super::samples(&format!(r#"{{"b":[{}]}}"#, zeros(1000)));
    assert_eq!(full[0].measurements.len(), 1000);
    // What is at fault takes no one's place.
    let payload = format!(r#"{{"a":[1e999,""],"":0,"b":[{}]}}"#, zeros(999));
    assert_eq!(half_bad(&payload).0[0].measurements.len(), 1000);
}

/// A value, with the parts that are at fault marked.
#[derive(Clone, Debug)]
enum Tree {
    Good(i32),
    Bad(&'static str),
    Object(BTreeMap<String, Tree>),
    Array(Vec<Tree>),
}

impl Tree {
    /// As JSON; what is at fault becomes null, which says nothing, unless it is asked for.
    fn json(&self, with_bad: bool) -> String {
        match self {
            Self::Good(number) => number.to_string(),
            Self::Bad(text) if with_bad => (*text).to_owned(),
            Self::Bad(_) => "null".to_owned(),
            Self::Object(fields) => object(fields, with_bad),
            Self::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| item.json(with_bad)).collect();
                format!("[{}]", items.join(","))
            }
        }
    }

    fn has_fault(&self) -> bool {
        match self {
            Self::Good(_) => false,
            Self::Bad(_) => true,
            Self::Object(fields) => fields.values().any(Self::has_fault),
            Self::Array(items) => items.iter().any(Self::has_fault),
        }
    }

    /// Every value with its name, written the obvious way.
    fn named(&self, path: &str, all: &mut Vec<(String, Value)>) {
        match self {
            Self::Good(number) => all.push((path.to_owned(), Value::Integer((*number).into()))),
            Self::Bad(_) => {}
            Self::Object(fields) => {
                for (key, tree) in fields {
                    tree.named(&format!("{path}.{key}"), all);
                }
            }
            Self::Array(items) => {
                for (n, tree) in items.iter().enumerate() {
                    tree.named(&format!("{path}.{n}"), all);
                }
            }
        }
    }
}

fn object(fields: &BTreeMap<String, Tree>, with_bad: bool) -> String {
    let field = |(key, tree): (&String, &Tree)| format!(r#""{key}":{}"#, tree.json(with_bad));
    format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(","))
}

fn trees() -> impl Strategy<Value = Tree> {
    let bad = [r#""\ud800""#, r#""\u0000""#, "1e400", r#"{"":{" ":1e999}}"#, r#"{"\udfff":1}"#];
    let leaf = prop_oneof![3 => any::<i32>().prop_map(Tree::Good), 1 => select(bad.to_vec()).prop_map(Tree::Bad)];
    leaf.prop_recursive(4, 40, 5, |tree| {
        prop_oneof![
            prop::collection::btree_map("[a-s]{1,3}", tree.clone(), 0..5).prop_map(Tree::Object),
            prop::collection::vec(tree, 0..5).prop_map(Tree::Array),
        ]
    })
}

fn telemetry(payload: &str) -> Result<Decoded, Rejected> {
    decode(EventKind::Telemetry, payload.as_bytes())
}

proptest! {
    #[test]
    fn the_good_part_is_what_the_message_without_the_bad_parts_says(
        samples in prop::collection::vec(prop::collection::btree_map("[a-s]{1,3}", trees(), 0..6), 1..5),
        bad_times in prop::collection::vec(any::<bool>(), 5),
    ) {
        let (mut all, mut good, mut has_fault) = (Vec::new(), Vec::new(), false);
        for (fields, bad_time) in samples.iter().zip(bad_times) {
            let mut fields = fields.clone();
            if bad_time {
                good.push("{}".to_owned());
                fields.insert("ts".to_owned(), Tree::Bad("\"soon\""));
            } else {
                good.push(object(&fields, false));
            }
            has_fault |= fields.values().any(Tree::has_fault);
            all.push(object(&fields, true));
        }
        let (all, good) = (format!("[{}]", all.join(",")), format!("[{}]", good.join(",")));
        match (telemetry(&all), telemetry(&good)) {
            (Ok(all), Ok(good)) => {
                prop_assert_eq!(all.samples, good.samples);
                prop_assert_eq!(all.rejected.is_some(), has_fault);
                prop_assert_eq!(good.rejected, None);
            }
            (Err(all), Err(good)) => {
                prop_assert_eq!(good.reason, Reason::NoMeasurements);
                prop_assert_eq!(all.reason != Reason::NoMeasurements, has_fault);
            }
            (all, good) => prop_assert!(false, "{:?} but {:?}", all, good),
        }
    }

    #[test]
    fn every_measurement_stands_in_the_payload_and_every_good_one_comes_out(
        fields in prop::collection::btree_map("[a-s]{1,3}", trees(), 1..8),
    ) {
        let mut expected = Vec::new();
        for (key, tree) in &fields {
            tree.named(key, &mut expected);
        }
        let samples = telemetry(&object(&fields, true)).map_or(Vec::new(), |decoded| decoded.samples);
        let found = samples.iter().flat_map(|sample| &sample.measurements);
        let found: Vec<_> =
            found.map(|m| (m.metric.as_str().to_owned(), m.value.clone())).collect();
        prop_assert_eq!(found, expected);
    }
}
