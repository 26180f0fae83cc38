//! What can be asked of the history, already checked.

use std::time::Duration;

use crate::{DeviceId, Invalid, MetricName, Presence, TimeRange, Timestamp};

/// Which devices to list, ordered by id: those that match all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    /// Only those behind this one.
    pub after: Option<DeviceId>,
    /// Whose ids begin with this text.
    pub id_prefix: String,
    /// That have this presence.
    pub presence: Option<Presence>,
    /// How many at most.
    pub limit: usize,
}

/// The order in which readings are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// By time, upwards.
    OldestFirst,
    /// By time, downwards.
    NewestFirst,
}

/// A place in a list of readings: those of one instant are ordered by metric, upwards whichever
/// the [`Order`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadingPosition {
    /// The time of the reading.
    pub time: Timestamp,
    /// Its metric.
    pub metric: MetricName,
}

/// Which readings of a device to list.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingQuery {
    /// Whose.
    pub device: DeviceId,
    /// Only these metrics; empty for all.
    pub metrics: Vec<MetricName>,
    /// When.
    pub range: TimeRange,
    /// In which order.
    pub order: Order,
    /// Only those behind this one.
    pub after: Option<ReadingPosition>,
    /// How many at most.
    pub limit: usize,
}

/// What to summarize.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryQuery {
    /// Whose.
    pub device: DeviceId,
    /// Which metric.
    pub metric: MetricName,
    /// When.
    pub range: TimeRange,
    width_micros: i64,
}

impl SummaryQuery {
    /// The most buckets a summary may have.
    pub const MAX_BUCKETS: i64 = 10_000;

    /// Checks the width against the range: at least a second, at most [`Self::MAX_BUCKETS`].
    pub fn new(
        device: DeviceId,
        metric: MetricName,
        range: TimeRange,
        width: Duration,
    ) -> Result<Self, Invalid> {
        let invalid = |reason| Err(Invalid::new("bucket_width", reason));
        if width < Duration::from_secs(1) {
            return invalid("must be at least one second".to_owned());
        }
        let width_micros = i64::try_from(width.as_micros()).unwrap_or(i64::MAX);
        let buckets = (range.end.micros() - range.start.micros()) / width_micros;
        if buckets >= Self::MAX_BUCKETS {
            return invalid(format!(
                "gives {buckets} buckets, more than {}: choose a larger width or a shorter range",
                Self::MAX_BUCKETS
            ));
        }
        Ok(Self { device, metric, range, width_micros })
    }

    /// The width of a bucket in microseconds, at least 1,000,000.
    pub fn width_micros(&self) -> i64 {
        self.width_micros
    }
}

/// The readings of one interval in short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// When it begins: a multiple of the width since 1970.
    pub start: Timestamp,
    /// How many readings.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub avg: f64,
    /// The oldest.
    pub first: f64,
    /// The newest.
    pub last: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_or_too_narrow_buckets_are_refused() {
        let day = TimeRange::new(Timestamp::EPOCH, Timestamp::EPOCH.plus(Duration::from_hours(24)))
            .unwrap();
        let query = |width| {
            let device = DeviceId::parse("fern-1").unwrap();
            SummaryQuery::new(device, MetricName::parse("t").unwrap(), day, width)
        };
        assert_eq!(query(Duration::from_mins(1)).unwrap().width_micros(), 60_000_000);
        for width in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(8)] {
            assert_eq!(query(width).unwrap_err().field, "bucket_width");
        }
        assert!(query(Duration::MAX).is_ok());
    }
}
