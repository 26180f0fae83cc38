//! What the bridge counts and knows of the broker's side, as it is told to the store.

use telemetry_proto::{
    v1::{BridgeReport, ConnectionFailures, LastFailure, ReasonCount, Subscription},
    wire_timestamp,
};

use crate::{
    delivery::{Delivery, Grant},
    window::Counts,
};

/// The report, but for how long we have listened.
pub(super) fn report(counts: &Counts, delivery: &Delivery) -> BridgeReport {
    let dropped = counts.dropped.iter();
    let failures = delivery.failures.iter();
    BridgeReport {
        received: counts.received,
        dropped: dropped
            .map(|(reason, count)| ReasonCount { reason: reason.to_string(), count: *count })
            .collect(),
        received_qos0: delivery.qos0,
        connected: delivery.connected,
        session_present: delivery.session_present,
        subscriptions: delivery.grants.iter().map(subscription).collect(),
        receive_maximum: delivery.receive_maximum.into(),
        unacknowledged_peak: u32::try_from(delivery.most_unacked).unwrap_or(u32::MAX),
        connection_failures: failures
            .map(|(class, count)| ConnectionFailures { class: (*class).to_owned(), count: *count })
            .collect(),
        last_failure: delivery.last_failure.as_ref().map(|failure| LastFailure {
            class: failure.class.to_owned(),
            reason: failure.reason.clone(),
            time: Some(wire_timestamp(failure.time)),
        }),
        listening: None,
    }
}

fn subscription(grant: &Grant) -> Subscription {
    let Grant { filter, answer } = grant;
    let qos = answer.as_ref().map_or(0, |qos| u32::from(*qos));
    Subscription { filter: filter.clone(), granted: answer.is_ok(), qos }
}
