//! The broker sends again what the bridge still holds, or has settled meanwhile. Messages without a
//! time of their own have no identity by which the store could tell.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Database, Mode, Proxy, System, eventually, eventually_within, health_becomes, scrape};
use telemetry_proto::v1::{ListQuarantineRequest, reading};

const GOOD: u64 = 300;
const BAD: u64 = 5;
/// Longer than the longest backoff of the uplink.
const RECOVERY: Duration = Duration::from_secs(90);

/// A system whose bridge holds messages that its store, which is away, has not stored.
async fn holding() -> anyhow::Result<(System, Proxy)> {
    let mut system = System::start_store(Database::Sqlite).await?;
    let link = Proxy::to(system.broker.port()).await?;
    system.set_broker(link.port());
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    drop(system.store.take());
    let good = (0..GOOD).map(|n| format!("{{\"n\":{n}}}\n"));
    let bad = (0..BAD).map(|_| "not json\n".to_owned());
    let lines: String = good.chain(bad).collect();
    system.device().publish_lines("devices/fern-1/telemetry", 1, &lines)?;
    counts(&system, "messages_in_flight", GOOD + BAD).await?;
    Ok((system, link))
}

/// Waits until the bridge has counted exactly so many.
async fn counts(system: &System, what: &str, count: u64) -> anyhow::Result<()> {
    let name = format!("telemetry_bridge_{what}");
    eventually(&format!("{name} is {count}"), async || {
        let page = scrape(&system.bridge_metrics()).await?;
        ensure!(page.get(&name) == Some(&count), "{page:?}");
        Ok(())
    })
    .await
}

/// Waits until the ledger says that these came so many times more, and were stored or kept once.
async fn is_accounted_for(
    system: &System,
    (good, bad, again): (u64, u64, u64),
) -> anyhow::Result<()> {
    let client = system.client().await?;
    eventually_within(RECOVERY, "the ledger has heard of all", async || {
        let total = client.ledger().await?.total.context("no total")?;
        ensure!((total.stored, total.quarantined) == (good, bad), "{total:?}");
        ensure!(total.received == good + bad + again && total.in_flight == 0, "{total:?}");
        let dropped = total.dropped.iter().map(|dropped| (dropped.reason.as_str(), dropped.count));
        ensure!(dropped.eq([("redelivered", again)]), "{total:?}");
        Ok(())
    })
    .await
}

/// All that was published is there, once.
async fn is_stored_once(system: &System, again: u64) -> anyhow::Result<()> {
    is_accounted_for(system, (GOOD, BAD, again * (GOOD + BAD))).await?;
    let client = system.client().await?;
    let readings = client.readings("fern-1").await?;
    let numbers: Vec<_> = readings.iter().filter_map(|reading| reading.value.clone()).collect();
    let expected: Vec<_> = (0..GOOD).map(|n| reading::Value::Integer(n.cast_signed())).collect();
    ensure!(numbers == expected, "not each once, in order: {numbers:?}");
    let mut diagnostics = client.diagnostics;
    let kept = diagnostics.list_quarantine(ListQuarantineRequest::default()).await?.into_inner();
    ensure!(kept.messages.len() as u64 == BAD, "{kept:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_stored_once_however_often_it_comes() -> anyhow::Result<()> {
    let (mut system, link) = holding().await?;
    for round in 1..=5 {
        link.set(Mode::Cut);
        link.set(Mode::Pass);
        let again = round * (GOOD + BAD);
        counts(&system, "messages_dropped_total{reason=\"redelivered\"}", again).await?;
        counts(&system, "messages_in_flight", GOOD + BAD).await?;
    }
    system.restart_store().await?;
    is_stored_once(&system, 5).await?;
    // All is acknowledged: it does not come again, or it would before what is new.
    link.set(Mode::Cut);
    system.device().publish("devices/fern-1/telemetry", 1, br#"{"n":0}"#)?;
    link.set(Mode::Pass);
    is_accounted_for(&system, (GOOD + 1, BAD, 5 * (GOOD + BAD))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_while_the_broker_was_away_is_stored_once() -> anyhow::Result<()> {
    let (mut system, link) = holding().await?;
    link.set(Mode::Cut);
    system.bridge()?.logged("MQTT connection lost", 1).await?;
    system.restart_store().await?;
    counts(&system, "messages_in_flight", 0).await?;
    link.set(Mode::Pass);
    let again = GOOD + BAD;
    counts(&system, "messages_dropped_total{reason=\"redelivered\"}", again).await?;
    is_stored_once(&system, 1).await
}

/// The acknowledgements of some are on their way when the connection is lost, and others are held:
/// the broker sends both again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_in_vain_is_stored_once() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    let link = Proxy::to(system.broker.port()).await?;
    system.set_broker(link.port());
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let device = system.device();
    let publish = |range: std::ops::Range<u64>| {
        let lines: String = range.map(|n| format!("{{\"n\":{n}}}\n")).collect();
        device.publish_lines("devices/fern-1/telemetry", 1, &lines)
    };
    link.set(Mode::Deafen);
    publish(0..100)?;
    counts(&system, "messages_received_total", 100).await?;
    counts(&system, "messages_in_flight", 0).await?;
    drop(system.store.take());
    publish(100..200)?;
    counts(&system, "messages_in_flight", 100).await?;
    link.set(Mode::Cut);
    link.set(Mode::Pass);
    counts(&system, "messages_dropped_total{reason=\"redelivered\"}", 200).await?;
    system.restart_store().await?;
    is_accounted_for(&system, (200, 0, 200)).await?;
    ensure!(system.client().await?.readings("fern-1").await?.len() == 200);
    Ok(())
}
