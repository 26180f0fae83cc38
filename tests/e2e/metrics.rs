//! What the metrics say is what happened, and what the ledger says.

use std::collections::BTreeMap;

use anyhow::ensure;
use e2e::{Database, OtlpReceiver, Process, System, eventually, free_port, health_becomes, scrape};
use telemetry_proto::v1::GetDeviceRequest;

use crate::payloads::on_each_database;

on_each_database!(metrics_are_the_ledger);

type Page = BTreeMap<String, u64>;

/// The sum of a metric over its labels.
fn sum(page: &Page, name: &str) -> u64 {
    page.iter().filter(|(key, _)| key.split('{').next() == Some(name)).map(|(_, value)| value).sum()
}

/// Fails unless all these metrics, whose names begin alike, have these values.
fn says(page: &Page, prefix: &str, expected: &[(&str, u64)]) -> anyhow::Result<()> {
    for (name, value) in expected {
        let found = page.get(&format!("{prefix}{name}"));
        ensure!(found == Some(value), "{prefix}{name} is {found:?}, not {value}: {page:?}");
    }
    Ok(())
}

async fn metrics_are_the_ledger(database: Database) -> anyhow::Result<()> {
    let mut system = System::start_store(database).await?;
    let device = system.device();
    device.publish_retained("devices/fern-2/telemetry", br#"{"t":1}"#)?;
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let good = r#"{"ts":"2026-10-07T12:00:00Z","t":1}"#;
    for payload in [good, good, r#"{"ts":"2026-10-07T12:00:00Z","t":2,"u":3}"#, "not json"] {
        device.publish("devices/fern-1/telemetry", 1, payload.as_bytes())?;
    }
    let settled = [
        ("messages_received_total", 5),
        ("messages_dropped_total{reason=\"retained\"}", 1),
        ("messages_in_flight", 0),
        ("window_bytes", 0),
        ("rejected_total{reason=\"not_json\"}", 1),
        ("subscribed", 1),
        ("streaming", 1),
    ];
    eventually("the bridge says that all is settled", async || {
        says(&scrape(&system.bridge_metrics()).await?, "telemetry_bridge_", &settled)
    })
    .await?;

    let client = system.client().await?;
    eventually("the store says what the ledger says", async || {
        let total = client.ledger_settles().await?;
        let page = scrape(&system.store_metrics()).await?;
        let messages = [
            ("stored\"}", total.stored),
            ("duplicate\"}", total.duplicate),
            ("quarantined\"}", total.quarantined),
            ("in_flight\"}", 0),
        ];
        says(&page, "telemetry_ledger_messages{outcome=\"", &messages)?;
        let readings = [("stored\"}", 2), ("duplicate\"}", 1), ("conflicting\"}", 1)];
        says(&page, "telemetry_ledger_readings{outcome=\"", &readings)?;
        says(&page, "telemetry_ledger_", &[("dropped{reason=\"retained\"}", 1), ("partial", 0)])?;
        let received = page["telemetry_ledger_received"];
        let became = sum(&page, "telemetry_ledger_messages");
        let dropped = sum(&page, "telemetry_ledger_dropped");
        ensure!(received == total.received);
        ensure!(received == 5 && became + dropped == received, "it does not balance: {page:?}");
        let batches = page["telemetry_store_append_seconds_count"];
        says(&page, "telemetry_store_", &[("serving", 1), ("batch_messages_count", batches)])?;
        ensure!(batches > 0, "{page:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_port_for_metrics_that_is_taken_is_said_before_anything_starts() -> anyhow::Result<()> {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let metrics =
        || ("METRICS_LISTEN", format!("127.0.0.1:{}", taken.local_addr().unwrap().port()));
    let folder = tempfile::TempDir::new()?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let database = format!("sqlite://{}/telemetry.db", folder.path().display());
    let store = [("DATABASE_URL", database), ("STORE_LISTEN", listen.clone()), metrics()];
    let password = ("MQTT_BACKEND_PASSWORD", String::new());
    let bridge = [password, ("BRIDGE_LISTEN", listen), metrics()];
    for (binary, variables) in [("telemetry-store", store), ("mqtt-bridge", bridge)] {
        let mut process = Process::start(binary, &variables)?;
        ensure!(process.ended().await?.code() == Some(1), "{:?}", process.log());
        process.logged("(METRICS_LISTEN)", 1).await?;
        process.logged(&format!("starting version={}", env!("CARGO_PKG_VERSION")), 1).await?;
        ensure!(process.log().len() == 2, "{:?}", process.log());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_scraped_is_pushed_too() -> anyhow::Result<()> {
    let receiver = OtlpReceiver::start().await?;
    let mut system = System::start_store(Database::Sqlite).await?;
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint().as_str()),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "600000"),
    ] {
        system.set_bridge(variable, value);
        system.set_of_store(variable, value);
    }
    system.restart_store().await?;
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let device = system.device();
    device.publish("devices/fern-1/telemetry", 1, br#"{"temperature":21}"#)?;
    system.client().await?.readings_come("fern-1", 1).await?;
    let mut page = scrape(&system.store_metrics()).await?;
    page.extend(scrape(&system.bridge_metrics()).await?);
    // Long before the next push: what is counted at the end is sent then.
    for mut process in [system.bridge.take(), system.store.take()].into_iter().flatten() {
        process.terminate()?;
        ensure!(process.ended().await?.success(), "{:?}", process.log());
    }
    let pushed = receiver.metrics();
    let names: Vec<_> = pushed.iter().map(|(_, metric)| metric.name.as_str()).collect();
    for name in page.keys().filter_map(|key| key.split('{').next()) {
        let parts = ["_bucket", "_sum", "_count"];
        let whole = parts.iter().find_map(|part| name.strip_suffix(part));
        let is_there = names.contains(&name) || whole.is_some_and(|name| names.contains(&name));
        ensure!(is_there, "{name} is not in {names:?}");
    }
    let taken = pushed.iter().find(|(service, metric)| {
        service == "mqtt-bridge" && metric.name == "telemetry_bridge_messages_received_total"
    });
    ensure!(format!("{taken:?}").contains("AsInt(1)"), "{taken:?}");
    Ok(())
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() -> anyhow::Result<()> {
    let system = System::start_store(Database::Sqlite).await?;
    let client = system.client().await?;
    let unknown = GetDeviceRequest { device_id: "nobody".into() };
    ensure!(client.query.clone().get_device(unknown).await.is_err(), "there is none");
    let page = scrape(&system.store_metrics()).await?;
    let method = "telemetry.v1.QueryService/GetDevice";
    for name in [
        format!("telemetry_store_calls_total{{method=\"{method}\",code=\"NotFound\"}}"),
        format!("telemetry_store_call_seconds_count{{method=\"{method}\"}}"),
    ] {
        ensure!(page.get(&name) == Some(&1), "{name}: {page:?}");
    }
    Ok(())
}
