//! Ordered, unique, reliable, atomic, resumable, bookmarkable: each by its name, on both databases.

use anyhow::{Context, ensure};
use e2e::{Database, System, events};
use telemetry_proto::v1::{EventKind, WatchDeviceRequest, WatchDevicesRequest};

use super::{lines, publish, values, values_of};
use crate::payloads::on_each_database;

on_each_database!(
    ordered,
    unique,
    reliable,
    atomic,
    resumable,
    bookmarkable,
    live_and_resumed,
    from_the_oldest
);

const DEVICES: [&str; 4] = ["fern-1", "fern-2", "moss-1", "ivy-1"];

/// Events of a device come as they were committed, whatever the others do.
async fn ordered(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    let (_, mut watch) = client.watch_many(WatchDevicesRequest::default()).await?;
    for round in 0..5 {
        for id in DEVICES {
            publish(&system.device(), id, round * 50..(round + 1) * 50)?;
        }
    }
    let (seen, _) = events(&mut watch, 250 * DEVICES.len()).await?;
    for id in DEVICES {
        ensure!(values_of(&seen, id) == (0..250).collect::<Vec<_>>(), "{id}");
    }
    Ok(())
}

/// What is delivered twice, and stored once, is shown once.
async fn unique(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    let (_, mut one) = client.watch("fern-1", "").await?;
    let (_, mut many) = client.watch_many(WatchDevicesRequest::default()).await?;
    let topic = "devices/fern-1/telemetry";
    for n in 0..40 {
        let payload = format!("{{\"timestamp\":{},\"t\":{n}}}", 1_767_787_200 + n);
        for _ in 0..=n % 3 {
            system.device().publish(topic, 1, payload.as_bytes())?;
        }
    }
    publish(&system.device(), "fern-1", 40..41)?;
    for seen in [events(&mut one, 41).await?.0, events(&mut many, 41).await?.0] {
        ensure!(values(&seen) == (0..=40).collect::<Vec<_>>(), "{:?}", values(&seen));
    }
    Ok(())
}

/// A reader that does not read while far more comes than is held for it misses nothing, and one that
/// reads is not held up.
async fn reliable(database: Database) -> anyhow::Result<()> {
    const EVENTS: i64 = 6000;
    let system = System::start(database).await?;
    let client = system.client().await?;
    let slow = system.client().await?;
    let (_, mut slow_one) = slow.watch("fern-1", "").await?;
    let (_, mut slow_many) = slow.watch_many(WatchDevicesRequest::default()).await?;
    let (_, mut quick) = client.watch("fern-1", "").await?;
    let text = "x".repeat(200);
    let lines: String =
        (0..EVENTS).map(|n| format!("{{\"t\":{n},\"text\":\"{text}\"}}\n")).collect();
    system.device().publish_lines("devices/fern-1/telemetry", 1, &lines)?;
    let count = usize::try_from(EVENTS)?;
    let (quick, _) = events(&mut quick, count).await?;
    for mut seen in
        [quick, events(&mut slow_one, count).await?.0, events(&mut slow_many, count).await?.0]
    {
        for event in &mut seen {
            event.readings.retain(|reading| reading.metric == "t");
        }
        ensure!(values(&seen) == (0..EVENTS).collect::<Vec<_>>());
    }
    Ok(())
}

/// A message comes whole or not at all.
async fn atomic(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    let (_, mut watch) = client.watch_many(WatchDevicesRequest::default()).await?;
    for message in 0..20 {
        let sample = |n: i64| {
            let time = 1_767_787_200 + message * 100 + n;
            format!("{{\"timestamp\":{time},\"a\":{n},\"b\":{n},\"c\":{n}}}")
        };
        let samples: Vec<_> = (0..50).map(sample).collect();
        let payload = format!("[{}]", samples.join(","));
        system.device().publish("devices/fern-1/telemetry", 1, payload.as_bytes())?;
    }
    let (seen, _) = events(&mut watch, 20).await?;
    ensure!(seen.iter().all(|event| event.readings.len() == 150), "{:?}", seen.len());
    let stored = client.readings_come("fern-1", 3000).await?;
    ensure!(stored.len() == 3000, "shown before it was stored: {}", stored.len());
    Ok(())
}

/// From each cursor that was ever told, exactly what follows.
async fn resumable(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    let (first, mut watch) = client.watch_many(WatchDevicesRequest::default()).await?;
    let mut told = vec![(first.cursor, 0)];
    let mut seen = Vec::new();
    for round in 0..10 {
        for id in DEVICES {
            publish(&system.device(), id, round * 10..(round + 1) * 10)?;
        }
        let target = seen.len() + 10 * DEVICES.len();
        while seen.len() < target {
            let (more, cursor) = events(&mut watch, 1).await?;
            seen.extend(more);
            told.push((cursor, seen.len()));
        }
    }
    for (after_cursor, count) in told {
        let request = WatchDevicesRequest { after_cursor, ..Default::default() };
        let (first, mut watch) = client.watch_many(request).await?;
        let mut rest = first.events;
        let missing = (seen.len() - count).saturating_sub(rest.len());
        rest.extend(events(&mut watch, missing).await?.0);
        for id in DEVICES {
            let before = values_of(&seen[..count], id).len();
            ensure!(values_of(&rest, id) == values_of(&seen, id)[before..], "after {count}");
        }
    }
    Ok(())
}

/// An idle stream says where it stands, past what it does not show.
async fn bookmarkable(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    let beats = vec![EventKind::Heartbeat.into()];
    let one = WatchDeviceRequest {
        device_id: "fern-1".into(),
        kinds: beats.clone(),
        ..Default::default()
    };
    let many = WatchDevicesRequest { kinds: beats, ..Default::default() };
    let mut one = client.watch.clone().watch_device(one).await?.into_inner();
    let first = one.message().await?.context("ended")?;
    let (_, mut many) = client.watch_many(many).await?;
    publish(&system.device(), "fern-1", 0..50)?;
    client.readings_come("fern-1", 50).await?;
    let idle_one = one.message().await?.context("ended")?;
    let idle_many = many.message().await?.context("ended")?;
    ensure!(idle_one.events.is_empty() && idle_many.events.is_empty());
    ensure!(idle_one.caught_up && idle_many.caught_up && idle_one.cursor != first.cursor);
    publish(&system.device(), "fern-1", 50..60)?;
    client.readings_come("fern-1", 60).await?;
    let after_cursor = idle_many.cursor;
    let request = WatchDevicesRequest { after_cursor, ..Default::default() };
    let (first_many, _) = client.watch_many(request).await?;
    ensure!(values(&first_many.events) == (50..60).collect::<Vec<_>>());
    let (first, _) = client.watch("fern-1", &idle_one.cursor).await?;
    ensure!(values(&first.events) == (50..60).collect::<Vec<_>>());
    Ok(())
}

/// Over a restart of the store; heartbeats come too.
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
    publish(&system.device(), "fern-1", 0..50)?;
    publish(&system.device(), "moss-1", 0..50)?;
    client.readings_come("fern-1", 50).await?;
    client.readings_come("moss-1", 50).await?;
    let (first, _watch) = client.watch("fern-1", "0").await?;
    ensure!(first.caught_up && values(&first.events) == (0..50).collect::<Vec<_>>());
    let request = WatchDevicesRequest { after_cursor: "0".into(), ..Default::default() };
    let (first, mut watch) = client.watch_many(request).await?;
    let mut seen = first.events;
    seen.extend(events(&mut watch, 100_usize.saturating_sub(seen.len())).await?.0);
    for id in ["fern-1", "moss-1"] {
        ensure!(values_of(&seen, id) == (0..50).collect::<Vec<_>>(), "{id}");
    }
    Ok(())
}
