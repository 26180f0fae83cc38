//! Each case that people ask about, and the word that tells them what it is.

use telemetry_model::{DeviceCounts, DeviceFacts, Refusal};
use telemetry_proto::{
    v1::{BridgeReport, Hint},
    wire_timestamp,
};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_767_787_200 + seconds) * 1_000_000).unwrap()
}

fn device(state: Presence, reason: PresenceReason) -> Device {
    Device {
        id: DeviceId::parse("fern-1").unwrap(),
        first_seen: at(-5000),
        last_seen: at(-10),
        last_heartbeat: None,
        clock_skew_us: Some(5),
        presence: Standing { state, decided: Some((at(-9), reason)) },
        facts: DeviceFacts::default(),
        counts: DeviceCounts::default(),
    }
}

fn bridge(age: i64, connected: bool) -> SenderLedger {
    let hint = Hint { finding: "not connected with the broker".into(), fix: "see its log".into() };
    SenderLedger {
        client_id: "bridge".into(),
        updated: Some(wire_timestamp(at(-age))),
        report: Some(BridgeReport { connected, ..Default::default() }),
        hints: if connected { vec![] } else { vec![hint] },
        ..Default::default()
    }
}

fn rejection(seconds: i64) -> Quarantined {
    let id = DeviceId::parse("fern-1").unwrap();
    Quarantined {
        id: 1,
        topic: "devices/fern-1/telemetry".into(),
        qos: 1,
        partial: false,
        refusal: Refusal {
            device: Some(id),
            kind: None,
            received: at(seconds),
            reason: "not_json".into(),
            field: "payload".into(),
            detail: "expected value".into(),
            payload: vec![],
        },
    }
}

fn findings(
    device: Option<&Device>,
    rejection: Option<&Quarantined>,
    bridges: &[SenderLedger],
) -> Vec<Finding> {
    let id = DeviceId::parse("fern-1").unwrap();
    Case { id: &id, device, rejection, bridges, now: at(0) }.findings()
}

/// Fails unless the first finding is so severe and has all these words.
fn first(findings: &[Finding], severity: Severity, words: &[&str]) {
    let first = &findings[0];
    assert_eq!(first.severity(), severity, "{findings:?}");
    let text = format!("{}; {}", first.text, first.fix);
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {findings:?}");
}

#[test]
fn each_case_is_explained() {
    let well = [bridge(1, true)];
    let online = device(Presence::Online, PresenceReason::Heard);
    let healthy = findings(Some(&online), None, &well);
    first(&healthy, Severity::Info, &["online since", "10 s ago"]);
    assert!(healthy[1].text.contains("nothing is wrong"), "{healthy:?}");

    let silent = device(Presence::Offline, PresenceReason::Silence);
    first(&findings(Some(&silent), None, &well), Severity::Error, &["silent", "power"]);
    let gone = device(Presence::Offline, PresenceReason::LastWill);
    first(&findings(Some(&gone), None, &well), Severity::Error, &["status topic"]);
    let unknown = device(Presence::Unknown, PresenceReason::NotListening);
    first(&findings(Some(&unknown), None, &well), Severity::Warning, &["did not listen"]);

    let garbage = rejection(-2);
    let refused = findings(Some(&online), Some(&garbage), &well);
    first(&refused, Severity::Error, &["newest message was refused", "not_json", "payload"]);
    let earlier = findings(Some(&online), Some(&rejection(-60)), &well);
    first(&earlier, Severity::Warning, &["earlier message"]);

    let ahead = Device { clock_skew_us: Some(3_600_000_000), ..online.clone() };
    first(&findings(Some(&ahead), None, &well), Severity::Warning, &["60 min ahead", "NTP"]);

    first(&findings(Some(&online), None, &[bridge(1, false)]), Severity::Error, &["not connected"]);
    first(&findings(Some(&online), None, &[bridge(60, true)]), Severity::Error, &["not reported"]);
    let one_away = findings(Some(&online), None, &[bridge(1, true), bridge(60, true)]);
    first(&one_away, Severity::Warning, &["not reported"]);
    let one_removed = findings(Some(&online), None, &[bridge(1, true), bridge(4000, true)]);
    first(&one_removed, Severity::Info, &["online"]);
    let all_gone = findings(Some(&online), None, &[bridge(4000, true), bridge(5000, true)]);
    first(&all_gone, Severity::Error, &["not reported for 66 min"]);
    first(&findings(Some(&online), None, &[]), Severity::Error, &["no bridge", "mqtt-bridge"]);

    let stranger = findings(None, None, &well);
    first(&stranger, Severity::Error, &["ever received", "devices/fern-1/telemetry", "ACL"]);
    let garbler = findings(None, Some(&garbage), &well);
    first(&garbler, Severity::Error, &["last rejection"]);
}
