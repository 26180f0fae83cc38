//! Each process dies without a warning, and comes back.

use e2e::{Bed, Setup, lasts};

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_is_killed_five_times() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    for _ in 0..5 {
        let messages = bed.chance.u64(1..1500);
        bed.auditor.publishes(messages).await?;
        bed.system.start_bridge()?;
    }
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_killed() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    drop(bed.system.store.take());
    lasts(5, 30).await;
    bed.system.launch_store()?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bridge_and_store_are_killed() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    drop((bed.system.bridge.take(), bed.system.store.take()));
    lasts(5, 30).await;
    bed.system.start_bridge()?;
    bed.system.launch_store()?;
    bed.audit().await
}

/// Mosquitto acknowledges before it saves: what it acknowledged last may die with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_killed() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    bed.auditor.publishes(5000).await?;
    bed.broker_dies().await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_killed() -> anyhow::Result<()> {
    let mut bed = Bed::start_with(Setup { own_cluster: true, ..Setup::default() }).await?;
    bed.cluster()?.kill()?;
    lasts(5, 30).await;
    bed.cluster()?.restart().await?;
    bed.audit().await
}
