//! Whether devices are there, as far as the system can know, and why one is silent.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use e2e::{
    Client, Cluster, Database, Mosquitto, PostgresDatabase, RawDevice, System, eventually,
    eventually_within, free_port, health_becomes, scrape,
};
use prost::Message as _;
use telemetry_proto::v1::{
    Device, Event, ExplainDeviceRequest, ExplainDeviceResponse, GetDeviceRequest,
    ListDevicesRequest, Presence, PresenceChange, PresenceReason, Severity, WatchDeviceResponse,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Streaming};

use crate::payloads::on_each_database;

on_each_database!(silence_makes_offline, each_case_is_explained);

async fn system(database: Database, offline_after: &str) -> anyhow::Result<System> {
    let postgres = match database {
        Database::Sqlite => None,
        Database::Timescale => Some(PostgresDatabase::create().await?),
    };
    let mut system = System::prepare(Mosquitto::start().await?, postgres).await?;
    system.set_of_store("OFFLINE_AFTER", offline_after);
    system.restart_store().await?;
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    Ok(system)
}

async fn device(client: &Client, id: &str) -> anyhow::Result<Device> {
    let request = GetDeviceRequest { device_id: id.to_owned() };
    let answer = client.query.clone().get_device(request).await?.into_inner();
    answer.device.context("no device")
}

async fn becomes(client: &Client, id: &str, presence: Presence) -> anyhow::Result<Device> {
    eventually(&format!("{id} is {presence:?}"), async || {
        let device = device(client, id).await?;
        ensure!(device.presence() == presence, "{device:?}");
        Ok(device)
    })
    .await
}

async fn list(client: &Client, presence: Presence) -> anyhow::Result<Vec<String>> {
    let presence = presence.into();
    let request = ListDevicesRequest { presence, id_prefix: "f".into(), ..Default::default() };
    let devices = client.query.clone().list_devices(request).await?.into_inner().devices;
    Ok(devices.into_iter().map(|device| device.device_id).collect())
}

async fn silence_makes_offline(database: Database) -> anyhow::Result<()> {
    let system = system(database, "2s").await?;
    let (client, publisher) = (system.client().await?, system.device());
    let beat = br#"{"timestamp":5000,"uptime":5,"rssi":-61,"fw":"1.2"}"#;
    publisher.publish("devices/fern-1/heartbeat", 0, beat)?;
    becomes(&client, "fern-1", Presence::Online).await?;
    let fern = becomes(&client, "fern-1", Presence::Offline).await?;
    ensure!(fern.presence_reason() == PresenceReason::Silence, "{fern:?}");
    ensure!(fern.firmware == "1.2" && fern.rssi_dbm == Some(-61), "{fern:?}");
    ensure!(fern.uptime.map(|uptime| uptime.seconds) == Some(5), "{fern:?}");
    ensure!(fern.last_topic == "devices/fern-1/heartbeat", "{fern:?}");
    ensure!(list(&client, Presence::Offline).await? == ["fern-1"]);
    ensure!(list(&client, Presence::Online).await?.is_empty());
    eventually("the metrics say it", async || {
        let page = scrape(&system.store_metrics()).await?;
        let offline = page.get("telemetry_devices{presence=\"offline\"}");
        ensure!(offline == Some(&1), "{offline:?}");
        Ok(())
    })
    .await?;
    publisher.publish("devices/fern-1/telemetry", 1, br#"{"t":1}"#)?;
    becomes(&client, "fern-1", Presence::Online).await?;
    Ok(())
}

/// The changes that a watch tells, until there are so many.
async fn changes(
    mut events: Vec<Event>,
    stream: &mut Streaming<WatchDeviceResponse>,
    count: usize,
) -> anyhow::Result<Vec<PresenceChange>> {
    loop {
        let changes: Vec<_> = events.iter().filter_map(|event| event.presence).collect();
        if changes.len() >= count {
            return Ok(changes);
        }
        let response = timeout(e2e::DEADLINE, stream.message()).await;
        let response = response.context("the watch is silent")??.context("the watch ended")?;
        events.extend(response.events);
    }
}

/// A device that is killed, and one that falls silent; two stores judge, and tell it once.
#[tokio::test]
async fn watchers_see_each_change_once_from_two_stores() -> anyhow::Result<()> {
    let system = system(Database::Timescale, "3s").await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let _other = system.another_store(&address)?;
    health_becomes(&address, true).await?;
    let publisher = system.device();
    let clients = [system.client().await?, Client::connect(&address).await?];
    let topic = "devices/fern-1/status";
    let will = r#"{"status":"offline"}"#;
    let mut mortal = RawDevice::connect_with_will(system.broker.port(), topic, will).await?;
    mortal.publish(topic, b"online").await?;
    becomes(&clients[0], "fern-1", Presence::Online).await?;
    drop(mortal);
    let fern = becomes(&clients[1], "fern-1", Presence::Offline).await?;
    ensure!(fern.presence_reason() == PresenceReason::LastWill, "{fern:?}");

    publisher.publish("devices/fern-2/heartbeat", 1, b"")?;
    becomes(&clients[1], "fern-2", Presence::Offline).await?;
    publisher.publish("devices/fern-2/heartbeat", 1, b"")?;
    for client in &clients {
        becomes(client, "fern-2", Presence::Online).await?;
        let (first, mut stream) = client.watch("fern-2", "0").await?;
        let changes = changes(first.events, &mut stream, 3).await?;
        let told: Vec<_> = changes.iter().map(|c| (c.state(), c.reason())).collect();
        let online = (Presence::Online, PresenceReason::Heard);
        ensure!(told[..3] == [online, (Presence::Offline, PresenceReason::Silence), online]);
    }
    Ok(())
}

const DEVICES: i64 = 10_000;
/// While something is away, they publish until this long is over: longer than `OFFLINE_AFTER`.
const AWAY: Duration = Duration::from_secs(18);

/// Lets all devices send heartbeats one after the other, again and again, whatever happens to the
/// broker. Tells how often each has done so.
async fn beat(port: u16, rounds: watch::Sender<u64>) {
    loop {
        let Ok(mut device) = RawDevice::connect(port).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        loop {
            let mut all_sent = true;
            for n in 0..DEVICES {
                let topic = format!("devices/fern-{n}/heartbeat");
                if device.publish(&topic, b"").await.is_err() {
                    all_sent = false;
                    break;
                }
            }
            if !all_sent {
                break;
            }
            rounds.send_modify(|rounds| *rounds += 1);
        }
    }
}

/// Waits until each device is online again, and fails if one was ever told to be offline.
async fn online(system: &System, after: &str) -> anyhow::Result<()> {
    let postgres = system.postgres.as_ref().context("no database")?;
    let patience = Duration::from_secs(90);
    eventually_within(patience, &format!("all are online after {after}"), async || {
        let mut database = postgres.connect().await?;
        let online: i64 = sqlx::query_scalar("SELECT count(*) FROM devices WHERE presence = 2")
            .fetch_one(&mut database)
            .await?;
        ensure!(online == DEVICES, "{online} are online");
        Ok(())
    })
    .await?;
    let mut database = postgres.connect().await?;
    let log: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT event FROM device_log").fetch_all(&mut database).await?;
    let mut states = BTreeSet::new();
    for record in log {
        let event = Event::decode(record.as_slice())?;
        if let Some(change) = event.presence {
            ensure!(change.state() != Presence::Offline, "{after}: {event:?}");
            states.insert(change.state);
        }
    }
    e2e_says(&format!("{after}: {states:?}"));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "speaks to whoever runs the tests")]
fn e2e_says(text: &str) {
    eprintln!("{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_death_of_ours_makes_a_device_offline() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    let postgres = PostgresDatabase::create_on(cluster.url()).await?;
    let mut system = System::prepare(Mosquitto::start().await?, Some(postgres)).await?;
    system.set_of_store("OFFLINE_AFTER", "15s");
    system.restart_store().await?;
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let (rounds, mut done) = watch::channel(0);
    let mut beating = JoinSet::new();
    beating.spawn(beat(system.broker.port(), rounds));
    timeout(Duration::from_mins(2), done.wait_for(|rounds| *rounds > 0)).await??;

    for dies in ["bridge", "store", "broker", "database"] {
        online(&system, "all is well").await?;
        match dies {
            "bridge" => drop(system.bridge.take()),
            "store" => drop(system.store.take()),
            "broker" => system.broker.kill()?,
            _ => cluster.kill()?,
        }
        sleep(AWAY).await;
        match dies {
            "bridge" => system.start_bridge()?,
            "store" => system.launch_store()?,
            "broker" => system.broker.restart().await?,
            _ => cluster.restart().await?,
        }
        health_becomes(&system.store_address(), true).await?;
        online(&system, dies).await?;
    }
    Ok(())
}

async fn explain(client: &Client, id: &str) -> anyhow::Result<ExplainDeviceResponse> {
    let request = ExplainDeviceRequest { device_id: id.to_owned() };
    Ok(client.diagnostics.clone().explain_device(request).await?.into_inner())
}

/// Waits until a finding about a device is so severe and says this.
async fn explained(
    client: &Client,
    id: &str,
    severity: Severity,
    word: &str,
) -> anyhow::Result<ExplainDeviceResponse> {
    eventually(&format!("{id} is explained"), async || {
        let answer = explain(client, id).await?;
        let mut findings = answer.findings.iter();
        let is_said = findings.any(|f| f.severity() == severity && f.text.contains(word));
        ensure!(is_said, "{answer:?}");
        Ok(answer)
    })
    .await
}

async fn each_case_is_explained(database: Database) -> anyhow::Result<()> {
    let mut system = system(database, "60s").await?;
    let (client, publisher) = (system.client().await?, system.device());
    let send = |id: &str, what: &str, payload: &str| {
        publisher.publish(&format!("devices/{id}/{what}"), 1, payload.as_bytes())
    };
    send("healthy", "telemetry", r#"{"t":1}"#)?;
    let answer = explained(&client, "healthy", Severity::Info, "online").await?;
    let known = answer.device.context("no device")?;
    let counts = known.counts.context("no counts")?;
    ensure!((counts.messages, counts.readings, counts.quarantined) == (1, 1, 0), "{counts:?}");
    ensure!(known.last_topic == "devices/healthy/telemetry");
    let bridge = answer.bridges.first().context("no bridge")?;
    let report = bridge.report.as_ref().context("no report")?;
    ensure!(report.connected && report.subscriptions.len() == 3, "{report:?}");

    send("silent", "status", "offline")?;
    explained(&client, "silent", Severity::Error, "status topic says so").await?;
    send("garbage", "telemetry", "not json")?;
    let answer =
        explained(&client, "garbage", Severity::Error, "newest message was refused").await?;
    let rejection = answer.last_rejection.context("no rejection")?;
    ensure!(rejection.reason == "not_json" && rejection.field == "payload", "{rejection:?}");
    send("half", "heartbeat", "")?;
    send("half", "status", "asleep")?;
    let answer = explained(&client, "half", Severity::Error, "unknown_status").await?;
    ensure!(answer.device.and_then(|d| d.counts).map(|c| c.quarantined) == Some(1));
    let ahead = SystemTime::UNIX_EPOCH.elapsed()?.as_secs() + 7200;
    send("ahead", "telemetry", &format!(r#"{{"ts":{ahead}000,"t":1}}"#))?;
    explained(&client, "ahead", Severity::Warning, "ahead and not believed").await?;
    explained(&client, "stranger", Severity::Error, "ever received").await?;
    let error = explain(&client, "a/b").await.unwrap_err();
    let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    ensure!(code == Some(Code::InvalidArgument), "{error}");

    system.broker.kill()?;
    explained(&client, "healthy", Severity::Error, "not connected").await?;
    drop(system.bridge.take());
    explained(&client, "healthy", Severity::Error, "not reported").await?;
    Ok(())
}
