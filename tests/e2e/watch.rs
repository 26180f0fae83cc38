//! What a watch promises, by name.

use anyhow::ensure;
use e2e::{Database, System, events};
use telemetry_proto::v1::{Event, EventKind, reading::Value};

use crate::payloads::on_each_database;

on_each_database!(live_and_resumed, from_the_oldest);

fn values(events: &[Event]) -> Vec<i64> {
    let readings = events.iter().flat_map(|event| &event.readings);
    let integer = |value: &Option<Value>| match value {
        Some(Value::Integer(integer)) => *integer,
        other => panic!("not an integer: {other:?}"),
    };
    readings.map(|reading| integer(&reading.value)).collect()
}

fn lines(values: std::ops::Range<i64>) -> String {
    values.map(|value| format!("{{\"t\":{value}}}\n")).collect()
}

/// Ordered, unique, resumable, over a restart of the store; heartbeats come too.
async fn live_and_resumed(database: Database) -> anyhow::Result<()> {
    let mut system = System::start(database).await?;
    let topic = "devices/fern-1/telemetry";
    let (first, mut watch) = system.client().await?.watch("fern-1", "").await?;
    ensure!(first.caught_up && first.events.is_empty() && !first.cursor.is_empty());
    system.device().publish_lines(topic, 1, &lines(0..100))?;
    let (seen, cursor) = events(&mut watch, 100).await?;
    ensure!(values(&seen) == (0..100).collect::<Vec<_>>());

    system.restart_store().await?;
    system.device().publish_lines(topic, 1, &lines(100..200))?;
    let (first, mut watch) = system.client().await?.watch("fern-1", &cursor).await?;
    let mut resumed = first.events;
    let (more, _) = events(&mut watch, 100 - resumed.len()).await?;
    resumed.extend(more);
    ensure!(values(&resumed) == (100..200).collect::<Vec<_>>());

    system.device().publish("devices/fern-1/heartbeat", 0, b"{\"rssi\":-60}")?;
    let (beat, _) = events(&mut watch, 1).await?;
    ensure!(beat[0].kind() == EventKind::Heartbeat && beat[0].readings[0].metric == "rssi");
    Ok(())
}

/// From `0`, everything that is still in the log, once.
async fn from_the_oldest(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    system.device().publish_lines("devices/fern-1/telemetry", 1, &lines(0..50))?;
    system.device().publish_lines("devices/moss-1/telemetry", 1, &lines(0..50))?;
    client.readings_come("fern-1", 50).await?;
    let (first, _watch) = client.watch("fern-1", "0").await?;
    ensure!(first.caught_up && values(&first.events) == (0..50).collect::<Vec<_>>());
    Ok(())
}
