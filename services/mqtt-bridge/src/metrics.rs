//! What the bridge counts, as metrics. All of it is counted elsewhere.
//!
//! | metric | label | |
//! |---|---|---|
//! | `telemetry_bridge_messages_received_total` | | messages taken or let go |
//! | `telemetry_bridge_messages_dropped_total` | `reason` | those let go |
//! | `telemetry_bridge_messages_in_flight` | | those that wait for the store |
//! | `telemetry_bridge_window_bytes` | | memory that these take, at most |
//! | `telemetry_bridge_rejected_total` | `reason` | messages not understood, let go or refused, or parts of them |
//! | `telemetry_bridge_connection_failures_total` | `class` | failures of the connection with the broker |
//! | `telemetry_bridge_subscribed` | | 1 while the broker grants every subscription |
//! | `telemetry_bridge_streaming` | | 1 while the store takes messages |
//!
//! Messages received = dropped + in flight + settled by the store, whose ledger says how.

use service_kit::metrics::{Page, Source};

use crate::link::Link;

impl Source for Link {
    async fn page(&self) -> Page {
        let (counts, in_flight, bytes) = {
            let window = self.window();
            (window.counts().clone(), window.in_flight(), window.bytes())
        };
        let failures = self.delivery().failures.clone();
        let mut page = Page::default();
        page.counter(
            "telemetry_bridge_messages_received_total",
            "Messages taken or let go.",
            counts.received,
        );
        page.counters(
            "telemetry_bridge_messages_dropped_total",
            "Messages let go.",
            "reason",
            counts.dropped,
        );
        page.gauge(
            "telemetry_bridge_messages_in_flight",
            "Messages that wait for the store.",
            in_flight as u64,
        );
        page.gauge(
            "telemetry_bridge_window_bytes",
            "Memory that messages in flight take, at most.",
            bytes as u64,
        );
        page.counters(
            "telemetry_bridge_rejected_total",
            "Messages not understood, let go or refused, or parts of them.",
            "reason",
            self.rejections().totals(),
        );
        page.counters(
            "telemetry_bridge_connection_failures_total",
            "Failures of the connection with the broker.",
            "class",
            failures,
        );
        page.gauge(
            "telemetry_bridge_subscribed",
            "1 while the broker grants every subscription.",
            self.is_subscribed().into(),
        );
        page.gauge(
            "telemetry_bridge_streaming",
            "1 while the store takes messages.",
            self.is_streaming().into(),
        );
        page
    }
}

#[cfg(test)]
mod tests {
    use telemetry_decode::{Reason, Rejected};
    use telemetry_model::{Message, Timestamp};

    use super::*;
    use crate::{rejected::Extent, window::Limits};

    #[tokio::test]
    async fn every_count_is_on_the_page_and_every_metric_in_the_table() {
        let link = Link::new(Limits { owed: 10, bytes: 10_000 });
        for _ in 0..2 {
            let message = Message { topic: "a".into(), qos: 0, event: None, refusal: None };
            link.window().push(message, None, 300).unwrap();
        }
        link.window().let_go(Reason::Retained, None);
        let rejected = Rejected::new(Reason::NotJson, "payload", "");
        link.rejections().record(None, "a", &rejected, Extent::Message);
        link.delivery().failed("tls", String::new(), Timestamp::EPOCH);
        link.set_streaming(true);
        let text = link.page().await.into_text();
        for line in [
            "messages_received_total 3",
            "messages_dropped_total{reason=\"retained\"} 1",
            "messages_in_flight 2",
            "window_bytes 600",
            "rejected_total{reason=\"not_json\"} 1",
            "connection_failures_total{class=\"tls\"} 1",
            "subscribed 0",
            "streaming 1",
        ] {
            assert!(text.contains(&format!("\ntelemetry_bridge_{line}\n")), "{line}:\n{text}");
        }
        let named = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for name in named.filter_map(|line| line.split(' ').next()) {
            assert!(include_str!("metrics.rs").contains(&format!("//! | `{name}` |")), "{name}");
        }
    }
}
