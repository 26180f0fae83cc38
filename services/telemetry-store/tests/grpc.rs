//! The store's gRPC surface, in process on a free port: what it answers, and how it refuses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use clap::Parser;
use service_kit::lifecycle::Lifecycle;
use telemetry_proto::v1::{
    self, EventKind, IngestEvent, IngestRequest, IngestResponse, Measurement, Sample,
    admin_service_client::AdminServiceClient, ingest_service_client::IngestServiceClient,
    measurement::Value, query_service_client::QueryServiceClient,
    watch_service_client::WatchServiceClient,
};
use telemetry_store::{Cli, Server};
use tempfile::TempDir;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

/// A store on SQLite that runs as long as the test.
struct Store {
    channel: Channel,
    lifecycle: Lifecycle,
    tasks: Lifecycle,
    _folder: TempDir,
}

impl Store {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/telemetry.db", folder.path().display());
        let cli = Cli::try_parse_from(["x", "--database-url", &url, "--listen", "127.0.0.1:0"]);
        let server = Server::bind(cli.unwrap().settings).await.unwrap();
        let url = format!("http://{}", server.local_addr());
        let (lifecycle, tasks) = (Lifecycle::new(), Lifecycle::new());
        tasks.spawn("store", server.run(lifecycle.clone()));
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        Self { channel, lifecycle, tasks, _folder: folder }
    }

    fn query(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone())
    }

    /// Sends requests and answers what came back, and how the stream ended.
    async fn ingest(&self, requests: Vec<IngestRequest>) -> (Vec<IngestResponse>, Option<Status>) {
        let mut client = IngestServiceClient::new(self.channel.clone());
        let stream = client.ingest(tokio_stream::iter(requests)).await.unwrap();
        drain(stream.into_inner()).await
    }
}

async fn drain<T>(mut stream: Streaming<T>) -> (Vec<T>, Option<Status>) {
    let mut all = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => all.push(message),
            Ok(None) => return (all, None),
            Err(status) => return (all, Some(status)),
        }
    }
}

fn event(device: &str, seconds: i64, values: &[(&str, Value)]) -> IngestEvent {
    let time = prost_types::Timestamp { seconds: 1_767_787_200 + seconds, nanos: 0 };
    let measurement = |(metric, value): &(&str, Value)| Measurement {
        metric: (*metric).to_owned(),
        value: Some(value.clone()),
    };
    let clock = Some(v1::sample::Clock::Time(time));
    IngestEvent {
        device_id: device.to_owned(),
        kind: EventKind::Telemetry.into(),
        received: Some(time),
        samples: vec![Sample { clock, measurements: values.iter().map(measurement).collect() }],
        ..IngestEvent::default()
    }
}

fn request(first_sequence: u64, events: Vec<IngestEvent>) -> IngestRequest {
    IngestRequest { first_sequence, events, flush: true, ..IngestRequest::default() }
}

#[tokio::test]
async fn acknowledgements_are_cumulative_and_name_what_was_refused() {
    let store = Store::start().await;
    let good = |seconds| event("fern-1", seconds, &[("t", Value::Integer(seconds))]);
    let mut silent = good(9);
    silent.samples.clear();
    let requests = vec![
        request(1, vec![good(0), event("bad id", 0, &[("t", Value::Flag(true))]), good(1)]),
        request(4, vec![silent, event("fern-1", 2, &[("t", Value::Number(f64::NAN))]), good(0)]),
    ];
    let (responses, ended) = store.ingest(requests).await;
    assert!(ended.is_none(), "{ended:?}");
    assert_eq!(responses.first().unwrap().acked_through, 0, "the first says: ready");
    assert_eq!(responses.last().unwrap().acked_through, 6);
    let (stored, duplicates): (u64, u64) =
        responses.iter().fold((0, 0), |sum, r| (sum.0 + r.stored, sum.1 + r.duplicates));
    assert_eq!((stored, duplicates), (2, 1));
    let refused: Vec<_> = responses.iter().flat_map(|r| &r.rejections).collect();
    let refused: Vec<_> = refused.iter().map(|r| (r.sequence, r.field.as_str())).collect();
    let number = "samples[0].measurements[0].number";
    assert_eq!(refused, [(2, "device_id"), (4, "samples"), (5, number)]);
}

#[tokio::test]
async fn a_sequence_with_a_gap_ends_the_stream() {
    let store = Store::start().await;
    let one = || vec![event("fern-1", 0, &[("t", Value::Integer(1))])];
    let (responses, ended) = store.ingest(vec![request(1, one()), request(3, one())]).await;
    let status = ended.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(violated_field(&status), "first_sequence");
    assert_eq!(responses.last().unwrap().acked_through, 1, "what was good is acknowledged");
}

#[tokio::test]
async fn a_sender_goes_on_where_it_was_settled() {
    let store = Store::start().await;
    let good = |seconds| event("fern-1", seconds, &[("t", Value::Integer(seconds))]);
    let hello = |first_sequence| IngestRequest {
        first_sequence,
        sender: Some(v1::Sender {
            process_id: "p".into(),
            client_id: "bridge".into(),
            started: Some(prost_types::Timestamp::default()),
        }),
        ..IngestRequest::default()
    };
    let (responses, _) = store.ingest(vec![hello(1), request(1, vec![good(0), good(1)])]).await;
    let acked: Vec<_> = responses.iter().map(|response| response.acked_through).collect();
    assert_eq!(acked, [0, 2]);
    // The answer to the second one was lost; the third is new.
    let (responses, _) = store.ingest(vec![hello(2), request(3, vec![good(2)])]).await;
    let acked: Vec<_> = responses.iter().map(|response| response.acked_through).collect();
    assert_eq!(acked, [2, 3]);
    for (requests, field) in [
        (vec![hello(u64::MAX)], "first_sequence"),
        (vec![request(1, vec![good(3)]), hello(1)], "sender"),
        (
            vec![IngestRequest { sender: Some(v1::Sender::default()), ..hello(1) }],
            "sender.process_id",
        ),
    ] {
        let (_, ended) = store.ingest(requests).await;
        assert_eq!(violated_field(&ended.unwrap()), field);
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_named() {
    let store = Store::start().await;
    let text = Value::Text("x".repeat(4000));
    let values: Vec<_> = (0..1000).map(|_| ("t", text.clone())).collect();
    let large = event("fern-1", 0, &values);
    let (_, ended) = store.ingest(vec![request(1, vec![large.clone(), large])]).await;
    assert_eq!(ended.unwrap().code(), Code::ResourceExhausted);
}

fn violated_field(status: &Status) -> String {
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.first().unwrap().field.clone()
}

#[tokio::test]
async fn bad_requests_name_the_field() {
    let store = Store::start().await;
    let readings = v1::ListReadingsRequest { device_id: "fern-1".into(), ..Default::default() };
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for (request, field) in [
        (v1::ListReadingsRequest { device_id: "a/b".into(), ..readings.clone() }, "device_id"),
        (v1::ListReadingsRequest { page_size: -1, ..readings.clone() }, "page_size"),
        (v1::ListReadingsRequest { order: 3, ..readings.clone() }, "order"),
        (v1::ListReadingsRequest { page_token: "x".into(), ..readings.clone() }, "page_token"),
        (
            v1::ListReadingsRequest { metrics: vec![String::new()], ..readings.clone() },
            "metrics[0]",
        ),
        (
            v1::ListReadingsRequest { start_time: time(2), end_time: time(2), ..readings.clone() },
            "end_time",
        ),
    ] {
        let status = store.query().list_readings(request).await.unwrap_err();
        assert_eq!(
            (status.code(), violated_field(&status).as_str()),
            (Code::InvalidArgument, field)
        );
    }
    let status = store.query().list_readings(readings).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let summarize = v1::SummarizeReadingsRequest {
        device_id: "fern-1".into(),
        metric: "t".into(),
        start_time: time(0),
        end_time: time(1_000_000),
        bucket_width: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let status = store.query().summarize_readings(summarize).await.unwrap_err();
    assert_eq!(violated_field(&status), "bucket_width");
}

#[tokio::test]
async fn pages_lead_to_the_end_and_tokens_serve_their_own_request() {
    let store = Store::start().await;
    let events = (0..25).map(|n| event("fern-1", n, &[("t", Value::Integer(n))])).collect();
    store.ingest(vec![request(1, events)]).await;
    let mut page =
        v1::ListReadingsRequest { device_id: "fern-1".into(), page_size: 10, ..Default::default() };
    let mut counts = Vec::new();
    loop {
        let answer = store.query().list_readings(page.clone()).await.unwrap().into_inner();
        counts.push(answer.readings.len());
        if answer.next_page_token.is_empty() {
            break;
        }
        page.page_token = answer.next_page_token;
    }
    assert_eq!(counts, [10, 10, 5]);
    page.order = v1::Order::NewestFirst.into();
    let status = store.query().list_readings(page).await.unwrap_err();
    assert_eq!(violated_field(&status), "page_token");
}

#[tokio::test]
async fn watches_end_as_unavailable_and_expired_cursors_name_the_range() {
    let store = Store::start().await;
    let mut client = WatchServiceClient::new(store.channel.clone());
    let watch = |after: &str| v1::WatchDeviceRequest {
        device_id: "fern-1".to_owned(),
        after_cursor: after.to_owned(),
        ..Default::default()
    };
    let status = client.watch_device(watch("nonsense")).await.unwrap_err();
    assert_eq!(violated_field(&status), "after_cursor");
    let status = client.watch_device(watch("19-7")).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let details = status.get_details_error_info().unwrap();
    assert_eq!(details.metadata.get("newest").unwrap(), "19-0");

    let stream = client.watch_device(watch("")).await.unwrap().into_inner();
    store.lifecycle.stop();
    let drained = tokio::time::timeout(Duration::from_secs(10), drain(stream)).await;
    let (_, ended) = drained.unwrap();
    let status = ended.unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
    assert!(store.tasks.drained().await);
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_named_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let missing = format!("sqlite://{}/none/telemetry.db", folder.path().display());
    for (url, what) in [
        ("nonsense", "must begin with"),
        (missing.as_str(), "the path"),
        ("postgres://x:y@localhost:1/x", "check the host and the port"),
    ] {
        let cli = Cli::try_parse_from(["x", "--database-url", url, "--listen", "127.0.0.1:0"]);
        let settings = cli.unwrap().settings;
        let migrated = telemetry_store::storage::migrate(&settings.database.url().unwrap()).await;
        let migrated = migrated.unwrap_err().to_string();
        let served = Server::bind(settings).await.unwrap_err().to_string();
        for error in [served, migrated] {
            assert!(error.contains("DATABASE_URL") && error.contains(what), "{error}");
        }
    }
}

#[tokio::test]
async fn health_is_told_by_name() {
    let store = Store::start().await;
    let mut client = HealthClient::new(store.channel.clone());
    for service in ["", "telemetry.v1.IngestService", "telemetry.v1.WatchService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut watch = client.watch(request).await.unwrap().into_inner();
        while watch.message().await.unwrap().unwrap().status != 1 {}
    }
    let request = HealthCheckRequest { service: "nobody".to_owned() };
    assert_eq!(client.check(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_speaks_both_versions() {
    use tonic_reflection::pb::{
        v1::{self as new, server_reflection_client::ServerReflectionClient as New},
        v1alpha::{self as old, server_reflection_client::ServerReflectionClient as Old},
    };
    let store = Store::start().await;
    let host = String::new();
    let message_request =
        Some(new::server_reflection_request::MessageRequest::ListServices(String::new()));
    let request = new::ServerReflectionRequest { host: host.clone(), message_request };
    let mut client = New::new(store.channel.clone());
    let stream = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let (answers, _) = drain(stream.into_inner()).await;
    assert!(format!("{answers:?}").contains("telemetry.v1.WatchService"), "{answers:?}");
    let message_request =
        Some(old::server_reflection_request::MessageRequest::FileContainingSymbol(
            "google.rpc.BadRequest".to_owned(),
        ));
    let request = old::ServerReflectionRequest { host, message_request };
    let mut client = Old::new(store.channel.clone());
    let stream = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let (answers, _) = drain(stream.into_inner()).await;
    let Some(answer) = answers.first() else { panic!("no answer") };
    assert!(!format!("{answer:?}").contains("ErrorResponse"), "{answer:?}");
}

#[tokio::test]
async fn a_deleted_device_is_gone() {
    let store = Store::start().await;
    let events = vec![event("fern-1", 0, &[("t", Value::Integer(1)), ("u", Value::Integer(2))])];
    assert!(store.ingest(vec![request(1, events)]).await.1.is_none());
    let delete = async |device_id: &str| {
        let request = v1::DeleteDeviceRequest { device_id: device_id.to_owned() };
        AdminServiceClient::new(store.channel.clone()).delete_device(request).await
    };
    let deleted = delete("fern-1").await.unwrap().into_inner();
    // It was received too long ago for the device to be online, which would be an event as well.
    assert_eq!((deleted.readings, deleted.events, deleted.quarantined), (2, 1, 0));
    let get = v1::GetDeviceRequest { device_id: "fern-1".to_owned() };
    assert_eq!(store.query().get_device(get).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(delete("fern-1").await.unwrap_err().code(), Code::NotFound);
    let status = delete("bad id").await.unwrap_err();
    assert_eq!(
        (status.code(), violated_field(&status).as_str()),
        (Code::InvalidArgument, "device_id")
    );
}

#[tokio::test]
async fn the_state_of_large_devices_comes_in_parts_that_clients_take() {
    let store = Store::start().await;
    let values: Vec<_> =
        (0..20).map(|n| (format!("m{n}"), Value::Text("x".repeat(4000)))).collect();
    let values: Vec<_> =
        values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let events =
        |n: u64| (0..10).map(|m| event(&format!("fern-{}", n * 10 + m), 0, &values)).collect();
    let requests = (0..6).map(|n| request(n * 10 + 1, events(n))).collect();
    assert!(store.ingest(requests).await.1.is_none());
    let request = v1::WatchDevicesRequest { include_state: true, ..Default::default() };
    let mut watch = WatchServiceClient::new(store.channel.clone());
    let mut stream = watch.watch_devices(request).await.unwrap().into_inner();
    let mut devices = Vec::new();
    loop {
        // More than 4 MiB, and this client would refuse it.
        let told = stream.message().await.unwrap().unwrap();
        assert!(told.states.iter().all(|state| state.latest.len() == 20));
        devices.extend(told.states.into_iter().map(|state| state.device.unwrap().device_id));
        if told.caught_up {
            break;
        }
    }
    assert_eq!((devices.len(), devices.is_sorted()), (60, true));
}
