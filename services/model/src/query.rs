//! What can be asked of the history, already checked.

use crate::{DeviceId, MetricName, Presence, TimeRange, Timestamp};

/// Which devices to list, ordered by id: those that match all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    /// Only those behind this one.
    pub after: Option<DeviceId>,
    /// Whose ids begin with this text.
    pub id_prefix: String,
    /// Whose ids begin with one of these.
    pub within: Option<Vec<String>>,
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
