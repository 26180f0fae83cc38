//! History: what a call asks of it is made of the few questions that storage answers.
//!
//! What databases sum up fast they are asked for (count, min, max, avg, first, last, in any buckets).
//! All else is made here, of the readings as they come page by page: once, so that it is the same
//! whichever the database, and in bounded memory.

pub(crate) mod calendar;
pub(crate) mod export;
mod fill;
mod fold;
mod lttb;
mod selection;

use telemetry_model::{Grid, Point, Series, Summary, TimeRange};

pub(crate) use self::{fill::Fill, selection::series};
use self::{fold::Fold, lttb::Lttb};
use crate::{
    error::{Error, Result},
    storage::{Storage, Summaries},
};

/// How many readings are read at a time.
const PAGE: usize = 10_000;
/// The most readings that may stand behind one point of a shape.
const MAX_SHARE: usize = 1_000_000;

/// What a bucket may say of its readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Aggregate {
    Min,
    Max,
    Avg,
    First,
    Last,
    /// Of the sample (n - 1).
    Stddev,
    /// Each value holds until the next.
    TimeWeightedAvg,
    /// Of a counter, which may restart from 0.
    Increase,
    Rate,
}

/// What is asked of each bucket, beside its count.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) percentiles: Vec<f64>,
}

impl Wanted {
    fn has(&self, aggregate: Aggregate) -> bool {
        self.aggregates.contains(&aggregate)
    }

    /// Whether the last reading before the range counts.
    fn looks_back(&self) -> bool {
        use Aggregate::{Increase, Rate, TimeWeightedAvg};
        [TimeWeightedAvg, Increase, Rate].into_iter().any(|aggregate| self.has(aggregate))
    }

    /// Whether storage cannot sum it up.
    fn needs_readings(&self) -> bool {
        self.looks_back() || self.has(Aggregate::Stddev) || !self.percentiles.is_empty()
    }
}

/// What a bucket says: what was asked for, and is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Values {
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) avg: Option<f64>,
    pub(crate) first: Option<f64>,
    pub(crate) last: Option<f64>,
    pub(crate) stddev: Option<f64>,
    pub(crate) time_weighted_avg: Option<f64>,
    pub(crate) percentiles: Vec<f64>,
    pub(crate) increase: Option<f64>,
    pub(crate) rate: Option<f64>,
}

/// One bucket of a grid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    /// Which one.
    pub(crate) place: usize,
    pub(crate) count: u64,
    pub(crate) values: Values,
}

impl Bucket {
    fn new(summary: Summary, wanted: &Wanted) -> Self {
        let Summary { bucket, count, min, max, avg, first, last } = summary;
        let if_wanted = |aggregate, value| Some(value).filter(|_| wanted.has(aggregate));
        let values = Values {
            min: if_wanted(Aggregate::Min, min),
            max: if_wanted(Aggregate::Max, max),
            avg: if_wanted(Aggregate::Avg, avg),
            first: if_wanted(Aggregate::First, first),
            last: if_wanted(Aggregate::Last, last),
            ..Values::default()
        };
        Self { place: bucket, count, values }
    }
}

/// The buckets of a series, and whether rollups helped.
pub(crate) async fn buckets(
    storage: &dyn Storage,
    series: &Series,
    grid: &Grid,
    wanted: &Wanted,
    fill: Fill,
) -> Result<(Vec<Bucket>, bool)> {
    let (found, rolled_up) = if wanted.needs_readings() {
        let before = if wanted.looks_back() {
            storage.point_before(series, grid.range().start).await?
        } else {
            None
        };
        let mut fold = Fold::new(grid, wanted, before);
        each_point(storage, series, grid.range(), |point| fold.push(point)).await?;
        (fold.finish(), false)
    } else {
        let Summaries { buckets, rolled_up } = storage.summarize(series, grid).await?;
        (buckets.into_iter().map(|summary| Bucket::new(summary, wanted)).collect(), rolled_up)
    };
    Ok((fill.fill(found, grid), rolled_up))
}

/// At most so many readings of a series, whose line looks like that of all.
pub(crate) async fn shape(
    storage: &dyn Storage,
    series: &Series,
    range: TimeRange,
    most: usize,
) -> Result<Vec<Point>> {
    let one = Grid::of_edges(range, [range.start, range.end].into_iter())?;
    let counted = storage.summarize(series, &one).await?;
    let total = counted.buckets.first().map_or(0, |summary| summary.count);
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    if Lttb::share(total, most) > MAX_SHARE {
        return Err(Error::TooCostly("more than 1000000 readings a point: raise max_points"));
    }
    let mut lttb = Lttb::new(total, most);
    let mut left = total;
    each_point(storage, series, range, |point| {
        // What came since the count must not make it more points.
        if left > 0 {
            lttb.push(point);
            left -= 1;
        }
        Ok(())
    })
    .await?;
    Ok(lttb.finish())
}

/// Reads the numeric readings of a series page by page, oldest first.
async fn each_point(
    storage: &dyn Storage,
    series: &Series,
    mut range: TimeRange,
    mut take: impl FnMut(Point) -> Result<()>,
) -> Result<()> {
    loop {
        let page = storage.points(series, range, PAGE).await?;
        page.iter().try_for_each(|point| take(*point))?;
        let Some(last) = page.last().filter(|_| page.len() == PAGE) else { return Ok(()) };
        range.start = last.time.next();
    }
}
