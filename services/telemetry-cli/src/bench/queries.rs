//! How long answers about history take.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use telemetry_model::Timestamp;
use telemetry_proto::{v1, wire_duration, wire_timestamp};
use tokio::time::Instant;

use super::{latency::Latencies, load::as_u64};
use crate::{
    output::{Output, Row},
    store::Store,
    times::When,
};

const DAY: Duration = Duration::from_hours(24);
/// Devices of the request for many.
const MANY: usize = 50;

#[derive(Args, Clone, Debug)]
pub(crate) struct QueriesArgs {
    /// Of devices whose ids begin so.
    #[arg(long, default_value = "")]
    prefix: String,
    /// How often to ask each, but for the one about many devices: that a tenth as often.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// How many days of history there are.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Where history ends: a time, how long ago, or now.
    #[arg(long, default_value = "now")]
    until: When,
}

/// A question.
#[derive(Clone, Copy, Debug)]
enum Question {
    Latest,
    Day,
    Points,
    HourlyOfMany,
}

/// What to ask about.
struct History {
    devices: Vec<String>,
    metrics: Vec<String>,
    start: Timestamp,
    end: Timestamp,
}

pub(crate) async fn queries(
    store: &Store,
    args: QueriesArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let history = History::find(store, &args).await?;
    let questions = [
        ("latest", Question::Latest),
        ("one_metric_24h", Question::Day),
        ("one_metric_all_days_500_points", Question::Points),
        ("50_devices_all_days_hourly", Question::HourlyOfMany),
    ];
    let mut rows = Vec::new();
    for (name, question) in questions {
        let is_long = matches!(question, Question::HourlyOfMany);
        let times = if is_long { args.times.div_ceil(10) } else { args.times };
        rows.push(measure(store, &history, name, question, times).await?);
    }
    output.rows(rows)
}

async fn measure(
    store: &Store,
    history: &History,
    name: &'static str,
    question: Question,
    times: u32,
) -> anyhow::Result<Row> {
    let (mut latencies, mut most) = (Latencies::default(), 0);
    for _ in 0..times {
        let began = Instant::now();
        let answered = ask(store, history, question).await?;
        latencies.add(began.elapsed());
        most = most.max(answered);
    }
    ensure!(most > 0, "{name}: nothing is there to be asked about");
    let (times, summary) = (latencies.len(), latencies.summary());
    let figure = |name| summary.get(name).cloned().unwrap_or_default();
    Ok(vec![
        ("query", name.into()),
        ("times", times.into()),
        ("rows", most.into()),
        ("p50_ms", figure("p50")),
        ("p90_ms", figure("p90")),
        ("p99_ms", figure("p99")),
        ("max_ms", figure("max")),
    ])
}

impl History {
    async fn find(store: &Store, args: &QueriesArgs) -> anyhow::Result<Self> {
        let mut request = v1::ListDevicesRequest {
            page_size: 1000,
            id_prefix: args.prefix.clone(),
            ..v1::ListDevicesRequest::default()
        };
        let mut devices = Vec::new();
        loop {
            let page = store.query().list_devices(request.clone()).await;
            let page = page.map_err(|status| store.explain(&status))?.into_inner();
            devices.extend(page.devices.into_iter().map(|device| device.device_id));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        let device_id = devices.first().context("there is no such device")?.clone();
        let metrics = store.query().list_metrics(v1::ListMetricsRequest { device_id }).await;
        let metrics = metrics.map_err(|status| store.explain(&status))?.into_inner().metrics;
        let end = Timestamp::from(args.until);
        Ok(Self {
            devices,
            metrics: metrics.into_iter().map(|metric| metric.metric).collect(),
            start: end.minus(DAY * args.days),
            end,
        })
    }

    fn device(&self) -> String {
        fastrand::choice(&self.devices).cloned().unwrap_or_default()
    }

    fn metric(&self) -> String {
        fastrand::choice(&self.metrics).cloned().unwrap_or_default()
    }

    /// The start of a whole day of it, anywhere.
    fn day(&self) -> Timestamp {
        let span_us = self.end.minus(DAY).micros() - self.start.micros();
        let after_us = u64::try_from(fastrand::i64(0..=span_us.max(0))).unwrap_or_default();
        self.start.plus(Duration::from_micros(after_us))
    }

    fn summary(&self) -> v1::SummarizeReadingsRequest {
        v1::SummarizeReadingsRequest {
            metrics: vec![self.metric()],
            start_time: Some(wire_timestamp(self.start)),
            end_time: Some(wire_timestamp(self.end)),
            page_size: 1000,
            ..v1::SummarizeReadingsRequest::default()
        }
    }
}

/// Asks once, to the last page; answers how many rows there were.
async fn ask(store: &Store, history: &History, question: Question) -> anyhow::Result<u64> {
    match question {
        Question::Latest => {
            let request =
                v1::GetLatestReadingsRequest { device_id: history.device(), metrics: Vec::new() };
            let answer = store.query().get_latest_readings(request).await;
            let answer = answer.map_err(|status| store.explain(&status))?.into_inner();
            Ok(as_u64(answer.readings.len()))
        }
        Question::Day => list(store, history).await,
        Question::Points => {
            let request = v1::SummarizeReadingsRequest {
                device_ids: vec![history.device()],
                max_points: 500,
                ..history.summary()
            };
            summarize(store, request).await
        }
        Question::HourlyOfMany => {
            let mut devices = history.devices.clone();
            fastrand::shuffle(&mut devices);
            devices.truncate(MANY);
            let request = v1::SummarizeReadingsRequest {
                device_ids: devices,
                bucket_width: Some(wire_duration(Duration::from_hours(1))),
                ..history.summary()
            };
            summarize(store, request).await
        }
    }
}

async fn list(store: &Store, history: &History) -> anyhow::Result<u64> {
    let start = history.day();
    let mut request = v1::ListReadingsRequest {
        device_id: history.device(),
        metrics: vec![history.metric()],
        start_time: Some(wire_timestamp(start)),
        end_time: Some(wire_timestamp(start.plus(DAY))),
        page_size: 10_000,
        ..v1::ListReadingsRequest::default()
    };
    let mut rows = 0;
    loop {
        let page = store.query().list_readings(request.clone()).await;
        let page = page.map_err(|status| store.explain(&status))?.into_inner();
        rows += as_u64(page.readings.len());
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(rows);
        }
    }
}

async fn summarize(
    store: &Store,
    mut request: v1::SummarizeReadingsRequest,
) -> anyhow::Result<u64> {
    let mut rows = 0;
    loop {
        let page = store.query().summarize_readings(request.clone()).await;
        let page = page.map_err(|status| store.explain(&status))?.into_inner();
        rows += page.series.iter().map(|series| as_u64(series.buckets.len())).sum::<u64>();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(rows);
        }
    }
}
