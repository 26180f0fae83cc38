//! What real devices send ends as the right rows, on both databases.

use anyhow::{Context, ensure};
use e2e::{Database, System, eventually};
use sqlx::Row;
use telemetry_proto::v1::{Reading, TimeSource, reading::Value};

/// Runs a test body on each database.
macro_rules! on_each_database {
    ($($name:ident),+ $(,)?) => {
        mod sqlite { $(
            #[tokio::test]
            async fn $name() -> anyhow::Result<()> { super::$name(e2e::Database::Sqlite).await }
        )+ }
        mod timescaledb { $(
            #[tokio::test]
            async fn $name() -> anyhow::Result<()> { super::$name(e2e::Database::Timescale).await }
        )+ }
    };
}
pub(crate) use on_each_database;

on_each_database!(every_sender, firmware_uptime, poison_blocks_nobody);

fn find<'a>(readings: &'a [Reading], metric: &str) -> anyhow::Result<&'a Reading> {
    readings.iter().find(|reading| reading.metric == metric).context(metric.to_owned())
}

fn micros(reading: &Reading) -> i64 {
    let time = reading.time.unwrap_or_default();
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1000
}

fn is_number(reading: &Reading, number: f64) -> bool {
    reading.value == Some(Value::Number(number))
}

/// 2026-01-07T12:00:00Z.
const NOON: i64 = 1_767_787_200_000_000;

async fn every_sender(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let (client, device) = (system.client().await?, system.device());
    for qos in [0, 1] {
        let send = |name: &str, payload: &str| {
            device.publish(&format!("devices/{name}-{qos}/telemetry"), qos, payload.as_bytes())
        };
        let read =
            async |name: &str, count| client.readings_come(&format!("{name}-{qos}"), count).await;

        let spec = r#"{"timestamp":"2026-01-07T12:00:00Z","soil_moisture":45.2,"temperature":22.5,"humidity":65.0,"light_level":800}"#;
        send("spec", spec)?;
        let readings = read("spec", 4).await?;
        ensure!(readings.len() == 4, "{readings:?}");
        ensure!(is_number(find(&readings, "soil_moisture")?, 45.2));
        ensure!(is_number(find(&readings, "humidity")?, 65.0));
        ensure!(find(&readings, "light_level")?.value == Some(Value::Integer(800)));
        for reading in &readings {
            ensure!(micros(reading) == NOON && reading.time_source() == TimeSource::Device);
        }

        send(
            "paho",
            r#"{"temperature":21.5,"light":512,"timestamp":"2026-01-07T12:00:00.123456Z"}"#,
        )?;
        ensure!(micros(find(&read("paho", 2).await?, "light")?) == NOON + 123_456);

        for (n, time) in ["1767787200", "1767787200000", "1767787200000000", "1767787200000000000"]
            .iter()
            .enumerate()
        {
            let name = format!("epoch{n}");
            send(&name, &format!(r#"{{"ts":{time},"t":1}}"#))?;
            let readings = read(&name, 1).await?;
            ensure!(micros(&readings[0]) == NOON, "{time}: {readings:?}");
            ensure!(readings[0].time_source() == TimeSource::Device);
        }

        send("plain", r#"{"t":1,"wet":false,"note":"dry","env":{"co2":411.5},"x":null}"#)?;
        let readings = read("plain", 4).await?;
        ensure!(find(&readings, "wet")?.value == Some(Value::Flag(false)));
        ensure!(find(&readings, "note")?.value == Some(Value::Text("dry".into())));
        ensure!(is_number(find(&readings, "env.co2")?, 411.5));
        ensure!(readings.iter().all(|reading| reading.time_source() == TimeSource::Received));

        send("array", r#"[{"ts":1767787200,"t":1},{"ts":1767787260,"t":2},{"t":3},{"t":4}]"#)?;
        ensure!(read("array", 4).await?.len() == 4);
    }
    if let Some(postgres) = &system.postgres {
        let mut database = postgres.connect().await?;
        let row = sqlx::query(
            "SELECT r.number, r.time_source FROM readings r
             JOIN devices d ON d.id = r.device_id JOIN metrics m ON m.id = r.metric_id
             WHERE d.device_id = 'spec-1' AND m.name = 'soil_moisture'
               AND r.time = '2026-01-07T12:00:00Z'",
        )
        .fetch_one(&mut database)
        .await?;
        ensure!(row.get::<f64, _>(0).to_bits() == 45.2_f64.to_bits() && row.get::<i16, _>(1) == 1);
    }
    Ok(())
}

async fn firmware_uptime(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let (client, device) = (system.client().await?, system.device());
    // Hours of two boots, and ten minutes around the wrap of 2^32, played as fast as it goes.
    let minutes = (1..=200_u32).chain(1..=20).map(|minute| minute * 60_000);
    let wrap = (1..=10_u32).map(|minute| (minute * 60_000).wrapping_sub(5 * 60_000));
    let mut lines = String::new();
    for (value, uptime) in minutes.chain(wrap).enumerate() {
        lines += &format!("{{\"timestamp\":{uptime},\"soil_moisture\":{value}}}\n");
    }
    for _ in 0..3 {
        device.publish_lines("devices/esp/telemetry", 1, &lines)?;
    }
    device.publish("devices/esp/telemetry", 1, br#"{"timestamp":360000,"soil_moisture":230}"#)?;
    let readings = client.readings_come("esp", 231).await?;
    let values: Vec<_> = readings.iter().map(|reading| reading.value.clone()).collect();
    let expected: Vec<_> = (0..231).map(|value| Some(Value::Integer(value))).collect();
    ensure!(values == expected, "in the order of sending, once each: {readings:?}");
    ensure!(readings.is_sorted_by(|a, b| micros(a) < micros(b)), "{readings:?}");
    ensure!(readings.iter().all(|reading| reading.time_source() == TimeSource::Uptime));
    ensure!(micros(&readings[0]) > NOON, "nothing before last year");
    Ok(())
}

async fn poison_blocks_nobody(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let (client, device) = (system.client().await?, system.device());
    for poison in [&b"not json"[..], b"", b"\xff\xfe", b"{\"a\":1e999}", b"[]", b"{}", b"7"] {
        device.publish("devices/fern-1/telemetry", 1, poison)?;
    }
    device.publish("devices/a b/telemetry", 1, br#"{"t":1}"#)?;
    device.publish("devices/fern-1/heartbeat", 1, b"not json")?;
    device.publish("devices/fern-1/telemetry", 1, br#"{"t":1,"":2}"#)?;
    ensure!(client.readings_come("fern-1", 1).await?.len() == 1);
    eventually("the heartbeat is known", async || {
        let request = telemetry_proto::v1::GetDeviceRequest { device_id: "fern-1".into() };
        let device = client.query.clone().get_device(request).await?.into_inner().device;
        ensure!(device.is_some_and(|device| device.last_heartbeat.is_some()));
        Ok(())
    })
    .await?;
    let bridge = system.bridge()?;
    for reason in ["not_json", "empty_payload", "not_utf8", "no_measurements", "invalid_device_id"]
    {
        bridge.logged(reason, 1).await?;
    }
    bridge.logged("message partly rejected", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_clock_far_ahead_is_warned_of_once() -> anyhow::Result<()> {
    let system = System::start(e2e::Database::Sqlite).await?;
    for n in 0..3 {
        let payload = format!(r#"{{"ts":"2200-01-01T00:00:0{n}Z","t":{n}}}"#);
        system.device().publish("devices/fern-1/telemetry", 1, payload.as_bytes())?;
    }
    system.client().await?.readings_come("fern-1", 3).await?;
    let store = system.store.as_ref().context("no store")?;
    store.logged("device clock is too far ahead to be believed", 1).await?;
    let log = store.log();
    let warnings = log.iter().filter(|line| line.contains("too far ahead"));
    ensure!(warnings.count() == 1, "{log:#?}");
    Ok(())
}
