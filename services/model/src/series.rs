//! One metric of one device over time, and what there is to say of its numbers.

use crate::{DeviceId, MetricName, Timestamp};

/// One metric of one device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series {
    /// Whose.
    pub device: DeviceId,
    /// Which metric.
    pub metric: MetricName,
}

/// A numeric reading of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its time.
    pub time: Timestamp,
    /// Its value.
    pub value: f64,
}

/// The numeric readings of one bucket in short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Which bucket of the grid.
    pub bucket: usize,
    /// How many readings, at least one.
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

/// Some metrics of some devices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    devices: Vec<DeviceId>,
    metrics: Vec<MetricName>,
}

impl Selection {
    /// Whoever is named several times is meant once.
    pub fn new(mut devices: Vec<DeviceId>, mut metrics: Vec<MetricName>) -> Self {
        devices.sort_unstable();
        devices.dedup();
        metrics.sort_unstable();
        metrics.dedup();
        Self { devices, metrics }
    }

    /// Whether a series is among those that are meant; no devices means all.
    pub fn contains(&self, series: &Series) -> bool {
        let Self { devices, metrics } = self;
        (devices.is_empty() || devices.contains(&series.device))
            && (metrics.is_empty() || metrics.contains(&series.metric))
    }

    /// The devices in order.
    pub fn devices(&self) -> &[DeviceId] {
        &self.devices
    }

    /// The metrics in order; none means all.
    pub fn metrics(&self) -> &[MetricName] {
        &self.metrics
    }
}
