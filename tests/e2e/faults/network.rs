//! Each link fails: cut, reset, half open, and half open for ever. What is half open must be found
//! by whoever waits for it; only then does the link pass again.

use std::time::Duration;

use anyhow::ensure;
use e2e::{Bed, Mode, Proxy, eventually_within, is_serving, lasts};

/// Twice the longest keep-alive, of 20 s on the uplink, and what a busy machine needs.
const FOUND: Duration = Duration::from_mins(1);

/// Cuts, stalls and resets a link in turn.
async fn fails(bed: &Bed, link: &Proxy) -> anyhow::Result<()> {
    for mode in [Mode::Cut, Mode::Stall, Mode::Reset] {
        link.set(mode);
        lasts(4, 90).await;
        link.set(Mode::Pass);
        bed.recovers().await?;
    }
    Ok(())
}

/// Waits until somebody at the end of a link has given up its connections, and made others.
async fn is_given_up(link: &Proxy) -> anyhow::Result<()> {
    let before = link.accepted();
    eventually_within(FOUND, "the half-open link is found", async || {
        ensure!(link.accepted() > before, "no new connection");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn device_to_broker() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    fails(&bed, &bed.device_link).await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_to_bridge() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    fails(&bed, &bed.broker_link).await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bridge_to_store() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    fails(&bed, &bed.store_link).await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn store_to_database() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    fails(&bed, &bed.database_link).await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_finds_a_broker_that_is_half_open() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    bed.broker_link.set(Mode::Stall);
    let address = bed.system.bridge_address();
    eventually_within(FOUND, "the bridge says that it is unwell", async || {
        ensure!(!is_serving(&address).await?, "it says that it is well");
        Ok(())
    })
    .await?;
    is_given_up(&bed.broker_link).await?;
    bed.broker_link.set(Mode::Pass);
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_finds_a_store_that_is_half_open() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    bed.store_link.forget();
    is_given_up(&bed.store_link).await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_finds_a_database_that_is_half_open() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    // It may be between two transactions, or within one.
    for _ in 0..3 {
        bed.database_link.forget();
        is_given_up(&bed.database_link).await?;
        bed.recovers().await?;
    }
    bed.audit().await
}
