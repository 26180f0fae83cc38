//! Each process is asked to stop while messages flow, and ends in good order.

use std::{process::ExitStatus, time::Duration};

use anyhow::{Context, ensure};
use e2e::{Bed, Process, lasts};

/// How long a process may take to end.
const PROMPT: Duration = Duration::from_secs(10);

/// Asks a process to stop; it must end promptly, and with 0.
pub(super) async fn stop(process: Option<Process>) -> anyhow::Result<()> {
    let mut process = process.context("it does not run")?;
    process.terminate()?;
    let ended = tokio::time::timeout(PROMPT, process.ended()).await.context("not within 10 s")?;
    ensure!(ended.as_ref().is_ok_and(ExitStatus::success), "{ended:?}: {:#?}", process.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    stop(bed.system.bridge.take()).await?;
    lasts(2, 30).await;
    bed.system.start_bridge()?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    stop(bed.system.store.take()).await?;
    lasts(2, 30).await;
    bed.system.launch_store()?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    bed.system.broker.stop().await?;
    lasts(2, 30).await;
    bed.system.broker.restart().await?;
    bed.audit().await
}
