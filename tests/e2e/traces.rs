//! One message's whole way, as a real receiver of OTLP sees it.

use e2e::{Database, OtlpReceiver, System, events};
use telemetry_proto::v1::{WatchDeviceRequest, WatchDeviceResponse};
use tonic::Streaming;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PUBLISHER: &str = "00f067aa0ba902b7";

/// A system that sends its traces.
async fn traced(
    receiver: &OtlpReceiver,
    sampler: &str,
) -> anyhow::Result<(System, Streaming<WatchDeviceResponse>)> {
    let mut system = System::start_store(Database::Sqlite).await?;
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint().as_str()),
        ("OTEL_TRACES_SAMPLER", sampler),
    ] {
        system.set_bridge(variable, value);
        system.set_of_store(variable, value);
    }
    system.restart_store().await?;
    system.start_bridge()?;
    e2e::health_becomes(&system.bridge_address(), true).await?;
    let request = WatchDeviceRequest { device_id: "fern-1".into(), ..Default::default() };
    let watch = system.client().await?.watch.watch_device(request).await?.into_inner();
    Ok((system, watch))
}

/// Follows the spans of a message from its publisher's, if that has one; answers the last one, and
/// its trace.
async fn follow(receiver: &OtlpReceiver, publisher: &[u8]) -> anyhow::Result<(String, String)> {
    let mut parent = publisher.to_vec();
    let mut trace = None;
    for (service, name) in [
        ("mqtt-bridge", "mqtt receive"),
        ("mqtt-bridge", "ingest request"),
        ("telemetry-store", "store append"),
        ("telemetry-store", "watch deliver"),
    ] {
        let span = receiver.span(service, name, &parent).await?;
        anyhow::ensure!(*trace.get_or_insert(hex(&span.trace_id)) == hex(&span.trace_id), "{name}");
        anyhow::ensure!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
        anyhow::ensure!(span.status.is_none_or(|status| status.message.is_empty()), "{name}");
        parent = span.span_id;
    }
    Ok((hex(&parent), trace.unwrap_or_default()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_message_is_followed_from_its_publisher_to_its_watcher() -> anyhow::Result<()> {
    let receiver = OtlpReceiver::start().await?;
    // Only what its publisher traces.
    let (system, mut watch) = traced(&receiver, "parentbased_always_off").await?;
    let device = system.device();
    device.publish("devices/fern-1/telemetry", 1, br#"{"temperature":21}"#)?;
    let traceparent = format!("00-{TRACE}-{PUBLISHER}-01");
    let property = ("traceparent", traceparent.as_str());
    device.publish_with("devices/fern-1/telemetry", property, br#"{"temperature":22}"#)?;
    let not_sampled = format!("00-{TRACE}-{PUBLISHER}-00");
    let property = ("traceparent", not_sampled.as_str());
    device.publish_with("devices/fern-1/telemetry", property, br#"{"temperature":23}"#)?;

    let (seen, _) = events(&mut watch, 3).await?;
    let publisher = u64::from_str_radix(PUBLISHER, 16)?.to_be_bytes();
    let (last, trace) = follow(&receiver, &publisher).await?;
    assert_eq!(trace, TRACE);
    let carried: Vec<_> = seen.iter().map(|event| event.trace_parent.as_str()).collect();
    assert_eq!(carried, ["", &format!("00-{TRACE}-{last}-01"), ""]);
    assert_eq!(receiver.spans().len(), 4, "{:?}", receiver.spans());
    Ok(())
}

#[tokio::test]
async fn what_is_left_of_traces_is_sent_at_the_end() -> anyhow::Result<()> {
    let receiver = OtlpReceiver::start().await?;
    let (mut system, mut watch) = traced(&receiver, "always_on").await?;
    system.device().publish("devices/fern-1/telemetry", 1, br#"{"temperature":21}"#)?;
    events(&mut watch, 1).await?;
    for mut process in [system.bridge.take(), system.store.take()].into_iter().flatten() {
        process.terminate()?;
        assert!(process.ended().await?.success(), "{:?}", process.log());
    }
    // Nobody waits here: what was not sent at the end never comes.
    let sent = receiver.spans();
    for name in ["mqtt receive", "ingest request", "store append", "watch deliver"] {
        assert!(sent.iter().any(|(_, span)| span.name == name), "{name}: {sent:?}");
    }
    follow(&receiver, b"").await?;
    Ok(())
}
