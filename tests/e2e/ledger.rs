//! Every message has a name for what became of it, and what could not be stored can be had again.

use std::time::SystemTime;

use anyhow::{Context, ensure};
use e2e::{Database, System, eventually};
use telemetry_proto::v1::{
    IngestEvent, IngestRequest, Ledger, ListQuarantineRequest, QuarantinedMessage, Refusal,
    ReplayQuarantineRequest,
};

use crate::payloads::on_each_database;

on_each_database!(
    every_message_is_accounted_for,
    a_bridge_that_died_is_accounted_for,
    what_was_refused_can_be_replayed,
    what_falls_short_is_said,
);

const TOPIC: &str = "devices/fern-1/telemetry";

async fn settled(system: &System, messages: u64) -> anyhow::Result<Ledger> {
    let client = system.client().await?;
    eventually("all is settled", async || {
        let total = client.ledger().await?.total.context("no total")?;
        ensure!(total.received >= messages && total.in_flight == 0, "{total:?}");
        Ok(total)
    })
    .await
}

async fn quarantine(system: &System) -> anyhow::Result<Vec<QuarantinedMessage>> {
    let mut diagnostics = system.client().await?.diagnostics;
    let answer = diagnostics.list_quarantine(ListQuarantineRequest::default()).await?;
    Ok(answer.into_inner().messages)
}

async fn every_message_is_accounted_for(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let device = system.device();
    let good = r#"{"ts":"2026-10-07T12:00:00Z","t":1}"#;
    for payload in [good, good, r#"{"ts":"2026-10-07T12:00:00Z","t":2}"#, "not json"] {
        device.publish(TOPIC, 1, payload.as_bytes())?;
    }
    device.publish(TOPIC, 0, br#"{"t":1,"far":1e999}"#)?;
    device.publish(TOPIC, 1, br#"{"ts":"2012-01-01T00:00:00Z","t":1}"#)?;
    device.publish("devices/fern-1/heartbeat", 1, b"")?;
    device.publish("devices/a b/heartbeat", 1, b"")?;
    let total = settled(&system, 8).await?;
    ensure!((total.received, total.stored, total.duplicate) == (8, 3, 2), "{total:?}");
    ensure!((total.quarantined, total.partial) == (3, 1), "{total:?}");
    let readings = (total.readings_stored, total.readings_duplicate, total.readings_conflicting);
    ensure!(readings == (2, 1, 1), "{total:?}");

    let kept = quarantine(&system).await?;
    let told = |m: &QuarantinedMessage| (m.reason.clone(), m.field.clone(), m.qos, m.partial);
    let mut told: Vec<_> = kept.iter().map(told).collect();
    told.sort();
    let expected = [
        ("invalid_device_id", "topic", 1, false),
        ("invalid_value", "far", 0, true),
        ("not_json", "payload", 1, false),
        ("too_old", "time", 1, false),
    ];
    let expected = expected.map(|(r, f, qos, partial)| (r.to_owned(), f.to_owned(), qos, partial));
    ensure!(told == expected, "{told:?}");
    let text = kept.iter().find(|m| m.reason == "not_json").context("not_json")?;
    ensure!((text.payload_text.as_str(), text.topic.as_str()) == ("not json", TOPIC), "{text:?}");
    Ok(())
}

async fn a_bridge_that_died_is_accounted_for(database: Database) -> anyhow::Result<()> {
    let mut system = System::start(database).await?;
    let lines = |range: std::ops::Range<i64>| -> String {
        range.map(|n| format!("{{\"ts\":{},\"t\":{n}}}\n", 1_767_787_200 + n)).collect()
    };
    system.device().publish_lines(TOPIC, 1, &lines(0..300))?;
    settled(&system, 300).await?;
    drop(system.store.take());
    system.device().publish_lines(TOPIC, 1, &lines(300..600))?;
    system.start_bridge()?;
    system.restart_store().await?;
    let client = system.client().await?;
    ensure!(client.readings_come("fern-1", 600).await?.len() == 600);
    let ledger = client.ledger().await?;
    ensure!(ledger.senders.iter().filter(|sender| sender.ended).count() == 1, "{ledger:?}");
    let total = client.ledger_settles().await?;
    ensure!(total.stored == 600 && total.readings_stored == 600, "{total:?}");
    Ok(())
}

async fn what_was_refused_can_be_replayed(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    // So recent that it stays, and not to be mixed up with now.
    let seconds = i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_secs())? - 3600;
    // As a bridge with an older decoder, or with other filters, would refuse it.
    let events = [r#"{"t":1}"#, "still not json"].map(|payload| IngestEvent {
        received: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        topic: TOPIC.to_owned(),
        refusal: Some(Refusal {
            reason: "unknown_topic".to_owned(),
            payload: payload.into(),
            ..Default::default()
        }),
        ..Default::default()
    });
    let request = IngestRequest { first_sequence: 1, events: events.into(), ..Default::default() };
    let requests = tokio_stream::once(request);
    let mut answers = client.ingest.clone().ingest(requests).await?.into_inner();
    while answers.message().await?.is_some() {}
    ensure!(quarantine(&system).await?.len() == 2);

    let mut diagnostics = client.diagnostics.clone();
    let replay = |dry_run| ReplayQuarantineRequest {
        reason: "unknown_topic".to_owned(),
        dry_run,
        ..Default::default()
    };
    for dry_run in [true, false] {
        let answer = diagnostics.replay_quarantine(replay(dry_run)).await?.into_inner();
        ensure!(
            (answer.examined, answer.replayed, answer.still_refused) == (2, 1, 1),
            "{answer:?}"
        );
        ensure!(
            answer.readings_stored == 1 && answer.reasons[0].reason == "not_json",
            "{answer:?}"
        );
        let left = if dry_run { 2 } else { 1 };
        ensure!(quarantine(&system).await?.len() == left);
    }
    let readings = client.readings("fern-1").await?;
    ensure!(readings.len() == 1 && readings[0].time.unwrap_or_default().seconds == seconds);
    Ok(())
}

async fn what_falls_short_is_said(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    system.device().publish(TOPIC, 0, br#"{"t":1}"#)?;
    let client = system.client().await?;
    eventually("the bridge has told of its side", async || {
        let ledger = client.ledger().await?;
        let sender = ledger.senders.iter().find(|sender| sender.client_id == "bridge");
        let sender = sender.context("the bridge is not there")?;
        let report = sender.report.as_ref().context("it told nothing")?;
        ensure!(report.connected && report.subscriptions.iter().all(|s| s.granted && s.qos == 1));
        ensure!(sender.hints.iter().any(|hint| hint.fix.contains("QoS 1")), "{:?}", sender.hints);
        Ok(())
    })
    .await
}
