//! Messages that the broker sends only once (`QoS` 0), or again and again (retained).

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use e2e::{
    Client, Database, Manners, Mosquitto, RefusingBroker, System, eventually, health_becomes,
    scrape,
};
use telemetry_proto::v1::{ListDevicesRequest, ListReadingsRequest, reading};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::interval,
};

/// A device that publishes numbered messages at `QoS` 0, ten at each tick, until it is told to stop:
/// so few that a broker on a busy machine need not queue them before its socket, as what is queued
/// there when we leave is lost by the broker.
struct Stream {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<i64>>,
}

impl Stream {
    #[expect(clippy::disallowed_methods, reason = "whoever stops it awaits it")]
    async fn start(broker: &Mosquitto, text_bytes: usize, tick_ms: u64) -> anyhow::Result<Self> {
        let mut broker = connect(broker).await?;
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut pace = interval(Duration::from_millis(tick_ms));
            let mut next = 0;
            while stopped.try_recv().is_err() {
                pace.tick().await;
                let numbers = next..next + 10;
                let packets: Vec<u8> = numbers.flat_map(|n| publish(n, text_bytes)).collect();
                broker.write_all(&packets).await?;
                next += 10;
            }
            // The answer to a ping says that the broker has read all before it.
            broker.write_all(&[0xc0, 0]).await?;
            broker.read_exact(&mut [0; 2]).await?;
            Ok(next)
        });
        Ok(Self { stop, task })
    }

    /// How many messages it published.
    async fn stop(self) -> anyhow::Result<i64> {
        ensure!(self.stop.send(()).is_ok(), "the stream ended: {:?}", self.task.await);
        self.task.await?
    }
}

/// Connects as a device, with MQTT 3.1.1 and no keep-alive.
async fn connect(broker: &Mosquitto) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).await?;
    let mut body = [&text("MQTT"), &[4, 0xc2, 0, 0][..]].concat();
    for part in ["stream", Mosquitto::DEVICE, Mosquitto::PASSWORD] {
        body.extend(text(part));
    }
    stream.write_all(&packet(0x10, &body)).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    ensure!(connack == [0x20, 2, 0, 0], "{connack:?}");
    Ok(stream)
}

fn publish(n: i64, text_bytes: usize) -> Vec<u8> {
    let x = "x".repeat(text_bytes);
    let payload = format!("{{\"ts\":{},\"n\":{n},\"x\":\"{x}\"}}", BASE + n);
    packet(0x30, &[&text("devices/fern-1/telemetry"), payload.as_bytes()].concat())
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let byte = |length: usize| u8::try_from(length).unwrap();
    // The length takes two bytes, whether it needs them or not.
    let length = [0x80 | byte(body.len() % 128), byte(body.len() / 128)];
    [&[kind][..], &length, body].concat()
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&length, text.as_bytes()].concat()
}

const BASE: i64 = 1_767_787_200;

/// The numbers that are stored.
async fn numbers(client: &Client) -> anyhow::Result<BTreeSet<i64>> {
    let (mut numbers, mut page_token) = (BTreeSet::new(), String::new());
    loop {
        let request = ListReadingsRequest {
            device_id: "fern-1".to_owned(),
            metrics: vec!["n".to_owned()],
            page_size: 10_000,
            page_token,
            ..Default::default()
        };
        let page = client.query.clone().list_readings(request).await?.into_inner();
        for reading in page.readings {
            let Some(reading::Value::Integer(n)) = reading.value else {
                anyhow::bail!("not a number: {reading:?}");
            };
            ensure!(numbers.insert(n), "{n} is stored twice");
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(numbers);
        }
    }
}

async fn all_come(client: &Client, count: i64) -> anyhow::Result<()> {
    eventually("all are stored", async || {
        let numbers = numbers(client).await?;
        let missing: Vec<_> = (0..count).filter(|n| !numbers.contains(n)).collect();
        let (first, last) = (missing.first(), missing.last());
        ensure!(missing.is_empty(), "{} of {count} are not: {first:?}..{last:?}", missing.len());
        Ok(())
    })
    .await
}

/// While the store is away the bridge leaves its session to the broker, and comes back after.
async fn leaves_and_returns(mut system: System, tick_ms: u64) -> anyhow::Result<()> {
    system.set_bridge("MQTT_WINDOW_BYTES", &(24 << 20).to_string());
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let stream = Stream::start(&system.broker, 4000, tick_ms).await?;
    system.client().await?.readings_come("fern-1", 100).await?;
    drop(system.store.take());
    system.bridge()?.logged("left the MQTT broker", 1).await?;
    system.restart_store().await?;
    health_becomes(&system.bridge_address(), true).await?;
    let published = stream.stop().await?;
    all_come(&system.client().await?, published).await?;
    ensure!(!system.bridge()?.log().join("\n").contains("window_full"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_is_not_lost_while_the_store_is_away() -> anyhow::Result<()> {
    leaves_and_returns(System::start_store(Database::Sqlite).await?, 10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_with_tls() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.use_tls(true);
    leaves_and_returns(system, 30).await
}

/// The store is there and stores nothing, so the bridge does not leave; the broker has more than the
/// window holds.
#[tokio::test(flavor = "multi_thread")]
async fn qos_0_that_comes_faster_than_it_is_stored_is_held_back() -> anyhow::Result<()> {
    const COUNT: i64 = 10_000;
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_bridge("MQTT_WINDOW_BYTES", &(8 << 20).to_string());
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let store = system.store.as_ref().context("no store")?;
    store.signal("STOP")?;
    let mut device = connect(&system.broker).await?;
    for n in 0..COUNT {
        device.write_all(&publish(n, 4000)).await?;
    }
    let before = Cell::new(0);
    eventually("the bridge takes no more", async || {
        let page = scrape(&system.bridge_metrics()).await?;
        let received = page["telemetry_bridge_messages_received_total"];
        let was = before.replace(received);
        ensure!(received > 0 && received == was, "{received} after {was}");
        Ok(())
    })
    .await?;
    ensure!(before.get() < COUNT.unsigned_abs() / 2, "it has taken {}", before.get());
    store.signal("CONT")?;
    all_come(&system.client().await?, COUNT).await?;
    ensure!(!system.bridge()?.log().join("\n").contains("window_full"));
    Ok(())
}

/// What the broker sends after we have closed our direction, and before it hangs up.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_stops_hears_the_broker_out() -> anyhow::Result<()> {
    const COUNT: u8 = 200;
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_broker(RefusingBroker::start(Manners::LastWords(COUNT))?.port());
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let mut bridge = system.bridge.take().context("no bridge")?;
    bridge.terminate()?;
    ensure!(bridge.ended().await?.code() == Some(0), "{:?}", bridge.log());
    all_come(&system.client().await?, COUNT.into()).await
}

#[tokio::test]
async fn a_retained_message_is_no_news() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    let device = system.device();
    device.publish_retained("devices/undated/telemetry", br#"{"t":1}"#)?;
    device.publish_retained("devices/uptime/telemetry", br#"{"ts":60000,"t":1}"#)?;
    device
        .publish_retained("devices/dated/telemetry", br#"{"ts":"2026-01-07T12:00:00Z","t":1}"#)?;
    device.publish_retained("devices/silent/heartbeat", br#"{"ts":"2026-01-07T12:00:00Z"}"#)?;
    let client = system.client().await?;
    for session in ["one", "two"] {
        system.set_bridge("MQTT_CLIENT_ID", session);
        system.start_bridge()?;
        health_becomes(&system.bridge_address(), true).await?;
        system.bridge()?.logged("reason=retained", 3).await?;
        // What comes after it is stored after it.
        device.publish(&format!("devices/{session}/telemetry"), 1, br#"{"t":1}"#)?;
        client.readings_come(session, 1).await?;
    }
    let devices =
        client.query.clone().list_devices(ListDevicesRequest::default()).await?.into_inner();
    let ids: BTreeSet<_> = devices.devices.iter().map(|device| device.device_id.as_str()).collect();
    ensure!(ids == BTreeSet::from(["dated", "one", "two"]), "{ids:?}");
    ensure!(client.readings("dated").await?.len() == 1);
    Ok(())
}
