//! The broker does not want the bridge, or has forgotten it, or wants somebody else: the bridge
//! says so, does not storm it, and is there again when it may be.

use std::time::Duration;

use anyhow::ensure;
use e2e::{
    Bed, Manners, Mode, RefusingBroker, Setup, eventually_within, free_port, health_becomes,
    is_serving, lasts,
};

/// Attempts in 15 s: after 1, 2, 4 and 8 s, and what the cuts of the test itself cause.
const ATTEMPTS: usize = 8;
/// The same in a minute.
const LONG_ATTEMPTS: usize = 12;

fn attempts() -> usize {
    if e2e::is_long() { LONG_ATTEMPTS } else { ATTEMPTS }
}

/// Puts another broker in the place of the good one for a while.
async fn meets(broker: &RefusingBroker, reason: &str) -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    let before = bed.broker_link.accepted();
    bed.broker_link.lead_to(broker.port());
    let health = bed.system.bridge_address();
    eventually_within(Duration::from_secs(5), "the bridge is not well", async || {
        ensure!(!is_serving(&health).await?, "it is");
        Ok(())
    })
    .await?;
    bed.system.bridge()?.logged(reason, 1).await?;
    lasts(15, 60).await;
    ensure!(!is_serving(&health).await?, "it is well with a broker that refuses it");
    let tried = bed.broker_link.accepted() - before;
    ensure!(tried <= attempts(), "{tried} attempts: {:#?}", bed.system.bridge()?.log());
    bed.broker_link.lead_to(bed.system.broker.port());
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_the_subscription() -> anyhow::Result<()> {
    meets(&RefusingBroker::start(Manners::Refuse)?, "MQTT broker refused the subscription").await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_kicks_right_after_the_connect() -> anyhow::Result<()> {
    meets(&RefusingBroker::start(Manners::Kick)?, "MQTT connection lost").await
}

/// The devices are kept away until the bridge is back: what the broker takes for nobody is lost.
#[tokio::test(flavor = "multi_thread")]
async fn it_has_lost_the_session() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    bed.device_link.set(Mode::Cut);
    bed.is_well().await?;
    bed.system.broker.forget()?;
    health_becomes(&bed.system.bridge_address(), false).await?;
    bed.system.broker.restart().await?;
    bed.is_well().await?;
    bed.device_link.set(Mode::Pass);
    bed.audit().await
}

/// Each takes the session over from the other, so none of them may come back at once.
#[tokio::test(flavor = "multi_thread")]
async fn two_bridges_have_one_client_id() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    let before = bed.broker_link.accepted();
    let listen = format!("127.0.0.1:{}", free_port()?);
    let twin = bed.system.another_bridge(&[("BRIDGE_LISTEN", listen)])?;
    bed.system.bridge()?.logged("retry_in_ms", 1).await?;
    lasts(15, 60).await;
    let tried = bed.broker_link.accepted() - before;
    ensure!(tried <= 2 * attempts(), "{tried} attempts: {:#?}", twin.log());
    drop(twin);
    bed.audit().await
}

/// 20 messages in flight and 1,000 queued, what is more is dropped: so it must never be more.
#[tokio::test(flavor = "multi_thread")]
async fn it_comes_out_of_its_package() -> anyhow::Result<()> {
    let setup = Setup { stock_broker: true, rate: Some(200), ..Setup::default() };
    let mut bed = Bed::start_with(setup).await?;
    lasts(5, 60).await;
    bed.audit().await
}
