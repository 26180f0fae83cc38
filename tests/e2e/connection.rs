//! The bridge and its broker: it comes back, it says what is wrong, and its health tells the truth.

use anyhow::ensure;
use e2e::{
    Database, Device, Manners, RefusingBroker, System, eventually, health_becomes, is_serving,
    scrape,
};

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
    ensure!(log.contains("class=\"credentials\""), "{log}");
    ensure!(log.contains("retry_in_ms=60000") && log.contains("MQTT_BACKEND_PASSWORD"), "{log}");
    ensure!(!log.contains("wrong"), "the password is in the log");
    Ok(())
}

#[tokio::test]
async fn a_refused_subscription_is_named() -> anyhow::Result<()> {
    for (code, reason) in [(0x80, "Unspecified"), (0x87, "NotAuthorized")] {
        let mut system = System::start_store(Database::Sqlite).await?;
        system.set_broker(RefusingBroker::start(Manners::Refuse(code))?.port());
        system.start_bridge()?;
        let bridge = system.bridge()?;
        bridge.logged("connected to MQTT broker", 1).await?;
        bridge.logged("MQTT broker refused the subscription", 2).await?;
        bridge.logged(&format!("reason=\"{reason}\""), 2).await?;
        ensure!(!is_serving(&system.bridge_address()).await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_status_topic_is_named_and_costs_nothing_else() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_broker(RefusingBroker::start(Manners::RefuseLast)?.port());
    system.start_bridge()?;
    let bridge = system.bridge()?;
    bridge.logged("MQTT broker refused the subscription", 1).await?;
    health_becomes(&system.bridge_address(), true).await?;
    let log = bridge.log().join("\n");
    ensure!(log.contains("devices/+/status") && log.contains("ACL"), "{log}");
    let failures = "telemetry_bridge_connection_failures_total{class=\"acl\"}";
    ensure!(scrape(&system.bridge_metrics()).await?.get(failures) == Some(&1));
    let client = system.client().await?;
    eventually("the ledger has a hint", async || {
        let ledger = client.ledger().await?;
        let mut hints = ledger.senders.iter().flat_map(|sender| &sender.hints);
        ensure!(hints.any(|hint| hint.finding.contains("devices/+/status")), "{ledger:?}");
        Ok(())
    })
    .await
}

/// Starts a bridge that cannot connect, and waits for the line that says so.
async fn fails(system: &mut System, line: &str, class: &str) -> anyhow::Result<()> {
    system.start_bridge()?;
    let bridge = system.bridge()?;
    bridge.logged(line, 1).await?;
    bridge.logged(&format!("class=\"{class}\""), 1).await?;
    ensure!(!is_serving(&system.bridge_address()).await?);
    Ok(())
}

#[tokio::test]
async fn a_host_without_address_is_named() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_bridge("MQTT_HOST", "broker.invalid");
    fails(&mut system, "MQTT connection lost", "dns").await
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_broker(e2e::free_port()?);
    fails(&mut system, "MQTT connection lost", "network").await
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_named() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.use_tls(true);
    let other = System::start_store(Database::Sqlite).await?;
    system.set_bridge("MQTT_CA_CERT", &other.broker.folder().join("ca.pem").display().to_string());
    fails(&mut system, "MQTT broker and bridge do not agree on TLS", "tls").await
}

#[tokio::test]
async fn a_broker_that_kicks_is_not_hammered() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    let broker = RefusingBroker::start(Manners::Kick)?;
    system.set_broker(broker.port());
    fails(&mut system, "MQTT connection lost", "kicked").await?;
    let bridge = system.bridge()?;
    bridge.logged("MQTT connection lost", 3).await?;
    let log = bridge.log();
    let waits = log.iter().filter_map(|line| line.split_once("retry_in_ms=")?.1.split(' ').next());
    for (wait, floor) in waits.zip([1000, 2000, 4000]) {
        ensure!(wait.parse::<u64>()? >= floor, "{wait}");
    }
    ensure!(broker.connections() <= 4, "{} connections", broker.connections());
    Ok(())
}

#[tokio::test]
async fn a_packet_larger_than_we_take_is_named() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_broker(RefusingBroker::start(Manners::Oversize)?.port());
    fails(&mut system, "MQTT packet too large", "packet_too_large").await
}

#[tokio::test]
async fn a_device_that_sends_too_large_a_packet_harms_no_other() -> anyhow::Result<()> {
    let system = System::start(Database::Sqlite).await?;
    let oversize = vec![b'x'; 2 << 20];
    let refused = system.device().publish_lines(
        "devices/fern-1/telemetry",
        1,
        std::str::from_utf8(&oversize)?,
    );
    ensure!(refused.is_err(), "the device is told");
    system.device().publish("devices/fern-2/telemetry", 1, br#"{"t":1}"#)?;
    system.client().await?.readings_come("fern-2", 1).await?;
    ensure!(!system.bridge()?.log().join("\n").contains("MQTT connection lost"));
    Ok(())
}

#[tokio::test]
async fn a_bridge_whose_client_id_is_taken_does_not_fight() -> anyhow::Result<()> {
    let system = System::start(Database::Sqlite).await?;
    let other = Device::pose_as_bridge(&system.broker, "bridge")?;
    health_becomes(&system.bridge_address(), false).await?;
    let bridge = system.bridge()?;
    bridge.logged("another client uses our MQTT_CLIENT_ID", 1).await?;
    let log = bridge.log().join("\n");
    let wait = log.rsplit_once("retry_in_ms=").and_then(|(_, rest)| rest.split(' ').next());
    ensure!(wait.is_some_and(|wait| wait.parse::<u64>().is_ok_and(|ms| ms >= 60_000)), "{log}");
    drop(other);
    Ok(())
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_noticed() -> anyhow::Result<()> {
    let system = System::start(Database::Sqlite).await?;
    system.broker.signal("STOP")?;
    health_becomes(&system.bridge_address(), false).await?;
    system.bridge()?.logged("the broker does not answer", 1).await?;
    system.broker.signal("CONT")?;
    health_becomes(&system.bridge_address(), true).await
}

#[tokio::test]
async fn tls_lets_in_who_has_a_certificate_and_nobody_else() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.use_tls(false);
    system.start_bridge()?;
    system.bridge()?.logged("MQTT broker and bridge do not agree on TLS", 1).await?;
    ensure!(!is_serving(&system.bridge_address()).await?);
    system.use_tls(true);
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    system.device().publish("devices/fern-1/telemetry", 1, br#"{"t":1}"#)?;
    system.client().await?.readings_come("fern-1", 1).await?;
    Ok(())
}
