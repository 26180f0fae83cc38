//! The bridge and its broker: it comes back, it says what is wrong, and its health tells the truth.

use anyhow::ensure;
use e2e::{Database, RefusingBroker, System, health_becomes, is_serving};

#[tokio::test]
async fn a_broker_that_was_killed_is_found_again() -> anyhow::Result<()> {
    let mut system = System::start(Database::Sqlite).await?;
    let client = system.client().await?;
    system.device().publish("devices/fern-1/telemetry", 1, br#"{"t":1}"#)?;
    client.readings_come("fern-1", 1).await?;
    for round in 2..4 {
        system.broker.kill()?;
        health_becomes(&system.bridge_address(), false).await?;
        system.broker.restart().await?;
        health_becomes(&system.bridge_address(), true).await?;
        let payload = format!(r#"{{"t":{round}}}"#);
        system.device().publish("devices/fern-1/telemetry", 1, payload.as_bytes())?;
        client.readings_come("fern-1", round).await?;
    }
    let bridge = system.bridge()?;
    for line in ["connecting to MQTT broker", "connected to MQTT broker", "MQTT connection lost"] {
        bridge.logged(line, 2).await?;
    }
    bridge.logged("subscribed", 6).await
}

#[tokio::test]
async fn a_store_that_was_killed_is_found_again_and_nothing_is_lost() -> anyhow::Result<()> {
    let mut system = System::start(Database::Sqlite).await?;
    drop(system.store.take());
    health_becomes(&system.bridge_address(), false).await?;
    let lines: String = (0..500).map(|n| format!("{{\"t\":{n}}}\n")).collect();
    system.device().publish_lines("devices/fern-1/telemetry", 1, &lines)?;
    system.restart_store().await?;
    health_becomes(&system.bridge_address(), true).await?;
    let readings = system.client().await?.readings_come("fern-1", 500).await?;
    ensure!(readings.len() == 500);
    Ok(())
}

#[tokio::test]
async fn what_a_killed_bridge_did_not_acknowledge_comes_again() -> anyhow::Result<()> {
    let mut system = System::start(Database::Sqlite).await?;
    drop(system.store.take());
    let lines: String =
        (0..500).map(|n| format!("{{\"ts\":{},\"t\":{n}}}\n", 1_767_787_200 + n)).collect();
    system.device().publish_lines("devices/fern-1/telemetry", 1, &lines)?;
    system.start_bridge()?;
    system.restart_store().await?;
    let readings = system.client().await?.readings_come("fern-1", 500).await?;
    ensure!(readings.len() == 500);
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_named_and_not_hammered() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_password("wrong");
    system.start_bridge()?;
    let bridge = system.bridge()?;
    bridge.logged("MQTT broker refused the credentials", 1).await?;
    ensure!(!is_serving(&system.bridge_address()).await?);
    let log = bridge.log().join("\n");
    ensure!(log.contains("retry_in_ms=60000") && log.contains("MQTT_BACKEND_PASSWORD"), "{log}");
    ensure!(!log.contains("wrong"), "the password is in the log");
    Ok(())
}

#[tokio::test]
async fn a_refused_subscription_is_named() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_broker(RefusingBroker::start()?.port());
    system.start_bridge()?;
    let bridge = system.bridge()?;
    bridge.logged("connected to MQTT broker", 1).await?;
    bridge.logged("MQTT broker refused the subscription", 1).await?;
    ensure!(!is_serving(&system.bridge_address()).await?);
    Ok(())
}

#[tokio::test]
async fn tls_lets_in_who_has_a_certificate_and_nobody_else() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.use_tls(false);
    system.start_bridge()?;
    system.bridge()?.logged("MQTT connection lost", 1).await?;
    ensure!(!is_serving(&system.bridge_address()).await?);
    system.use_tls(true);
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    system.device().publish("devices/fern-1/telemetry", 1, br#"{"t":1}"#)?;
    system.client().await?.readings_come("fern-1", 1).await?;
    Ok(())
}
