//! What can be asked of the history, already checked.

use crate::{DeviceId, MetricName, TimeRange, Timestamp};

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
