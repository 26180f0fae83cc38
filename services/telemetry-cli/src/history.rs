//! History in short and in full: `summarize` and `export`.
#![expect(clippy::print_stderr, reason = "says on standard error what is not output")]

use std::time::Duration;

use clap::{Args, ValueEnum};
use service_kit::duration;
use telemetry_model::Timestamp;
use telemetry_proto::v1;

use crate::{
    output::{self, Output, Row},
    store::Store,
    times::When,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct SummarizeArgs {
    /// The device.
    device: String,
    /// The metrics; all if none is given.
    metric: Vec<String>,
    /// One more device; may be given several times.
    #[arg(long = "device", value_name = "DEVICE")]
    more: Vec<String>,
    /// From when: a time, or how long ago.
    #[arg(long, default_value = "24h")]
    since: When,
    /// Until when: a time, how long ago, or now.
    #[arg(long, default_value = "now")]
    until: When,
    /// The width of a bucket [default: 1h].
    #[arg(long, value_parser = duration::parse, conflicts_with_all = ["points", "calendar"])]
    width: Option<Duration>,
    /// How many buckets, or with --lttb points, at most.
    #[arg(long, conflicts_with = "calendar")]
    points: Option<i32>,
    /// Buckets that follow the calendar.
    #[arg(long)]
    calendar: Option<Calendar>,
    /// The time zone of the calendar, such as Europe/Berlin.
    #[arg(long, requires = "calendar")]
    zone: Option<String>,
    /// What each bucket says [default: min,max,avg,first,last].
    #[arg(long, value_delimiter = ',')]
    aggregate: Vec<Aggregate>,
    /// Percentiles that each bucket says too, such as 50,99.
    #[arg(long, value_delimiter = ',')]
    percentile: Vec<f64>,
    /// What becomes of buckets without readings.
    #[arg(long, default_value = "omit")]
    fill: Fill,
    /// Some of the readings themselves, whose line looks like that of all.
    #[arg(long, requires = "points")]
    lttb: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Calendar {
    Day,
    Week,
    Month,
    Year,
}

impl From<Calendar> for v1::CalendarUnit {
    fn from(calendar: Calendar) -> Self {
        match calendar {
            Calendar::Day => Self::Day,
            Calendar::Week => Self::Week,
            Calendar::Month => Self::Month,
            Calendar::Year => Self::Year,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Aggregate {
    Min,
    Max,
    Avg,
    First,
    Last,
    /// The sample standard deviation.
    Stddev,
    /// The mean over time.
    Twa,
    /// By how much a counter grew.
    Increase,
    /// By how much a counter grew a second.
    Rate,
}

impl From<Aggregate> for v1::Aggregate {
    fn from(aggregate: Aggregate) -> Self {
        match aggregate {
            Aggregate::Min => Self::Min,
            Aggregate::Max => Self::Max,
            Aggregate::Avg => Self::Avg,
            Aggregate::First => Self::First,
            Aggregate::Last => Self::Last,
            Aggregate::Stddev => Self::Stddev,
            Aggregate::Twa => Self::TimeWeightedAvg,
            Aggregate::Increase => Self::Increase,
            Aggregate::Rate => Self::Rate,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fill {
    Omit,
    Null,
    Previous,
    Linear,
}

impl From<Fill> for v1::Fill {
    fn from(fill: Fill) -> Self {
        match fill {
            Fill::Omit => Self::Omit,
            Fill::Null => Self::Null,
            Fill::Previous => Self::Previous,
            Fill::Linear => Self::Linear,
        }
    }
}

impl SummarizeArgs {
    fn request(&self) -> v1::SummarizeReadingsRequest {
        let by_width = self.points.is_none() && self.calendar.is_none();
        let width = by_width.then(|| self.width.unwrap_or(Duration::from_hours(1)));
        let mode = if self.lttb { v1::SummaryMode::Lttb } else { v1::SummaryMode::Buckets };
        let fill = if self.lttb { v1::Fill::Unspecified } else { self.fill.into() };
        let aggregates = self.aggregate.iter().map(|one| v1::Aggregate::from(*one).into());
        v1::SummarizeReadingsRequest {
            device_id: self.device.clone(),
            device_ids: self.more.clone(),
            metrics: self.metric.clone(),
            start_time: Some(wire(self.since)),
            end_time: Some(wire(self.until)),
            bucket_width: width.map(telemetry_proto::wire_duration),
            max_points: self.points.unwrap_or(0),
            calendar_unit: self.calendar.map_or(0, |unit| v1::CalendarUnit::from(unit).into()),
            time_zone: self.zone.clone().unwrap_or_default(),
            aggregates: aggregates.collect(),
            percentiles: self.percentile.clone(),
            fill: fill.into(),
            mode: mode.into(),
            ..v1::SummarizeReadingsRequest::default()
        }
    }

    /// What to print of a bucket.
    fn aggregates(&self) -> Vec<Aggregate> {
        use Aggregate::{Avg, First, Last, Max, Min};
        if self.aggregate.is_empty() {
            return vec![Min, Max, Avg, First, Last];
        }
        self.aggregate.clone()
    }

    fn bucket(&self, bucket: &v1::Bucket) -> Row {
        let mut row =
            vec![("start", output::time(bucket.start_time)), ("count", bucket.count.into())];
        row.extend(self.aggregates().into_iter().map(|aggregate| match aggregate {
            Aggregate::Min => ("min", bucket.min.into()),
            Aggregate::Max => ("max", bucket.max.into()),
            Aggregate::Avg => ("avg", bucket.avg.into()),
            Aggregate::First => ("first", bucket.first.into()),
            Aggregate::Last => ("last", bucket.last.into()),
            Aggregate::Stddev => ("stddev", bucket.stddev.into()),
            Aggregate::Twa => ("twa", bucket.time_weighted_avg.into()),
            Aggregate::Increase => ("increase", bucket.increase.into()),
            Aggregate::Rate => ("rate", bucket.rate.into()),
        }));
        if !self.percentile.is_empty() {
            row.push(("percentiles", bucket.percentiles.clone().into()));
        }
        row
    }
}

pub(crate) async fn summarize(
    store: &Store,
    args: SummarizeArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut request = args.request();
    let several = !args.more.is_empty() || args.metric.len() != 1;
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let answer = store.query().summarize_readings(request.clone()).await;
        let page = answer.map_err(|status| store.explain(&status))?.into_inner();
        for v1::Series { device_id, metric, buckets, points } in page.series {
            let buckets = buckets.iter().map(|bucket| args.bucket(bucket));
            for mut row in buckets.chain(points.iter().map(point)) {
                if several {
                    let names = [("device", &device_id), ("metric", &metric)];
                    let names = names.map(|(name, value)| (name, value.as_str().into()));
                    row.splice(..0, names);
                }
                rows.push(row);
            }
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return output.rows(rows);
        }
    }
}

fn point(point: &v1::Point) -> Row {
    vec![("time", output::time(point.time)), ("value", point.value.into())]
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// Only these devices; all if none is given.
    device: Vec<String>,
    /// Only this metric; may be given several times.
    #[arg(long)]
    metric: Vec<String>,
    /// From when: a time, or how long ago; the beginning if left out.
    #[arg(long)]
    since: Option<When>,
    /// Until when: a time, how long ago, or now; the end if left out.
    #[arg(long)]
    until: Option<When>,
    /// Go on where an export that broke off said so.
    #[arg(long)]
    resume: Option<String>,
}

/// Prints every reading, as CSV or as JSON a line each.
pub(crate) async fn export(
    store: &Store,
    args: ExportArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let is_new = args.resume.is_none();
    let request = v1::ExportReadingsRequest {
        device_ids: args.device,
        metrics: args.metric,
        start_time: args.since.map(wire),
        end_time: args.until.map(wire),
        page_token: args.resume.unwrap_or_default(),
        ..v1::ExportReadingsRequest::default()
    };
    let answer = store.query().export_readings(request).await;
    let mut chunks = answer.map_err(|status| store.explain(&status))?.into_inner();
    if is_new {
        output.csv_header(&["device", "time", "metric", "value", "time_source"])?;
    }
    let mut reached = String::new();
    loop {
        let chunk = match chunks.message().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(()),
            Err(status) => {
                if !reached.is_empty() {
                    eprintln!("it broke off; the rest comes with --resume '{reached}'");
                }
                return Err(store.explain(&status));
            }
        };
        let row = |reading| {
            let mut row = output::reading(reading);
            row.insert(0, ("device", chunk.device_id.as_str().into()));
            row
        };
        output.csv(chunk.readings.into_iter().map(row).collect())?;
        reached = chunk.next_page_token;
    }
}

fn wire(when: When) -> prost_types::Timestamp {
    telemetry_proto::wire_timestamp(Timestamp::from(when))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: SummarizeArgs,
    }

    fn request(words: &str) -> v1::SummarizeReadingsRequest {
        let words = ["summarize"].into_iter().chain(words.split(' '));
        Cli::try_parse_from(words).unwrap().args.request()
    }

    #[test]
    fn words_become_requests() {
        crate::Cli::command().debug_assert();
        let plain = request("fern-1 t");
        assert_eq!((plain.device_id.as_str(), plain.metrics), ("fern-1", vec!["t".to_owned()]));
        assert_eq!(plain.bucket_width.unwrap().seconds, 3600);
        let words = "fern-1 t u --device moss --calendar week --zone Europe/Berlin \
                     --aggregate avg,stddev --percentile 50,99.9 --fill null";
        let week = request(words);
        assert_eq!((week.device_ids.len(), week.metrics.len()), (1, 2));
        assert_eq!((week.bucket_width, week.max_points), (None, 0));
        assert_eq!(week.calendar_unit(), v1::CalendarUnit::Week);
        let aggregates: Vec<_> = week.aggregates().collect();
        assert_eq!(aggregates, [v1::Aggregate::Avg, v1::Aggregate::Stddev]);
        assert_eq!((week.percentiles.as_slice(), week.fill()), (&[50.0, 99.9][..], v1::Fill::Null));
        let shape = request("fern-1 t --lttb --points 50");
        assert_eq!((shape.mode(), shape.max_points), (v1::SummaryMode::Lttb, 50));
        assert_eq!((shape.fill, shape.bucket_width), (0, None));
    }
}
