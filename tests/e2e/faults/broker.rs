//! The broker does not want the bridge, or has forgotten it, or wants somebody else: the bridge
//! says so, does not storm it, and is there again when it may be.

use std::time::Duration;

use anyhow::ensure;
use e2e::{
    Bed, Manners, Mode, Process, RefusingBroker, Setup, eventually_within, free_port,
    health_becomes, is_serving, lasts,
};

/// How soon the bridge must say that something is wrong.
const SOON: Duration = Duration::from_secs(5);

/// Waits until the bridge says that it is unwell, and why: in so many lines with all of this.
async fn says(bed: &Bed, times: usize, what: &[&str]) -> anyhow::Result<()> {
    let health = bed.system.bridge_address();
    eventually_within(SOON, "the bridge says what is wrong", async || {
        ensure!(!is_serving(&health).await?, "it is well");
        let log = bed.system.bridge.as_ref().map(Process::log).unwrap_or_default();
        let lines = log.iter().filter(|line| what.iter().all(|part| line.contains(part)));
        ensure!(lines.count() >= times, "not {times} times {what:?} in {log:#?}");
        Ok(())
    })
    .await
}

/// Fails if there was an attempt sooner than these waits after the one before, the last of which
/// goes for all that follow. What delays the first of two makes the wait seem shorter.
fn waited(bed: &Bed, before: usize, waits_s: &[u64]) -> anyhow::Result<()> {
    let waits = bed.broker_link.waits_after(before);
    let last = waits_s.last().into_iter().cycle();
    for (wait, at_least_s) in waits.iter().zip(waits_s.iter().chain(last)) {
        let at_least = Duration::from_secs(*at_least_s).mul_f64(0.9);
        ensure!(*wait >= at_least, "waited {waits:?}, not {waits_s:?} s: {bed:#?}");
    }
    Ok(())
}

/// Puts another broker in the place of the good one for a while. Each attempt comes after a wait,
/// the first when the good one is lost.
async fn meets(
    broker: &RefusingBroker,
    (times, reason): (usize, &[&str]),
    waits_s: &[u64],
) -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    let before = bed.broker_link.accepted();
    bed.broker_link.lead_to(broker.port());
    says(&bed, times, reason).await?;
    lasts(15, 60).await;
    ensure!(!is_serving(&bed.system.bridge_address()).await?, "it is well");
    ensure!(broker.connections() > 0, "it was not tried");
    waited(&bed, before, waits_s)?;
    bed.broker_link.lead_to(bed.system.broker.port());
    bed.audit().await
}

const REFUSED: &str = "MQTT broker refused the subscription";

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_the_subscription() -> anyhow::Result<()> {
    let broker = RefusingBroker::start(Manners::Refuse(0x87))?;
    meets(&broker, (2, &[REFUSED, "NotAuthorized"]), &[60]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_the_subscription_and_does_not_say_why() -> anyhow::Result<()> {
    let broker = RefusingBroker::start(Manners::Refuse(0x80))?;
    meets(&broker, (2, &[REFUSED, "Unspecified"]), &[60]).await
}

/// The first time when the good broker is lost.
#[tokio::test(flavor = "multi_thread")]
async fn it_kicks_right_after_the_connect() -> anyhow::Result<()> {
    let broker = RefusingBroker::start(Manners::Kick)?;
    meets(&broker, (2, &["MQTT connection lost", "class=\"kicked\""]), &[2, 4, 8, 16]).await
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
    let bridge = bed.system.bridge()?;
    bridge.logged("MQTT broker has lost our session", 1).await?;
    bridge.logged("subscribed", 4).await?;
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
    twin.logged("connected to MQTT broker", 1).await?;
    says(&bed, 1, &["another client uses our MQTT_CLIENT_ID", "class=\"taken_over\""]).await?;
    lasts(15, 50).await;
    let tried = bed.broker_link.accepted() - before;
    ensure!(tried == 1, "{tried} attempts, not only the twin's: {:#?}", twin.log());
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
