//! The small numbers that stand for the names of devices and metrics, remembered.
//!
//! A number is remembered only once it is committed, and never changes. What is not remembered is
//! registered by the backend before the transaction that needs it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use telemetry_model::{DeviceId, Event, EventKind, MetricName, Timestamp};

use super::rows;

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    devices: HashMap<DeviceId, i32>,
    metrics: HashMap<MetricName, i32>,
    device_metrics: HashSet<(i32, i32)>,
}

/// Names that have no number yet, in order, so that registering them cannot deadlock.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// Devices, and when they were first heard of.
    pub(super) devices: BTreeMap<DeviceId, Timestamp>,
    pub(super) metrics: BTreeSet<MetricName>,
}

/// The numbers of a list of events, in their order.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// One per event.
    pub(super) devices: Vec<i32>,
    /// One per measurement of a telemetry event.
    pub(super) metrics: Vec<i32>,
}

impl Names {
    /// The numbers of all names in these events, or the names that have none.
    pub(super) fn resolve(&self, events: &[&Event]) -> Result<Ids, Unknown> {
        let known = self.read();
        let (mut ids, mut unknown) = (Ids::default(), Unknown::default());
        for event in events {
            match known.devices.get(&event.device) {
                Some(id) => ids.devices.push(*id),
                None => {
                    let first = unknown.devices.entry(event.device.clone());
                    let first = first.or_insert(event.received);
                    *first = event.received.min(*first);
                }
            }
            for metric in metrics(event) {
                match known.metrics.get(metric) {
                    Some(id) => ids.metrics.push(*id),
                    None => _ = unknown.metrics.insert(metric.clone()),
                }
            }
        }
        if unknown.devices.is_empty() && unknown.metrics.is_empty() {
            Ok(ids)
        } else {
            Err(unknown)
        }
    }

    /// Remembers committed numbers of devices and of metrics.
    pub(super) fn learn(
        &self,
        devices: Vec<(String, i32)>,
        metrics: Vec<(String, i32)>,
    ) -> crate::Result<()> {
        let mut known = self.write();
        for (device, id) in devices {
            known.devices.insert(rows::device_id(&device)?, id);
        }
        for (metric, id) in metrics {
            known.metrics.insert(rows::metric_name(&metric)?, id);
        }
        Ok(())
    }

    /// Those of these (device, metric) pairs that are not known to be in the database.
    pub(super) fn unknown_pairs(
        &self,
        pairs: impl Iterator<Item = (i32, i32)>,
    ) -> BTreeSet<(i32, i32)> {
        let known = self.read();
        pairs.filter(|pair| !known.device_metrics.contains(pair)).collect()
    }

    /// Remembers committed pairs.
    pub(super) fn learn_pairs(&self, pairs: impl IntoIterator<Item = (i32, i32)>) {
        self.write().device_metrics.extend(pairs);
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        // Maps are whole between any two statements, so a panic elsewhere does not spoil them.
        self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The metrics of a telemetry event, in the order of its measurements.
fn metrics(event: &Event) -> impl Iterator<Item = &MetricName> {
    let is_telemetry = event.kind == EventKind::Telemetry;
    let samples = event.samples.iter().filter(move |_| is_telemetry);
    samples.flat_map(|sample| sample.measurements.iter().map(|m| &m.metric))
}
