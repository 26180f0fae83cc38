//! What the store counts, as metrics: the ledger as the database has it, and how storing goes.
//!
//! | metric | label | |
//! |---|---|---|
//! | `telemetry_store_connections_total` | `outcome` | `accepted`, of which some `failed` (no TLS) or were `pushed_out` before they made a call |
//! | `telemetry_store_serving` | | 1 while the database answers and stores |
//! | `telemetry_store_calls_total` | `method`, `code` | calls and streams that have ended; methods that there are not are `other` |
//! | `telemetry_store_calls_open` | `method` | those under way |
//! | `telemetry_store_call_seconds` | `method` | histogram of how long they took; streams, until they ended |
//! | `telemetry_store_watchers` | | open watches |
//! | `telemetry_store_watch_lag_seconds` | | histogram of the time from the receipt of an event to its delivery, in watches that have caught up |
//! | `telemetry_store_batch_messages` | | histogram of the sizes of batches that were to be stored |
//! | `telemetry_store_append_seconds` | | histogram of how long each took, waiting for the database and failing included |
//! | `telemetry_store_commit_seconds` | | histogram of how long each transaction took that was committed |
//! | `telemetry_devices` | `presence` | devices that are `online`, `offline`, or of which nobody can say (`unknown`) |
//! | `telemetry_ledger_received` | | messages received |
//! | `telemetry_ledger_messages` | `outcome` | what became of them: `stored`, `duplicate`, `quarantined`, `in_flight` |
//! | `telemetry_ledger_dropped` | `reason` | messages dropped |
//! | `telemetry_ledger_partial` | | messages stored of which a part is in the quarantine |
//! | `telemetry_ledger_readings` | `outcome` | `stored`, `duplicate`, `conflicting` |
//!
//! The devices, like the ledger, are read from the database, and the same from each replica.
//! Messages received = the sum of messages + the sum of dropped. These are the totals
//! of `GetLedger`, over all senders, and the same from each replica. They are at most a few seconds
//! old, and missing while the database does not answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use service_kit::{
    calls::Calls,
    health::Health,
    incoming::Counts,
    metrics::{Histogram, Page, Source},
};
use telemetry_model::Presence;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{grpc, hub::Hub, storage::Storage};

/// For how long the ledger is not read again, so that whoever asks often costs the database little.
const READ_EVERY: Duration = Duration::from_secs(5);
/// How long the database may take to answer.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Bounds of the histograms.
const MESSAGES: &[f64] = &[1.0, 10.0, 100.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0];
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// How storing went so far.
#[derive(Debug)]
pub(crate) struct Appends {
    messages: Histogram,
    seconds: Histogram,
    commits: Histogram,
}

impl Default for Appends {
    fn default() -> Self {
        let seconds = || Histogram::new(SECONDS);
        Self { messages: Histogram::new(MESSAGES), seconds: seconds(), commits: seconds() }
    }
}

impl Appends {
    /// Counts a batch of so many messages that took so long.
    pub(crate) fn record(&self, messages: usize, took: Duration) {
        // Reports without messages come every few seconds and would be most of it.
        if messages == 0 {
            return;
        }
        self.messages.observe(u32::try_from(messages).unwrap_or(u32::MAX).into());
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a transaction that was committed after so long.
    pub(crate) fn committed(&self, took: Duration) {
        self.commits.observe(took.as_secs_f64());
    }
}

/// The store's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) health: Health,
    pub(crate) appends: Arc<Appends>,
    pub(crate) connections: Arc<Counts>,
    pub(crate) hub: Hub,
    pub(crate) calls: Calls,
    /// The ledger's part of the page, and when it was read.
    pub(crate) ledger: Mutex<Option<(Instant, Page)>>,
}

impl Metrics {
    /// Those of a store that has nobody to serve.
    #[cfg(test)]
    pub(crate) fn alone(storage: Arc<dyn Storage>, health: Health, appends: Arc<Appends>) -> Self {
        Self {
            storage,
            health,
            appends,
            connections: Arc::default(),
            hub: Hub::default(),
            calls: grpc::calls(),
            ledger: Mutex::default(),
        }
    }

    /// What the ledger says. Whoever asks meanwhile waits for the same answer; that there is none
    /// is remembered as well.
    async fn ledger(&self) -> Page {
        let mut known = self.ledger.lock().await;
        if let Some((read_at, page)) = known.as_ref()
            && read_at.elapsed() < READ_EVERY
        {
            return page.clone();
        }
        let page = self.read_ledger().await;
        *known = Some((Instant::now(), page.clone()));
        page
    }

    async fn read_ledger(&self) -> Page {
        let mut page = Page::default();
        let accounts = match timeout(READ_TIMEOUT, self.storage.accounts()).await {
            Ok(Ok(accounts)) => accounts,
            Ok(Err(error)) => {
                tracing::warn!(%error, "no ledger for the metrics");
                return page;
            }
            Err(_) => {
                let timeout_ms = READ_TIMEOUT.as_millis();
                tracing::warn!(timeout_ms, "no ledger for the metrics: the database is silent");
                return page;
            }
        };
        let devices = timeout(READ_TIMEOUT, self.storage.presence()).await;
        if let Ok(Ok(found)) = devices {
            let states = [
                ("online", Presence::Online),
                ("offline", Presence::Offline),
                ("unknown", Presence::Unknown),
            ];
            let count = |state| found.iter().find(|(s, _)| *s == state).map_or(0, |(_, n)| *n);
            page.gauges(
                "telemetry_devices",
                "Devices by their presence.",
                "presence",
                states.map(|(name, state)| (name, count(state))),
            );
        }
        let total = grpc::ledger::of_all(&accounts);
        page.gauge("telemetry_ledger_received", "Messages received.", total.received);
        page.gauges(
            "telemetry_ledger_messages",
            "What became of messages received, other than dropped.",
            "outcome",
            [
                ("stored", total.stored),
                ("duplicate", total.duplicate),
                ("quarantined", total.quarantined),
                ("in_flight", total.in_flight),
            ],
        );
        page.gauges(
            "telemetry_ledger_dropped",
            "Messages dropped.",
            "reason",
            total.dropped.into_iter().map(|dropped| (dropped.reason, dropped.count)),
        );
        page.gauge(
            "telemetry_ledger_partial",
            "Messages stored of which a part is in the quarantine.",
            total.partial,
        );
        page.gauges(
            "telemetry_ledger_readings",
            "What became of readings.",
            "outcome",
            [
                ("stored", total.readings_stored),
                ("duplicate", total.readings_duplicate),
                ("conflicting", total.readings_conflicting),
            ],
        );
        page
    }
}

impl Source for Metrics {
    async fn page(&self) -> Page {
        let mut page = Page::default();
        page.gauge(
            "telemetry_store_serving",
            "1 while the database answers and stores.",
            self.health.is_serving().into(),
        );
        let Counts { accepted, failed_handshakes, pushed_out } = self.connections.as_ref();
        page.counters(
            "telemetry_store_connections_total",
            "Connections that came in.",
            "outcome",
            [("accepted", accepted), ("failed", failed_handshakes), ("pushed_out", pushed_out)]
                .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed))),
        );
        self.calls.write(&mut page, "telemetry_store");
        page.gauge("telemetry_store_watchers", "Open watches.", self.hub.watchers() as u64);
        page.histogram(
            "telemetry_store_watch_lag_seconds",
            "Time from the receipt of an event to its delivery, in watches that have caught up.",
            self.hub.lag(),
        );
        page.histogram(
            "telemetry_store_batch_messages",
            "Messages in a batch.",
            &self.appends.messages,
        );
        page.histogram(
            "telemetry_store_append_seconds",
            "How long storing a batch took, waiting and failing included.",
            &self.appends.seconds,
        );
        page.histogram(
            "telemetry_store_commit_seconds",
            "How long a transaction took that was committed.",
            &self.appends.commits,
        );
        page.append(&self.ledger().await);
        page
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::{error::Error, storage::fake::FakeStorage};

    const LEDGER: &str = "telemetry_ledger_received 0";

    #[tokio::test(start_paused = true)]
    async fn the_ledger_is_read_at_times_and_missing_while_it_cannot_be() {
        let storage = Arc::new(FakeStorage::new(0));
        let (health, _service) = Health::new(&[]).await;
        let shared = Arc::clone(&storage) as Arc<dyn Storage>;
        let metrics = Metrics::alone(shared, health, Arc::default());
        let has_ledger = async || metrics.page().await.into_text().contains(LEDGER);
        storage.fail_next(Error::Unavailable("on purpose".into()));
        assert!(!has_ledger().await);
        assert!(!has_ledger().await, "asked again at once");
        advance(READ_EVERY).await;
        assert!(has_ledger().await);
        let text = metrics.page().await.into_text();
        assert!(text.contains("telemetry_devices{presence=\"online\"} 7"), "{text}");
        assert!(text.contains("telemetry_devices{presence=\"offline\"} 0"), "{text}");
        storage.fail_next(Error::Unavailable("on purpose".into()));
        assert!(has_ledger().await, "asked again at once");
        advance(READ_EVERY).await;
        assert!(!has_ledger().await);
    }

    #[tokio::test]
    async fn batches_and_health_are_on_the_page_and_every_metric_in_the_table() {
        let storage: Arc<dyn Storage> = Arc::new(FakeStorage::new(0));
        let (health, _service) = Health::new(&[]).await;
        health.set(true).await;
        let appends = Arc::new(Appends::default());
        appends.record(30, Duration::from_millis(20));
        appends.record(0, Duration::from_millis(20));
        appends.committed(Duration::from_millis(4));
        let text = Metrics::alone(storage, health, appends).page().await.into_text();
        for line in [
            "serving 1",
            "batch_messages_bucket{le=\"10\"} 0",
            "batch_messages_bucket{le=\"100\"} 1",
            "batch_messages_sum 30",
            "append_seconds_bucket{le=\"0.01\"} 0",
            "append_seconds_bucket{le=\"0.025\"} 1",
            "append_seconds_count 1",
            "commit_seconds_count 1",
            "watchers 0",
        ] {
            assert!(text.contains(&format!("\ntelemetry_store_{line}\n")), "{line}:\n{text}");
        }
        let named = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for name in named.filter_map(|line| line.split(' ').next()) {
            assert!(include_str!("metrics.rs").contains(&format!("//! | `{name}` |")), "{name}");
        }
    }
}
