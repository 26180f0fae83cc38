//! How many devices and metrics a fleet may have. Those there are go on; what is of a new one beyond
//! goes to the quarantine.

use std::{borrow::Cow, collections::HashSet};

use telemetry_model::{DeviceId, Event, EventKind, Message, MetricName, Submission};

use super::{names::Unknown, quarantine::refuse};

/// The limits.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// The most devices.
    pub devices: u64,
    /// The most names of metrics.
    pub metrics: u64,
}

/// New names for which there is no room.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    devices: HashSet<DeviceId>,
    metrics: HashSet<MetricName>,
}

impl Fleet {
    /// Takes those of the new names out for which there is no room beside the devices and metrics
    /// that there are. Several replicas at once may let in a few more.
    pub(super) fn bound(self, new: &mut Unknown, devices: i64, metrics: i64) -> Beyond {
        let room = |most: u64, there: i64| {
            usize::try_from(most.saturating_sub(there.unsigned_abs())).unwrap_or(usize::MAX)
        };
        let devices = new.devices.keys().skip(room(self.devices, devices)).cloned().collect();
        let metrics = new.metrics.iter().skip(room(self.metrics, metrics)).cloned().collect();
        let beyond = Beyond { devices, metrics };
        new.devices.retain(|device, _| !beyond.devices.contains(device));
        new.metrics.retain(|metric| !beyond.metrics.contains(metric));
        if !(beyond.devices.is_empty() && beyond.metrics.is_empty()) {
            let (devices, metrics) = (beyond.devices.len(), beyond.metrics.len());
            let fix = "raise MAX_DEVICES or MAX_METRICS, or find out who invents names";
            tracing::warn!(devices, metrics, fix, "no room for new devices or metrics");
        }
        beyond
    }
}

impl Beyond {
    /// A batch without what is of these names, which is refused instead.
    pub(super) fn refuse<'a>(&self, batch: &'a [Submission]) -> Cow<'a, [Submission]> {
        if self.devices.is_empty() && self.metrics.is_empty() {
            return Cow::Borrowed(batch);
        }
        let mut batch = batch.to_vec();
        for message in batch.iter_mut().flat_map(|submission| &mut submission.messages) {
            self.refuse_message(message);
        }
        Cow::Owned(batch)
    }

    fn refuse_message(&self, message: &mut Message) {
        let Some(event) = &mut message.event else { return };
        let refusal = if self.devices.contains(&event.device) {
            let detail = "the fleet has as many devices as it may (MAX_DEVICES)";
            let refusal = refuse(event, "too_many_devices", "device_id", detail.to_owned());
            message.event = None;
            refusal
        } else if event.kind == EventKind::Telemetry && self.names(event) {
            let detail = "the fleet has as many metrics as it may (MAX_METRICS)";
            let refusal = refuse(event, "too_many_metrics", "metric", detail.to_owned());
            for sample in &mut event.samples {
                sample.measurements.retain(|m| !self.metrics.contains(&m.metric));
            }
            event.samples.retain(|sample| !sample.measurements.is_empty());
            if event.samples.is_empty() {
                message.event = None;
            }
            refusal
        } else {
            return;
        };
        // What was refused before is kept as it came, which is more.
        message.refusal.get_or_insert(refusal);
    }

    /// Whether an event measures one of these.
    fn names(&self, event: &Event) -> bool {
        let mut measured = event.samples.iter().flat_map(|sample| &sample.measurements);
        measured.any(|measurement| self.metrics.contains(&measurement.metric))
    }
}
