//! History over gRPC, in process on a free port: what it answers, and how it refuses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use clap::Parser;
use service_kit::lifecycle::Lifecycle;
use telemetry_proto::v1::{
    self, Aggregate, CalendarUnit, EventKind, ExportReadingsRequest, Fill, IngestEvent,
    IngestRequest, Measurement, Sample, SummarizeReadingsRequest, SummarizeReadingsResponse,
    SummaryMode, ingest_service_client::IngestServiceClient, measurement::Value,
    query_service_client::QueryServiceClient,
};
use telemetry_store::{Cli, Server};
use tempfile::TempDir;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

/// 2026-01-07T12:00:00Z.
const NOON: i64 = 1_767_787_200;

#[expect(clippy::unnecessary_wraps, reason = "as messages have it")]
fn time(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: NOON + seconds, nanos: 0 })
}

/// A store on SQLite that runs as long as the test, with some readings.
struct Store {
    channel: Channel,
    lifecycle: Lifecycle,
    _tasks: Lifecycle,
    _folder: TempDir,
}

impl Store {
    /// `fern` and `moss` send `t` and `u` once a minute for two hours: 0, 1, 2 …
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/telemetry.db", folder.path().display());
        let cli = Cli::try_parse_from(["x", "--database-url", &url, "--listen", "127.0.0.1:0"]);
        let server = Server::bind(cli.unwrap().settings).await.unwrap();
        let url = format!("http://{}", server.local_addr());
        let (lifecycle, tasks) = (Lifecycle::new(), Lifecycle::new());
        tasks.spawn("store", server.run(lifecycle.clone()));
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        let store = Self { channel, lifecycle, _tasks: tasks, _folder: folder };
        let events =
            ["fern", "moss"].into_iter().flat_map(|id| (0..120).map(move |n| event(id, n)));
        store.ingest(events.collect()).await;
        store
    }

    async fn ingest(&self, events: Vec<IngestEvent>) {
        let request =
            IngestRequest { first_sequence: 1, events, flush: true, ..IngestRequest::default() };
        let mut client = IngestServiceClient::new(self.channel.clone());
        let mut acks = client.ingest(tokio_stream::iter([request])).await.unwrap().into_inner();
        while acks.message().await.unwrap().is_some() {}
    }

    fn query(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone())
    }

    async fn summarize(
        &self,
        request: SummarizeReadingsRequest,
    ) -> Result<SummarizeReadingsResponse, Status> {
        self.query().summarize_readings(request).await.map(tonic::Response::into_inner)
    }

    /// Every chunk, and how the stream ended.
    async fn export(
        &self,
        request: ExportReadingsRequest,
    ) -> (Vec<v1::ExportReadingsResponse>, Option<Status>) {
        let mut chunks = match self.query().export_readings(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return (vec![], Some(status)),
        };
        let mut all = Vec::new();
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => all.push(chunk),
                Ok(None) => return (all, None),
                Err(status) => return (all, Some(status)),
            }
        }
    }
}

fn event(device: &str, n: i64) -> IngestEvent {
    let value =
        |metric: &str| Measurement { metric: metric.to_owned(), value: Some(Value::Integer(n)) };
    let at = time(n * 60);
    let clock = at.map(v1::sample::Clock::Time);
    IngestEvent {
        device_id: device.to_owned(),
        kind: EventKind::Telemetry.into(),
        received: at,
        samples: vec![Sample { clock, measurements: vec![value("t"), value("u")] }],
        ..IngestEvent::default()
    }
}

fn violated_field(status: &Status) -> String {
    status.get_details_bad_request().unwrap().field_violations.remove(0).field
}

/// Two hours of `t` of `fern`, by the half hour.
fn half_hours() -> SummarizeReadingsRequest {
    SummarizeReadingsRequest {
        device_id: "fern".into(),
        metric: "t".into(),
        start_time: time(0),
        end_time: time(7200),
        bucket_width: Some(prost_types::Duration { seconds: 1800, nanos: 0 }),
        ..SummarizeReadingsRequest::default()
    }
}

/// The same of everything that was sent.
fn of_all() -> SummarizeReadingsRequest {
    let device_ids = vec!["moss".into(), "fern".into()];
    SummarizeReadingsRequest {
        device_id: String::new(),
        metric: String::new(),
        device_ids,
        ..half_hours()
    }
}

#[tokio::test]
async fn one_series_answers_in_buckets() {
    let store = Store::start().await;
    let answer = store.summarize(half_hours()).await.unwrap();
    assert!(answer.series.is_empty() && !answer.truncated && answer.next_page_token.is_empty());
    assert_eq!(answer.source(), v1::Source::Raw);
    assert_eq!(answer.resolution.unwrap().seconds, 1800);
    assert_eq!(answer.buckets.len(), 4);
    let expected = v1::Bucket {
        start_time: time(0),
        end_time: time(1800),
        count: 30,
        min: Some(0.0),
        max: Some(29.0),
        avg: Some(14.5),
        first: Some(0.0),
        last: Some(29.0),
        ..v1::Bucket::default()
    };
    assert_eq!(answer.buckets[0], expected);
}

#[tokio::test]
async fn several_series_come_in_pages() {
    let store = Store::start().await;
    let mut page = SummarizeReadingsRequest { page_size: 3, ..of_all() };
    let mut seen = Vec::new();
    loop {
        let answer = store.summarize(page.clone()).await.unwrap();
        assert_eq!(answer.truncated, !answer.next_page_token.is_empty());
        assert!(answer.series.iter().all(|series| series.buckets.len() == 4));
        seen.push(
            answer.series.into_iter().map(|s| s.device_id + "/" + &s.metric).collect::<Vec<_>>(),
        );
        page.page_token = answer.next_page_token;
        if page.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [vec!["fern/t", "fern/u", "moss/t"], vec!["moss/u"]]);
    // No answer holds more than 10000 buckets.
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let fine = SummarizeReadingsRequest { bucket_width: second, ..of_all() };
    let answer = store.summarize(fine.clone()).await.unwrap();
    assert_eq!((answer.series.len(), answer.truncated), (1, true));
    let other = SummarizeReadingsRequest { page_token: answer.next_page_token, ..of_all() };
    assert_eq!(violated_field(&store.summarize(other).await.unwrap_err()), "page_token");
    // A metric that a device never sent is there, and empty.
    let named = SummarizeReadingsRequest { metrics: vec!["t".into(), "none".into()], ..of_all() };
    let answer = store.summarize(named).await.unwrap();
    let lengths: Vec<_> = answer.series.iter().map(|series| series.buckets.len()).collect();
    assert_eq!(lengths, [0, 4, 0, 4]);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let store = Store::start().await;
    let good = half_hours;
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let free = || SummarizeReadingsRequest { bucket_width: None, ..good() };
    let lttb =
        || SummarizeReadingsRequest { mode: SummaryMode::Lttb.into(), max_points: 9, ..free() };
    let day = CalendarUnit::Day.into();
    for (request, field) in [
        (SummarizeReadingsRequest { device_id: String::new(), ..good() }, "device_id"),
        (SummarizeReadingsRequest { device_ids: vec!["a b".into()], ..good() }, "device_ids[0]"),
        (SummarizeReadingsRequest { metrics: vec![" ".into()], ..good() }, "metrics[0]"),
        (SummarizeReadingsRequest { start_time: None, ..good() }, "start_time"),
        (SummarizeReadingsRequest { end_time: time(0), ..good() }, "end_time"),
        (free(), "bucket_width"),
        (
            SummarizeReadingsRequest { bucket_width: second, end_time: time(10_001), ..good() },
            "bucket_width",
        ),
        (SummarizeReadingsRequest { max_points: 10, ..good() }, "bucket_width"),
        (
            SummarizeReadingsRequest { max_points: 10, calendar_unit: day, ..free() },
            "calendar_unit",
        ),
        (SummarizeReadingsRequest { max_points: 1, ..free() }, "max_points"),
        (SummarizeReadingsRequest { max_points: -1, ..free() }, "max_points"),
        (SummarizeReadingsRequest { calendar_unit: 9, ..free() }, "calendar_unit"),
        (SummarizeReadingsRequest { time_zone: "UTC".into(), ..good() }, "time_zone"),
        (
            SummarizeReadingsRequest { calendar_unit: day, time_zone: "X".into(), ..free() },
            "time_zone",
        ),
        (SummarizeReadingsRequest { aggregates: vec![1, 0], ..good() }, "aggregates[1]"),
        (SummarizeReadingsRequest { percentiles: vec![50.0, 100.5], ..good() }, "percentiles[1]"),
        (SummarizeReadingsRequest { percentiles: vec![f64::NAN], ..good() }, "percentiles[0]"),
        (SummarizeReadingsRequest { percentiles: vec![1.0; 21], ..good() }, "percentiles"),
        (SummarizeReadingsRequest { fill: 7, ..good() }, "fill"),
        (SummarizeReadingsRequest { mode: 7, ..good() }, "mode"),
        (SummarizeReadingsRequest { max_points: 2, ..lttb() }, "max_points"),
        (SummarizeReadingsRequest { fill: Fill::Null.into(), ..lttb() }, "fill"),
        (SummarizeReadingsRequest { page_size: -1, ..good() }, "page_size"),
        (SummarizeReadingsRequest { page_token: "x".into(), ..good() }, "page_token"),
    ] {
        let status = store.summarize(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        assert_eq!(violated_field(&status), field);
    }
    let unknown = SummarizeReadingsRequest { device_ids: vec!["ivy".into()], ..good() };
    assert_eq!(store.summarize(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn buckets_are_what_was_asked_for() {
    let store = Store::start().await;
    let free = SummarizeReadingsRequest { bucket_width: None, ..half_hours() };
    let few = SummarizeReadingsRequest { max_points: 10, ..free.clone() };
    let answer = store.summarize(few).await.unwrap();
    assert_eq!((answer.resolution.unwrap().seconds, answer.buckets.len()), (900, 8));
    // In Tokyo it is nine in the evening, and a day ends after three hours.
    let days = SummarizeReadingsRequest {
        calendar_unit: CalendarUnit::Day.into(),
        time_zone: "Asia/Tokyo".into(),
        end_time: time(4 * 3600),
        fill: Fill::Null.into(),
        ..free.clone()
    };
    let answer = store.summarize(days).await.unwrap();
    assert_eq!(answer.resolution, None);
    let told: Vec<_> = answer.buckets.iter().map(|b| (b.start_time, b.count, b.last)).collect();
    let expected = [(time(-21 * 3600), 120, Some(119.0)), (time(3 * 3600), 0, None)];
    assert_eq!(told, expected);
    let counter = SummarizeReadingsRequest {
        start_time: time(1800),
        aggregates: [Aggregate::Increase, Aggregate::Rate, Aggregate::Stddev]
            .map(Into::into)
            .into(),
        percentiles: vec![0.0, 50.0, 99.9],
        ..half_hours()
    };
    let answer = store.summarize(counter).await.unwrap();
    let [first, ..] = &answer.buckets[..] else { panic!("no buckets") };
    assert_eq!((first.count, first.min, first.increase), (30, None, Some(30.0)));
    assert_eq!(first.rate, Some(30.0 / 1800.0));
    assert_eq!(first.percentiles[..2], [30.0, 44.5]);
    assert!((first.stddev.unwrap() - 8.803_408).abs() < 1e-6);
    let shape = SummarizeReadingsRequest { max_points: 10, mode: SummaryMode::Lttb.into(), ..free };
    let answer = store.summarize(shape).await.unwrap();
    let [v1::Series { points, .. }] = &answer.series[..] else { panic!("not one series") };
    assert_eq!((points.len(), points[0].value, points[9].value), (10, 0.0, 119.0));
}

#[tokio::test]
async fn exports_are_whole_and_go_on_where_they_broke_off() {
    let store = Store::start().await;
    let (chunks, ended) = store.export(ExportReadingsRequest::default()).await;
    assert!(ended.is_none(), "{ended:?}");
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    for chunk in &chunks {
        for reading in &chunk.readings {
            *counts.entry((&chunk.device_id, &reading.metric)).or_default() += 1;
        }
    }
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|count| *count == 120), "{counts:?}");
    let first = chunks.first().unwrap();
    let token = first.next_page_token.clone();
    let rest = ExportReadingsRequest { page_token: token.clone(), ..Default::default() };
    let (rest, _) = store.export(rest).await;
    assert_eq!(rest, chunks[1..]);
    let other =
        ExportReadingsRequest { page_token: token, device_id: "fern".into(), ..Default::default() };
    let (_, ended) = store.export(other).await;
    assert_eq!(violated_field(&ended.unwrap()), "page_token");
    let unknown = ExportReadingsRequest { device_id: "ivy".into(), ..Default::default() };
    assert_eq!(store.export(unknown).await.1.unwrap().code(), Code::NotFound);
    let some = ExportReadingsRequest {
        device_id: "moss".into(),
        metrics: vec!["u".into()],
        start_time: time(60),
        end_time: time(180),
        ..Default::default()
    };
    let (chunks, _) = store.export(some).await;
    let values = chunks.iter().flat_map(|chunk| &chunk.readings).map(|r| r.value.clone().unwrap());
    let values: Vec<_> = values.collect();
    assert_eq!(values, [v1::reading::Value::Integer(1), v1::reading::Value::Integer(2)]);
    store.lifecycle.stop();
}

/// A client takes no message of more than 4 MiB.
#[tokio::test]
async fn chunks_of_long_texts_are_small() {
    let store = Store::start().await;
    let long = |n: i64| {
        let mut event = event("essay", n);
        event.samples[0].measurements[0].value = Some(Value::Text("x".repeat(4096)));
        event
    };
    for n in 0..4 {
        store.ingest((n * 400..n * 400 + 400).map(long).collect()).await;
    }
    let essay = ExportReadingsRequest { device_id: "essay".into(), ..Default::default() };
    let (chunks, ended) = store.export(essay).await;
    assert!(ended.is_none(), "{ended:?}");
    assert_eq!(chunks.iter().map(|chunk| chunk.readings.len()).sum::<usize>(), 3200);
}
