//! How a watch ends, and goes on: expiry, shutdown, the age of its connection.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Database, System, events, eventually, health_becomes};
use sqlx::Executor;
use telemetry_proto::v1::WatchDevicesRequest;
use tokio::{sync::Mutex, time::timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{publish, values};
use crate::payloads::on_each_database;

on_each_database!(expiry, shutdown, max_age);

/// Loses everything that is in the log now.
async fn forget_log(system: &mut System) -> anyhow::Result<()> {
    if let Some(postgres) = &system.postgres {
        let forget = "UPDATE log_heads SET horizon = head; DELETE FROM device_log";
        postgres.connect().await?.execute(forget).await?;
        return Ok(());
    }
    system.set_of_store("WATCH_HORIZON", "1s");
    system.restart_store().await
}

/// A cursor that has left the log is refused, with what there still is; so is a stream that stands
/// there.
async fn expiry(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    publish(&system.device(), "fern-1", 0..10)?;
    system.client().await?.readings_come("fern-1", 10).await?;
    // Where the log begins now, and will not any more.
    let stale = WatchDevicesRequest {
        device_ids: vec!["fern-1".into()],
        after_cursor: ["0"; 32].join("."),
        ..Default::default()
    };
    let told = system.client().await?.watch_many(stale.clone()).await?.0.events;
    ensure!(values(&told).len() == 10, "{told:?}");
    // What was received is not old enough at once.
    let system = Mutex::new(system);
    let statuses = eventually("the cursors have expired", async || {
        let mut system = system.lock().await;
        forget_log(&mut system).await?;
        let client = system.client().await?;
        let many = client.watch_many(stale.clone()).await.err().context("it is taken")?;
        let one = client.watch("fern-1", "19-0").await.err().context("it is taken")?;
        Ok([many, one.downcast::<Status>()?])
    })
    .await?;
    let client = system.lock().await.client().await?;
    for (status, is_one) in statuses.iter().zip([false, true]) {
        ensure!(status.code() == Code::OutOfRange, "{status:?}");
        let details = status.get_details_error_info().context("no details")?;
        ensure!(details.reason == "CURSOR_EXPIRED" && details.metadata.contains_key("horizon"));
        for name in ["oldest", "newest"] {
            let cursor = details.metadata.get(name).context("no cursor")?;
            if is_one {
                client.watch("fern-1", cursor).await?;
            } else {
                let request =
                    WatchDevicesRequest { after_cursor: cursor.clone(), ..Default::default() };
                client.watch_many(request).await?;
            }
        }
    }
    Ok(())
}

async fn shutdown(database: Database) -> anyhow::Result<()> {
    let mut system = System::start(database).await?;
    let client = system.client().await?;
    let (_, mut one) = client.watch("fern-1", "").await?;
    let (_, mut many) = client.watch_many(WatchDevicesRequest::default()).await?;
    publish(&system.device(), "fern-1", 0..10)?;
    let (_, cursor) = events(&mut many, 10).await?;
    events(&mut one, 10).await?;
    let mut store = system.store.take().context("no store")?;
    store.terminate()?;
    for status in [one.message().await.err(), many.message().await.err()] {
        let status = status.context("a watch must not end as if it were complete")?;
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        ensure!(status.get_details_retry_info().is_some(), "{status:?}");
    }
    ensure!(store.ended().await?.code() == Some(0), "{:?}", store.log());
    system.restart_store().await?;
    publish(&system.device(), "fern-1", 10..20)?;
    let request = WatchDevicesRequest { after_cursor: cursor, ..Default::default() };
    let (first, mut many) = system.client().await?.watch_many(request).await?;
    let mut seen = first.events;
    seen.extend(events(&mut many, 10 - seen.len()).await?.0);
    ensure!(values(&seen) == (10..20).collect::<Vec<_>>());
    Ok(())
}

/// A connection has its time. What is under way on it ends as resumable, and what comes next uses
/// another one; the bridge goes on without losing its health.
async fn max_age(database: Database) -> anyhow::Result<()> {
    let mut system = System::start_store(database).await?;
    system.set_of_store("STORE_MAX_CONNECTION_AGE", "3s");
    system.restart_store().await?;
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let client = system.client().await?;
    let (mut cursor, mut seen, mut ended) = (String::new(), Vec::new(), 0);
    for n in 0.. {
        let request = WatchDevicesRequest { after_cursor: cursor.clone(), ..Default::default() };
        let (first, mut watch) = client.watch_many(request).await?;
        (cursor, seen) = (first.cursor, [seen, first.events].concat());
        publish(&system.device(), "fern-1", n * 10..(n + 1) * 10)?;
        let status = loop {
            match timeout(Duration::from_secs(20), watch.message()).await? {
                Ok(response) => {
                    let response = response.context("ended as if complete")?;
                    cursor = response.cursor;
                    seen.extend(response.events);
                }
                Err(status) => break status,
            }
        };
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        ensure!(status.get_details_retry_info().is_some(), "{status:?}");
        ended += 1;
        if ended == 4 {
            ensure!(values(&seen) == (0..(n + 1) * 10).collect::<Vec<_>>(), "{:?}", values(&seen));
            break;
        }
    }
    let bridge = system.bridge()?;
    bridge.logged("streaming to telemetry store", 3).await?;
    // But for a connection that was still closing when it came back.
    let log = bridge.log();
    let mut lost = log.iter().filter(|line| line.contains("connection lost"));
    ensure!(lost.all(|line| line.contains("operation was canceled")), "{log:?}");
    Ok(())
}
