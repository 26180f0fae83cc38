//! Something was done, and whoever asked for it never hears so: it is done again, and must not
//! count twice.

use anyhow::ensure;
use e2e::{Bed, Mode, Proxy, eventually};

/// Loses answers until some were lost, then the connection.
async fn fails_after_effect(bed: &Bed, link: &Proxy) -> anyhow::Result<()> {
    for round in 1..4 {
        let lost = link.swallowed();
        link.set(Mode::Swallow);
        eventually("an answer is lost", async || {
            ensure!(link.swallowed() > lost, "none in round {round}");
            Ok(())
        })
        .await?;
        link.set(Mode::Cut);
        link.set(Mode::Pass);
        bed.recovers().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_has_committed_and_the_bridge_does_not_hear_of_it() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    fails_after_effect(&bed, &bed.store_link).await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_has_committed_and_the_store_does_not_hear_of_it() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    fails_after_effect(&bed, &bed.database_link).await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_has_acknowledged_and_the_device_does_not_hear_of_it() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    fails_after_effect(&bed, &bed.device_link).await?;
    bed.audit().await
}
