//! Matching, as the specification's own examples and a naive matcher have it.

use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse("MQTT_TELEMETRY_TOPIC", text).unwrap()
}

#[test]
fn the_device_stands_at_the_first_plus_wherever_that_is() {
    for (pattern, topic, device) in [
        ("devices/+/telemetry", "devices/abc123/telemetry", "abc123"),
        ("+/telemetry", "abc123/telemetry", "abc123"),
        ("site/a/+", "site/a/abc123", "abc123"),
        ("site/+/device/+/t", "site/x/device/y/t", "x"),
        ("devices/+/#", "devices/abc123", "abc123"),
        ("devices/+/#", "devices/abc123/a/b", "abc123"),
        ("+/+", "/finance", ""),
        ("$share-me/+", "$share-me/abc123", "abc123"),
    ] {
        assert_eq!(filter(pattern).device_level(topic), Some(device), "{pattern} {topic}");
    }
}

#[test]
fn what_does_not_match_does_not() {
    for (pattern, topic) in [
        ("devices/+/telemetry", "devices/telemetry"),
        ("devices/+/telemetry", "devices/a/b/telemetry"),
        ("devices/+/telemetry", "devices/a/telemetry/"),
        ("devices/+/telemetry", "Devices/a/telemetry"),
        ("devices/+/telemetry", "/devices/a/telemetry"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("+/#", "$SYS/broker"),
        ("sport/+", "sport"),
    ] {
        assert_eq!(filter(pattern).device_level(topic), None, "{pattern} {topic}");
    }
}

#[test]
fn bad_filters_are_refused_by_name() {
    for text in ["", "devices/#", "a/b", "a+/b", "+/#/b", "+/a#", "+\0"] {
        let error = TopicFilter::parse("MQTT_TELEMETRY_TOPIC", text).unwrap_err();
        assert_eq!(error.field, "MQTT_TELEMETRY_TOPIC", "{text:?}");
    }
}

#[test]
fn routes_by_kind_and_rejects_the_rest_clearly() {
    let mut router = Router::default();
    router.add(&[filter("devices/+/telemetry"), filter("v2/+/t")], EventKind::Telemetry);
    router.add(&[filter("devices/+/heartbeat")], EventKind::Heartbeat);
    let (device, kind) = router.route("devices/abc123/telemetry").unwrap();
    assert_eq!((device.as_str(), kind), ("abc123", EventKind::Telemetry));
    assert_eq!(router.route("v2/x/t").unwrap().1, EventKind::Telemetry);
    assert_eq!(router.route("devices/abc123/heartbeat").unwrap().1, EventKind::Heartbeat);
    assert_eq!(router.route("devices/a/status").unwrap_err().reason, Reason::UnknownTopic);
    for topic in ["devices//telemetry", "devices/a b/telemetry", "devices/../telemetry"] {
        assert_eq!(router.route(topic).unwrap_err().reason, Reason::InvalidDeviceId, "{topic}");
    }
}

#[test]
fn ids_that_would_do_harm_elsewhere_are_rejected() {
    let mut router = Router::default();
    router.add(&[filter("devices/+/telemetry")], EventKind::Telemetry);
    let long = "x".repeat(60_000);
    for (id, reason) in [
        ("a/b", Reason::UnknownTopic),
        ("../..", Reason::UnknownTopic),
        ("", Reason::InvalidDeviceId),
        (".", Reason::InvalidDeviceId),
        ("..", Reason::InvalidDeviceId),
        ("#", Reason::InvalidDeviceId),
        ("a#", Reason::InvalidDeviceId),
        ("+", Reason::InvalidDeviceId),
        ("a\nb", Reason::InvalidDeviceId),
        ("a\0", Reason::InvalidDeviceId),
        ("\u{1b}[2J", Reason::InvalidDeviceId),
        ("\u{85}", Reason::InvalidDeviceId),
        ("a\u{202E}b", Reason::InvalidDeviceId),
        ("\u{FFFD}\u{FEFF}", Reason::InvalidDeviceId),
        (&long, Reason::InvalidDeviceId),
    ] {
        let rejected = router.route(&format!("devices/{id}/telemetry")).unwrap_err();
        assert_eq!((rejected.reason, rejected.field.as_str()), (reason, "topic"), "{id:?}");
        assert!(rejected.detail.len() < 100, "{}", rejected.detail);
        assert!(!rejected.detail.contains(char::is_control), "{:?}", rejected.detail);
    }
    let levels = format!("devices/{}telemetry", "/".repeat(60_000));
    assert_eq!(router.route(&levels).unwrap_err().reason, Reason::UnknownTopic);
}

/// Matching written the slow and obvious way.
fn naive(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        ([], []) | (["#"], _) => true,
        (["+", filter @ ..], [_, topic @ ..]) => naive(filter, topic),
        ([a, filter @ ..], [b, topic @ ..]) => a == b && naive(filter, topic),
        _ => false,
    }
}

proptest! {
    #[test]
    fn agrees_with_a_naive_matcher(
        pattern in "(\\+|a|\\$b|)(/(\\+|a|b|)){0,3}(/#)?",
        topic in "(a|\\$b|)(/(a|b|)){0,4}",
    ) {
        prop_assume!(!topic.is_empty());
        let Ok(parsed) = TopicFilter::parse("x", &pattern) else { return Ok(()) };
        let (levels, topics): (Vec<_>, Vec<_>) =
            (pattern.split('/').collect(), topic.split('/').collect());
        let hidden = topic.starts_with('$') && matches!(levels[0], "+" | "#");
        prop_assert_eq!(parsed.device_level(&topic).is_some(), !hidden && naive(&levels, &topics));
    }
}
