//! The small numbers that stand for the names of devices and metrics, remembered.
//!
//! A number is remembered only once it is committed, and never given again. What is not remembered is
//! registered by the backend before the transaction that needs it.
//!
//! A device may be deleted meanwhile, by any process. Its partition counts that, under the lock that an
//! append takes: who finds there another count than the one remembered forgets the partition's devices.
//! What was asked for before somebody forgot is not remembered, for it may be dead.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use telemetry_model::{DeviceId, Event, EventKind, MetricName, Partition, Timestamp};

use super::{append::Head, rows};

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
    /// How many devices of each partition had been deleted, when there were any.
    deletions: HashMap<Partition, i64>,
    /// How often devices were forgotten.
    forgotten: u64,
}

/// Names that have no number yet, in order, so that registering them cannot deadlock.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// Devices, and when they were first heard of.
    pub(super) devices: BTreeMap<DeviceId, Timestamp>,
    pub(super) metrics: BTreeSet<MetricName>,
    /// How often devices had been forgotten when it was found out.
    pub(super) forgotten: u64,
}

/// The numbers of a list of events, in their order.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// One per event.
    pub(super) devices: Vec<i32>,
    /// One per measurement of a telemetry event.
    pub(super) metrics: Vec<i32>,
    /// How often devices had been forgotten when it was found out.
    forgotten: u64,
}

impl Names {
    /// The numbers of all names in these events, or the names that have none.
    pub(super) fn resolve(&self, events: &[&Event]) -> Result<Ids, Unknown> {
        let known = self.read();
        let forgotten = known.forgotten;
        let mut ids = Ids { forgotten, ..Ids::default() };
        let mut unknown = Unknown { forgotten, ..Unknown::default() };
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

    /// Remembers committed numbers of devices and of metrics, which were asked for when devices had been
    /// forgotten so often.
    pub(super) fn learn(
        &self,
        forgotten: u64,
        devices: Vec<(String, i32)>,
        metrics: Vec<(String, i32)>,
    ) -> crate::Result<()> {
        let mut known = self.write();
        let may_be_dead = known.forgotten != forgotten;
        for (device, id) in devices.into_iter().filter(|_| !may_be_dead) {
            known.devices.insert(rows::device_id(&device)?, id);
        }
        for (metric, id) in metrics {
            known.metrics.insert(rows::metric_name(&metric)?, id);
        }
        Ok(())
    }

    /// Whether these numbers still stand for their devices, whose partitions have these heads, which are
    /// held. If not, the devices of partitions in which some were deleted are forgotten.
    pub(super) fn are_alive(&self, ids: &Ids, heads: &[(Partition, Head)]) -> bool {
        let is_new = |known: &Known, (partition, head): &(Partition, Head)| {
            known.deletions.get(partition).copied().unwrap_or(0) != head.deletions
        };
        let known = self.read();
        if !heads.iter().any(|head| is_new(&known, head)) {
            return known.forgotten == ids.forgotten;
        }
        drop(known);
        let mut known = self.write();
        let new: HashMap<_, _> =
            heads.iter().filter(|head| is_new(&known, head)).copied().collect();
        known.devices.retain(|device, _| !new.contains_key(&device.partition()));
        known.deletions.extend(new.iter().map(|(partition, head)| (*partition, head.deletions)));
        known.forgotten += 1;
        false
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
