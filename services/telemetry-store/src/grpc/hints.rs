//! What a sender's report says about the delivery promise now: what falls short of the strongest one,
//! each with what to do about it. Pure.

use telemetry_proto::v1::{BridgeReport, Hint};

/// Mosquitto's limit of messages in flight unless it is told otherwise.
const STOCK_IN_FLIGHT: u32 = 20;

/// What falls short, most important first.
pub(super) fn hints(report: &BridgeReport) -> Vec<Hint> {
    let mut hints = Vec::new();
    let mut hint = |finding: String, fix: &str| hints.push(Hint { finding, fix: fix.to_owned() });
    if !report.connected {
        let last = report.last_failure.as_ref();
        let last = last.map(|failure| format!(": {}: {}", failure.class, failure.reason));
        let finding = format!("not connected with the broker{}", last.unwrap_or_default());
        hint(finding, "see the bridge's log for the remedy");
    }
    for subscription in &report.subscriptions {
        let filter = &subscription.filter;
        if report.connected && !subscription.granted {
            let finding = format!("the broker does not let us read {filter}");
            hint(finding, "allow MQTT_BACKEND_USERNAME to read it in the broker's ACL");
        } else if subscription.granted && subscription.qos == 0 {
            let finding = format!("the broker grants only QoS 0 for {filter}");
            hint(finding, "raise the broker's maximum QoS (max_qos in mosquitto.conf)");
        }
    }
    if report.received_qos0 > 0 {
        let percent = report.received_qos0.saturating_mul(100) / report.received.max(1);
        let finding = format!("{percent} % of the messages came with QoS 0, without a promise");
        hint(finding, "let devices publish with QoS 1; set queue_qos0_messages in mosquitto.conf");
    }
    if report.connected && !report.session_present {
        let finding = "the broker had no session of ours when we last connected".to_owned();
        let fix = "unless it was the first time: set persistence true, and do not let sessions \
                   expire early (persistent_client_expiration) in mosquitto.conf";
        hint(finding, fix);
    }
    let peak = report.unacknowledged_peak;
    if peak == STOCK_IN_FLIGHT && report.receive_maximum > STOCK_IN_FLIGHT {
        let finding = format!("the broker never had more than {peak} messages in flight to us");
        hint(finding, "set max_inflight_messages 0 in mosquitto.conf, or throughput stays low");
    }
    hints
}

#[cfg(test)]
mod tests {
    use telemetry_proto::v1::{LastFailure, Subscription};

    use super::*;

    fn good() -> BridgeReport {
        BridgeReport {
            received: 100,
            connected: true,
            session_present: true,
            subscriptions: vec![Subscription { filter: "a/+".into(), granted: true, qos: 1 }],
            receive_maximum: 10_000,
            unacknowledged_peak: 300,
            ..BridgeReport::default()
        }
    }

    fn fixes(report: &BridgeReport) -> String {
        hints(report).into_iter().map(|hint| format!("{}: {};", hint.finding, hint.fix)).collect()
    }

    #[test]
    fn what_is_well_needs_no_hint() {
        assert_eq!(fixes(&good()), "");
    }

    #[test]
    fn each_weakness_has_its_remedy() {
        let refused = Subscription { filter: "a/+".into(), granted: false, qos: 0 };
        let weak = Subscription { granted: true, ..refused.clone() };
        let last_failure = Some(LastFailure {
            class: "network".into(),
            reason: "connection refused".into(),
            time: None,
        });
        for (report, remedy) in [
            (
                BridgeReport { connected: false, last_failure, ..good() },
                "network: connection refused",
            ),
            (BridgeReport { subscriptions: vec![refused], ..good() }, "ACL"),
            (BridgeReport { subscriptions: vec![weak], ..good() }, "max_qos"),
            (BridgeReport { received_qos0: 25, ..good() }, "25 %"),
            (BridgeReport { session_present: false, ..good() }, "persistence true"),
            (BridgeReport { unacknowledged_peak: 20, ..good() }, "max_inflight_messages"),
        ] {
            assert!(fixes(&report).contains(remedy), "{remedy}: {}", fixes(&report));
        }
    }
}
