//! Which devices a watch follows, and what of their events it shows. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use telemetry_model::{
    Cursor, DeviceId, EventKind, MetricName, Partition, Positions, Reading, StoredEvent, Value,
};

/// The devices of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    devices: Devices,
    /// Where their events are.
    partitions: Vec<Partition>,
}

#[derive(Debug, PartialEq, Eq)]
enum Devices {
    /// One; its cursors tell of its partition only.
    One(BTreeSet<DeviceId>),
    Some(BTreeSet<DeviceId>),
    /// Those whose id begins with one of these.
    Prefixes(Vec<String>),
}

impl Selection {
    /// One device.
    pub(crate) fn one(device: DeviceId) -> Self {
        let partitions = vec![device.partition()];
        Self { devices: Devices::One([device].into()), partitions }
    }

    /// Some devices.
    pub(crate) fn some(devices: BTreeSet<DeviceId>) -> Self {
        let partitions: BTreeSet<_> = devices.iter().map(DeviceId::partition).collect();
        Self { devices: Devices::Some(devices), partitions: partitions.into_iter().collect() }
    }

    /// All devices whose id begins with one of these.
    pub(crate) fn prefixes(prefixes: Vec<String>) -> Self {
        Self { devices: Devices::Prefixes(prefixes), partitions: Partition::all().collect() }
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The devices, if they are known by name.
    pub(crate) fn devices(&self) -> Option<&BTreeSet<DeviceId>> {
        match &self.devices {
            Devices::One(devices) | Devices::Some(devices) => Some(devices),
            Devices::Prefixes(_) => None,
        }
    }

    /// With what the ids begin, if the devices are not known by name.
    pub(crate) fn prefixes_of_ids(&self) -> Option<&[String]> {
        match &self.devices {
            Devices::One(_) | Devices::Some(_) => None,
            Devices::Prefixes(prefixes) => Some(prefixes),
        }
    }

    pub(crate) fn contains(&self, device: &DeviceId) -> bool {
        match &self.devices {
            Devices::One(devices) | Devices::Some(devices) => devices.contains(device),
            Devices::Prefixes(prefixes) => prefixes.iter().any(|p| device.as_str().starts_with(p)),
        }
    }

    /// The cursor of this watch that says where it stands.
    pub(crate) fn cursor(&self, positions: &Positions) -> String {
        match (&self.devices, self.partitions.first()) {
            (Devices::One(_), Some(partition)) => {
                let (partition, position) = (*partition, positions.get(*partition));
                Cursor { partition, position }.to_string()
            }
            _ => positions.to_string(),
        }
    }
}

/// What of the events is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Only readings of these metrics; empty for all.
    pub(crate) metrics: HashSet<MetricName>,
    /// Only events of these kinds; empty for all.
    pub(crate) kinds: HashSet<EventKind>,
}

impl Filter {
    /// What is to be shown of an event, if anything. If metrics are asked for, an event without any
    /// of them is left out, unless it is one that need not have any and its kind is asked for.
    pub(super) fn apply(&self, event: Arc<StoredEvent>) -> Option<Arc<StoredEvent>> {
        if !self.kinds.is_empty() && !self.kinds.contains(&event.kind) {
            return None;
        }
        if event.readings.iter().all(|reading| self.shows(reading)) && !event.readings.is_empty() {
            return Some(event);
        }
        let readings: Vec<_> = event.readings.iter().filter(|r| self.shows(r)).cloned().collect();
        let need_have_none = event.kind != EventKind::Telemetry && self.kinds.contains(&event.kind);
        let is_shown = self.metrics.is_empty() || !readings.is_empty() || need_have_none;
        is_shown.then(|| Arc::new(StoredEvent { readings, ..(*event).clone() }))
    }

    pub(super) fn shows(&self, reading: &Reading) -> bool {
        self.metrics.is_empty() || self.metrics.contains(&reading.metric)
    }
}

/// How large an event is on the wire, in bytes: at least.
pub(crate) fn weight(event: &StoredEvent) -> usize {
    event.device.as_str().len() + 40 + event.readings.iter().map(reading_weight).sum::<usize>()
}

/// The same of a reading.
pub(super) fn reading_weight(reading: &Reading) -> usize {
    let text = if let Value::Text(text) = &reading.value { text.len() } else { 9 };
    reading.metric.as_str().len() + text + 24
}

#[cfg(test)]
mod tests {
    use telemetry_model::{TimeSource, Timestamp};

    use super::*;

    fn device(id: &str) -> DeviceId {
        DeviceId::parse(id).unwrap()
    }

    fn event(kind: EventKind, metrics: &[&str]) -> Arc<StoredEvent> {
        let (time, time_source) = (Timestamp::EPOCH, TimeSource::Received);
        let device = device("fern-1");
        let reading = |metric: &&str| Reading {
            metric: MetricName::parse(metric).unwrap(),
            value: Value::Flag(true),
            time,
            time_source,
        };
        Arc::new(StoredEvent {
            cursor: Cursor { partition: device.partition(), position: 1 },
            device,
            kind,
            time,
            time_source,
            received: time,
            readings: metrics.iter().map(reading).collect(),
            presence: None,
            trace: None,
        })
    }

    #[test]
    fn a_filter_shows_what_was_asked_for() {
        use EventKind::{Heartbeat, Telemetry};
        let shown = |metrics: &[&str], kinds: &[EventKind], kind, has: &[&str]| {
            let metrics = metrics.iter().map(|name| MetricName::parse(name).unwrap()).collect();
            let filter = Filter { metrics, kinds: kinds.iter().copied().collect() };
            let event = filter.apply(event(kind, has))?;
            Some(event.readings.iter().map(|r| r.metric.to_string()).collect::<Vec<_>>().join(" "))
        };
        for (metrics, kinds, kind, has, expected) in [
            (&[][..], &[][..], Telemetry, &["a", "b"][..], Some("a b")),
            (&["a"], &[], Telemetry, &["a", "b"], Some("a")),
            (&["c"], &[], Telemetry, &["a", "b"], None),
            (&[], &[Telemetry], Heartbeat, &[], None),
            (&[], &[], Heartbeat, &[], Some("")),
            (&["a"], &[], Heartbeat, &[], None),
            (&["a"], &[], Heartbeat, &["a"], Some("a")),
            (&["a"], &[Telemetry, Heartbeat], Heartbeat, &["b"], Some("")),
            (&["a"], &[Telemetry, Heartbeat], Telemetry, &["b"], None),
        ] {
            assert_eq!(
                shown(metrics, kinds, kind, has).as_deref(),
                expected,
                "{metrics:?} {kinds:?} {kind:?} {has:?}"
            );
        }
    }

    #[test]
    fn a_selection_knows_its_devices_and_where_they_are() {
        let positions = Positions::start();
        let one = Selection::one(device("fern-1"));
        assert_eq!(one.cursor(&positions), "19-0");
        let some = Selection::some([device("fern-1"), device("abc123")].into());
        assert_eq!(some.cursor(&positions), positions.to_string());
        assert_eq!(some.partitions().len(), 2);
        assert!(some.contains(&device("abc123")) && !some.contains(&device("abc")));
        let prefixed = Selection::prefixes(vec!["fern-".into()]);
        assert_eq!(prefixed.partitions().len(), 32);
        assert!(prefixed.contains(&device("fern-1")) && !prefixed.contains(&device("moss-1")));
        assert!(Selection::prefixes(vec![String::new()]).contains(&device("moss-1")));
    }
}
