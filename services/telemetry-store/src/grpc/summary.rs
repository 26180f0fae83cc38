//! Summaries: what a request for one asks, and the answer series by series.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use telemetry_model::{
    DeviceId, Grid, Invalid, MetricName, Point, Selection, Series, TimeRange, Timestamp,
};
use telemetry_proto::{v1, wire_duration, wire_timestamp};
use tokio::time::timeout;

use super::{
    access::Devices,
    page_token,
    query::{metric_names, page_size},
};
use crate::{
    error::Result,
    history::{
        self, Aggregate, Bucket, Fill, Wanted,
        calendar::{self, Unit},
        export::Position,
    },
    storage::{PATIENCE, Storage, TOO_LONG},
};

/// The most devices a request may name.
const MAX_DEVICES: usize = 1000;
/// The most percentiles of a bucket.
const MAX_PERCENTILES: usize = 20;
/// How many series are summed up at once.
const AT_ONCE: usize = 2;
/// A statement that takes too long is stopped by the database; many that do not, here.
const CALL_PATIENCE: Duration = Duration::from_secs(PATIENCE.as_secs() + 1);

/// What becomes of the readings of a series.
#[derive(Debug)]
enum Plan {
    Buckets { grid: Grid, wanted: Wanted, fill: Fill },
    Shape { range: TimeRange, most: usize },
}

impl Plan {
    /// How much a series may bring.
    fn size(&self) -> usize {
        match self {
            Self::Buckets { grid, .. } => grid.buckets().max(1),
            Self::Shape { most, .. } => *most,
        }
    }

    fn width(&self) -> Option<Duration> {
        match self {
            Self::Buckets { grid, .. } => grid.width(),
            Self::Shape { .. } => None,
        }
    }
}

/// Answers a request.
pub(super) async fn summarize(
    storage: &dyn Storage,
    mut request: v1::SummarizeReadingsRequest,
    own: &Devices,
) -> Result<v1::SummarizeReadingsResponse> {
    let (token, page) = (std::mem::take(&mut request.page_token), request.page_size);
    request.page_size = 0;
    let selection = selection(&request, own)?;
    let plan = plan(&request)?;
    let most = page_size(page, 100, 1000)?.min(Grid::MAX_BUCKETS / plan.size()).max(1);
    let after = match token.as_str() {
        "" => None,
        token => Some(page_token::decode_position(token, &request)?.series),
    };
    let answering = async {
        let mut all = history::series(storage, &selection, after.as_ref(), most + 1).await?;
        let truncated = all.len() > most;
        all.truncate(most);
        let answers = stream::iter(all.clone()).map(|series| answer(storage, series, &plan));
        let answers: Vec<(_, bool)> = answers.buffered(AT_ONCE).try_collect().await?;
        let rolled_up = answers.iter().any(|(_, rolled_up)| *rolled_up);
        let answers: Vec<_> = answers.into_iter().map(|(answer, _)| answer).collect();
        Ok((truncated.then(|| all.last().cloned()).flatten(), answers, rolled_up))
    };
    let (last, mut series, rolled_up) =
        timeout(CALL_PATIENCE, answering).await.unwrap_or(Err(TOO_LONG))?;
    let token = |series| {
        let position = Position { series, time: Timestamp::MAX };
        page_token::encode_position(&request, &position)
    };
    let next_page_token = last.map(token).unwrap_or_default();
    let mut buckets = Vec::new();
    if names_one(&request) && matches!(plan, Plan::Buckets { .. }) {
        buckets = series.drain(..).flat_map(|series| series.buckets).collect();
    }
    Ok(v1::SummarizeReadingsResponse {
        buckets,
        series,
        truncated: !next_page_token.is_empty(),
        next_page_token,
        source: if rolled_up { v1::Source::Rollup } else { v1::Source::Raw }.into(),
        resolution: plan.width().map(wire_duration),
    })
}

/// Whether the request has the form that asks for a single series.
fn names_one(request: &v1::SummarizeReadingsRequest) -> bool {
    let v1::SummarizeReadingsRequest { device_ids, metric, metrics, .. } = request;
    device_ids.is_empty() && metrics.is_empty() && !metric.is_empty()
}

async fn answer(storage: &dyn Storage, series: Series, plan: &Plan) -> Result<(v1::Series, bool)> {
    let (mut buckets, mut points, mut rolled_up) = (Vec::new(), Vec::new(), false);
    match plan {
        Plan::Buckets { grid, wanted, fill } => {
            let found;
            (found, rolled_up) = history::buckets(storage, &series, grid, wanted, *fill).await?;
            buckets.extend(found.into_iter().map(|found| bucket(found, grid)));
        }
        Plan::Shape { range, most } => {
            let found = history::shape(storage, &series, *range, *most).await?;
            points.extend(found.into_iter().map(point));
        }
    }
    let (device_id, metric) = (series.device.as_str().into(), series.metric.as_str().into());
    Ok((v1::Series { device_id, metric, buckets, points }, rolled_up))
}

fn bucket(bucket: Bucket, grid: &Grid) -> v1::Bucket {
    let Bucket { place, count, values } = bucket;
    let TimeRange { start, end } = grid.bucket(place);
    v1::Bucket {
        start_time: Some(wire_timestamp(start)),
        count,
        min: values.min,
        max: values.max,
        avg: values.avg,
        first: values.first,
        last: values.last,
        end_time: Some(wire_timestamp(end)),
        stddev: values.stddev,
        time_weighted_avg: values.time_weighted_avg,
        percentiles: values.percentiles,
        increase: values.increase,
        rate: values.rate,
    }
}

fn point(point: Point) -> v1::Point {
    v1::Point { time: Some(wire_timestamp(point.time)), value: point.value }
}

fn selection(request: &v1::SummarizeReadingsRequest, own: &Devices) -> Result<Selection> {
    let devices = devices(&request.device_id, &request.device_ids, own)?;
    if devices.is_empty() {
        return Err(Invalid::new("device_id", "must be set, or device_ids").into());
    }
    let mut metrics = metric_names(&request.metrics)?;
    if !request.metric.is_empty() {
        metrics.push(MetricName::parse(&request.metric)?);
    }
    Ok(Selection::new(devices, metrics))
}

/// The devices that a request names in either way, if the caller may deal with them.
pub(super) fn devices(one: &str, several: &[String], own: &Devices) -> Result<Vec<DeviceId>> {
    if several.len() > MAX_DEVICES {
        let reason = format!("must be at most {MAX_DEVICES}, are {}", several.len());
        return Err(Invalid::new("device_ids", reason).into());
    }
    let mut devices = Vec::new();
    if !one.is_empty() {
        devices.push(DeviceId::parse(one)?);
    }
    for (n, text) in several.iter().enumerate() {
        let invalid = |error: Invalid| Invalid::new(format!("device_ids[{n}]"), error.reason);
        devices.push(DeviceId::parse(text).map_err(invalid)?);
    }
    devices.iter().try_for_each(|device| own.check(device))?;
    Ok(devices)
}

fn plan(request: &v1::SummarizeReadingsRequest) -> Result<Plan, Invalid> {
    for (field, time) in [("start_time", request.start_time), ("end_time", request.end_time)] {
        time.ok_or_else(|| Invalid::new(field, "must be set"))?;
    }
    let range = telemetry_proto::time_range(request.start_time, request.end_time)?;
    match v1::SummaryMode::try_from(request.mode) {
        Ok(v1::SummaryMode::Unspecified | v1::SummaryMode::Buckets) => Ok(Plan::Buckets {
            grid: grid(request, range)?,
            wanted: wanted(request)?,
            fill: fill(request.fill)?,
        }),
        Ok(v1::SummaryMode::Lttb) => shape(request, range),
        Err(_) => Err(Invalid::new("mode", "must be a SummaryMode")),
    }
}

fn shape(request: &v1::SummarizeReadingsRequest, range: TimeRange) -> Result<Plan, Invalid> {
    let strangers = [
        ("bucket_width", request.bucket_width.is_some()),
        ("calendar_unit", request.calendar_unit != 0),
        ("time_zone", !request.time_zone.is_empty()),
        ("aggregates", !request.aggregates.is_empty()),
        ("percentiles", !request.percentiles.is_empty()),
        ("fill", request.fill != 0),
    ];
    if let Some((field, _)) = strangers.into_iter().find(|(_, given)| *given) {
        return Err(Invalid::new(field, "must not be set with SUMMARY_MODE_LTTB"));
    }
    let most = usize::try_from(request.max_points).ok();
    let most = most.filter(|most| (3..=Grid::MAX_BUCKETS).contains(most)).ok_or_else(|| {
        let reason =
            format!("must be 3 to {} for points, is {}", Grid::MAX_BUCKETS, request.max_points);
        Invalid::new("max_points", reason)
    })?;
    Ok(Plan::Shape { range, most })
}

fn grid(request: &v1::SummarizeReadingsRequest, range: TimeRange) -> Result<Grid, Invalid> {
    let unit = match v1::CalendarUnit::try_from(request.calendar_unit) {
        Ok(v1::CalendarUnit::Unspecified) => None,
        Ok(v1::CalendarUnit::Day) => Some(Unit::Day),
        Ok(v1::CalendarUnit::Week) => Some(Unit::Week),
        Ok(v1::CalendarUnit::Month) => Some(Unit::Month),
        Ok(v1::CalendarUnit::Year) => Some(Unit::Year),
        Err(_) => return Err(Invalid::new("calendar_unit", "must be a CalendarUnit")),
    };
    if unit.is_none() && !request.time_zone.is_empty() {
        return Err(Invalid::new("time_zone", "must be set only with calendar_unit"));
    }
    match (request.bucket_width, request.max_points, unit) {
        (Some(width), 0, None) => {
            Grid::of_width(range, telemetry_proto::duration("bucket_width", Some(width))?)
        }
        (None, 0, Some(unit)) => calendar::grid(range, unit, &calendar::zone(&request.time_zone)?),
        (None, most, None) if most != 0 => {
            Grid::of_at_most(range, usize::try_from(most).unwrap_or(0))
        }
        (None, ..) if unit.is_none() => {
            Err(Invalid::new("bucket_width", "must be set, or max_points, or calendar_unit"))
        }
        _ => {
            let reason = "must be the only one set of bucket_width, max_points and calendar_unit";
            let is_unit = request.bucket_width.is_none();
            Err(Invalid::new(if is_unit { "calendar_unit" } else { "bucket_width" }, reason))
        }
    }
}

fn wanted(request: &v1::SummarizeReadingsRequest) -> Result<Wanted, Invalid> {
    use Aggregate::{Avg, First, Last, Max, Min};
    let percentiles = request.percentiles.clone();
    if percentiles.len() > MAX_PERCENTILES {
        let reason = format!("must be at most {MAX_PERCENTILES}, are {}", percentiles.len());
        return Err(Invalid::new("percentiles", reason));
    }
    if let Some(n) = percentiles.iter().position(|p| !(0.0..=100.0).contains(p)) {
        return Err(Invalid::new(format!("percentiles[{n}]"), "must be 0 to 100"));
    }
    let mut aggregates =
        request.aggregates.iter().enumerate().map(aggregate).collect::<Result<Vec<_>, _>>()?;
    if aggregates.is_empty() {
        aggregates = vec![Min, Max, Avg, First, Last];
    }
    Ok(Wanted { aggregates, percentiles })
}

fn aggregate((n, number): (usize, &i32)) -> Result<Aggregate, Invalid> {
    match v1::Aggregate::try_from(*number) {
        Ok(v1::Aggregate::Min) => Ok(Aggregate::Min),
        Ok(v1::Aggregate::Max) => Ok(Aggregate::Max),
        Ok(v1::Aggregate::Avg) => Ok(Aggregate::Avg),
        Ok(v1::Aggregate::First) => Ok(Aggregate::First),
        Ok(v1::Aggregate::Last) => Ok(Aggregate::Last),
        Ok(v1::Aggregate::Stddev) => Ok(Aggregate::Stddev),
        Ok(v1::Aggregate::TimeWeightedAvg) => Ok(Aggregate::TimeWeightedAvg),
        Ok(v1::Aggregate::Increase) => Ok(Aggregate::Increase),
        Ok(v1::Aggregate::Rate) => Ok(Aggregate::Rate),
        Ok(v1::Aggregate::Unspecified) | Err(_) => {
            Err(Invalid::new(format!("aggregates[{n}]"), "must be an Aggregate"))
        }
    }
}

fn fill(number: i32) -> Result<Fill, Invalid> {
    match v1::Fill::try_from(number) {
        Ok(v1::Fill::Unspecified | v1::Fill::Omit) => Ok(Fill::Omit),
        Ok(v1::Fill::Null) => Ok(Fill::Null),
        Ok(v1::Fill::Previous) => Ok(Fill::Previous),
        Ok(v1::Fill::Linear) => Ok(Fill::Linear),
        Err(_) => Err(Invalid::new("fill", "must be a Fill")),
    }
}
