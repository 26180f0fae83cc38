//! An identity that is good for some devices only, and identities that end.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Client, Secured};
use telemetry_model::{Clock, SystemClock};
use telemetry_proto::v1::{
    BridgeReport, DeviceState, EventKind, ExplainDeviceRequest, ExportReadingsRequest,
    GetDeviceRequest, GetLatestReadingsRequest, IngestEvent, IngestRequest, ListDevicesRequest,
    ListMetricsRequest, ListQuarantineRequest, ListReadingsRequest, Listening, Measurement,
    Presence, Sample, Sender, SummarizeReadingsRequest, WatchDeviceRequest, WatchDevicesRequest,
    measurement::Value,
};
use tonic::Code;

use super::{list, refused};

/// An event of a device.
pub(super) fn event(device: &str) -> IngestEvent {
    let value = Some(Value::Number(1.0));
    let measurements = vec![Measurement { metric: "t".into(), value }];
    IngestEvent {
        device_id: device.to_owned(),
        kind: EventKind::Telemetry.into(),
        received: Some(telemetry_proto::wire_timestamp(SystemClock.now())),
        samples: vec![Sample { measurements, ..Sample::default() }],
        ..IngestEvent::default()
    }
}

/// Sends events in one request, and answers what was rejected: sequence and field.
pub(super) async fn send(client: &Client, devices: &[&str]) -> anyhow::Result<Vec<(u64, String)>> {
    let events: Vec<_> = devices.iter().map(|device| event(device)).collect();
    let last = events.len() as u64;
    let request = IngestRequest { first_sequence: 1, events, flush: true, ..Default::default() };
    let mut answers =
        client.ingest.clone().ingest(tokio_stream::iter([request])).await?.into_inner();
    let (mut rejections, mut acked) = (Vec::new(), 0);
    while let Some(answer) = answers.message().await? {
        acked = answer.acked_through;
        rejections.extend(answer.rejections.into_iter().map(|r| (r.sequence, r.field)));
    }
    ensure!(acked == last, "{acked} of {last} acknowledged");
    Ok(rejections)
}

#[tokio::test]
async fn what_is_of_other_devices_is_neither_seen_nor_written() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let all = store.token("root", "admin", "").await?;
    let own = store.token("alice", "read,ingest", "fern-,ivy-").await?;
    let (all, own) = (store.client(&all).await?, store.client(&own).await?);
    ensure!(send(&all, &["moss-1", "fern-0", "fer"]).await?.is_empty());

    // One event that she may not send does not keep the others out, nor break the stream.
    let rejected = send(&own, &["fern-1", "moss-1", "ivy-1"]).await?;
    ensure!(rejected == [(2, "device_id".to_owned())], "{rejected:?}");

    let devices = |client: &Client| {
        let mut query = client.query.clone();
        async move {
            let request = ListDevicesRequest { page_size: 2, ..Default::default() };
            let (mut ids, mut request) = (Vec::new(), request);
            loop {
                let page = query.list_devices(request.clone()).await?.into_inner();
                ids.extend(page.devices.into_iter().map(|device| device.device_id));
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    return anyhow::Ok(ids);
                }
            }
        }
    };
    ensure!(devices(&own).await? == ["fern-0", "fern-1", "ivy-1"]);
    ensure!(devices(&all).await? == ["fer", "fern-0", "fern-1", "ivy-1", "moss-1"]);

    let quarantine = |client: &Client, device: &str| {
        let device_id = device.to_owned();
        let request = ListQuarantineRequest { device_id, ..Default::default() };
        let mut diagnostics = client.diagnostics.clone();
        async move { diagnostics.list_quarantine(request).await.map(|page| page.into_inner().messages) }
    };
    let kept = quarantine(&all, "moss-1").await?;
    ensure!(kept.len() == 1 && kept[0].reason == "not_permitted", "{kept:?}");
    ensure!(quarantine(&own, "").await?.is_empty() && quarantine(&own, "moss-1").await?.is_empty());

    for device_id in ["moss-1".to_owned(), "fer".to_owned()] {
        let id = || device_id.clone();
        let denied = Code::PermissionDenied;
        let mut query = own.query.clone();
        let request = GetDeviceRequest { device_id: id() };
        refused(query.get_device(request).await.map(drop), denied)?;
        let request = GetLatestReadingsRequest { device_id: id(), ..Default::default() };
        refused(query.get_latest_readings(request).await.map(drop), denied)?;
        let request = ListReadingsRequest { device_id: id(), ..Default::default() };
        refused(query.list_readings(request).await.map(drop), denied)?;
        let request = ListMetricsRequest { device_id: id() };
        refused(query.list_metrics(request).await.map(drop), denied)?;
        let request = WatchDeviceRequest { device_id: id(), ..Default::default() };
        refused(own.watch.clone().watch_device(request).await.map(drop), denied)?;
        let device_ids = vec!["fern-1".to_owned(), id()];
        let request = WatchDevicesRequest { device_ids, ..Default::default() };
        refused(own.watch.clone().watch_devices(request).await.map(drop), denied)?;
        let request = WatchDevicesRequest { device_id_prefix: id(), ..Default::default() };
        // A prefix may be wider than what is ours: then only ours is followed.
        let outcome = own.watch.clone().watch_devices(request).await.map(drop);
        if device_id == "fer" {
            outcome?;
        } else {
            refused(outcome, denied)?;
        }
        let request = ExportReadingsRequest { device_id: id(), ..Default::default() };
        refused(query.export_readings(request).await.map(drop), denied)?;
        let mut request = summary(&["fern-1", &device_id]);
        refused(query.summarize_readings(request.clone()).await.map(drop), denied)?;
        (request.device_id, request.device_ids) = (id(), vec![]);
        refused(query.summarize_readings(request).await.map(drop), denied)?;
        let request = ExplainDeviceRequest { device_id: id() };
        refused(own.diagnostics.clone().explain_device(request).await.map(drop), denied)?;
    }
    let request = ExportReadingsRequest::default();
    refused(own.query.clone().export_readings(request).await.map(drop), Code::PermissionDenied)?;
    own.query.clone().summarize_readings(summary(&["fern-1"])).await?;
    // A token of one's own leads nowhere else, however it is changed.
    let device_id = "fern-1".to_owned();
    let mut request = ExportReadingsRequest { device_id, ..Default::default() };
    let mut export = own.query.clone().export_readings(request.clone()).await?.into_inner();
    let chunk = export.message().await?.context("nothing is exported")?;
    for (other, code) in [("moss-1", Code::PermissionDenied), ("ivy-1", Code::InvalidArgument)] {
        request.page_token = chunk.next_page_token.replace("fern-1", other);
        refused(own.query.clone().export_readings(request.clone()).await.map(drop), code)?;
    }
    // Whoever follows all devices follows those that are his.
    let request = WatchDevicesRequest {
        after_cursor: "0".to_owned(),
        include_state: true,
        ..Default::default()
    };
    let (first, mut stream) = own.watch_many(request).await?;
    let is_own = |id: &str| id.starts_with("fern-") || id.starts_with("ivy-");
    ensure!(first.states.iter().all(|state| is_own(id_of(state))), "{first:?}");
    let (events, _) = e2e::events(&mut stream, 3).await?;
    ensure!(events.iter().all(|event| is_own(&event.device_id)), "{events:?}");
    let request = ListMetricsRequest { device_id: String::new() };
    refused(own.query.clone().list_metrics(request).await.map(drop), Code::PermissionDenied)
}

/// Whether devices are silent is for those to say who may listen to all of them.
#[tokio::test]
async fn who_may_deal_with_some_devices_does_not_speak_for_the_path_to_all() -> anyhow::Result<()> {
    let store = Secured::start(&[("OFFLINE_AFTER", "1s".to_owned())]).await?;
    let all = store.client(&store.token("root", "admin", "").await?).await?;
    let own = store.client(&store.token("alice", "ingest", "fern-").await?).await?;
    ensure!(send(&all, &["moss-1"]).await?.is_empty());
    let now = SystemClock.now();
    let hour = Duration::from_hours(1);
    let told = |time| Some(telemetry_proto::wire_timestamp(time));
    let request = IngestRequest {
        first_sequence: 1,
        sender: Some(Sender {
            process_id: "forged".into(),
            client_id: "bridge".into(),
            started: told(now),
        }),
        report: Some(BridgeReport {
            connected: true,
            listening: Some(Listening {
                since: told(now.minus(hour)),
                through: told(now.plus(hour)),
                leaves: false,
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut answers = own.ingest.clone().ingest(tokio_stream::iter([request])).await?.into_inner();
    while answers.message().await?.is_some() {}
    e2e::eventually("nobody knows where moss-1 is", async || {
        let request = GetDeviceRequest { device_id: "moss-1".into() };
        let answer = all.query.clone().get_device(request).await?.into_inner();
        let presence = answer.device.context("no device")?.presence();
        ensure!(presence == Presence::Unknown, "{presence:?}");
        Ok(())
    })
    .await
}

fn id_of(state: &DeviceState) -> &str {
    state.device.as_ref().map_or("", |device| device.device_id.as_str())
}

fn summary(devices: &[&str]) -> SummarizeReadingsRequest {
    SummarizeReadingsRequest {
        device_ids: devices.iter().map(ToString::to_string).collect(),
        metric: "t".to_owned(),
        start_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
        end_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
        max_points: 10,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_token_that_is_taken_out_of_the_file_ends_its_streams() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let alice = store.token("alice", "read", "").await?;
    let before = std::fs::read_to_string(store.file("tokens"))?;
    let bob = store.token("bob", "read", "").await?;
    let (alice, bob) = (store.client(&alice).await?, store.client(&bob).await?);
    let (_, mut watch) = alice.watch("fern-1", "").await?;
    let (_, mut bobs) = bob.watch("fern-1", "").await?;

    // A file that cannot be used changes nothing, and is said with its line.
    std::fs::write(store.file("tokens"), "alice everything sha256:12\n")?;
    store.process.logged("line 1", 1).await?;
    list(&alice).await?;

    store.authorize(&before).await?;
    let status = bobs.message().await.err().context("it goes on")?;
    ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    refused(list(&bob).await, Code::Unauthenticated)?;
    list(&alice).await?;
    // Nor does one go on that may do something else from now on.
    store.authorize(&before.replace("alice read", "alice ingest")).await?;
    let status = watch.message().await.err().context("it goes on")?;
    ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    refused(list(&alice).await, Code::PermissionDenied)
}
