//! Each process stops when asked, promptly, with exit code 0, and what it took is stored.

use anyhow::{Context, ensure};
use e2e::{Database, System};
use tonic::Code;

use crate::payloads::on_each_database;

on_each_database!(sigterm);

async fn sigterm(database: Database) -> anyhow::Result<()> {
    let mut system = System::start(database).await?;
    let (_, mut watch) = system.client().await?.watch("fern-1", "").await?;
    let lines: String = (0..1000).map(|n| format!("{{\"t\":{n}}}\n")).collect();
    system.device().publish_lines("devices/fern-1/telemetry", 1, &lines)?;

    let mut bridge = system.bridge.take().context("no bridge")?;
    bridge.terminate()?;
    ensure!(bridge.ended().await?.code() == Some(0), "{:?}", bridge.log());

    let mut store = system.store.take().context("no store")?;
    store.terminate()?;
    ensure!(store.ended().await?.code() == Some(0), "{:?}", store.log());
    let ended = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("a watch must not end as if it were complete"),
            Err(status) => break status.code(),
        }
    };
    ensure!(ended == Code::Unavailable, "{ended:?}");

    system.restart_store().await?;
    system.start_bridge()?;
    ensure!(system.client().await?.readings_come("fern-1", 1000).await?.len() == 1000);
    Ok(())
}
