//! Gives every sample of a batch its time, and makes the readings to be stored.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
    vec,
};

use telemetry_model::{DeviceClock, Event, EventKind, Sample, TimeSource, Timestamp, Value};

use super::{
    append::{AppendTx, Identity, Row, same},
    names::Ids,
};
use crate::{
    clock_repair::{Boot, MAX_AHEAD, Told, UptimeClock, latest_times},
    error::Result,
};

/// 2010-01-01T00:00:00Z: a device clock that says less has never been set.
const EARLIEST_CREDIBLE_MICROS: i64 = 1_262_304_000_000_000;

/// What is known of the uptime counters of a batch's devices.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    by_device: HashMap<i32, UptimeClock>,
    /// Readings stored before at times at which one of this batch might belong.
    stored: HashMap<Identity, Value>,
    /// Of each telemetry sample with a bare count, the latest time it can have been told.
    latest: vec::IntoIter<Option<Timestamp>>,
}

impl Clocks {
    /// Reads what placing these events needs; nothing if none of them carries a bare count.
    pub(super) async fn load<T: AppendTx>(
        tx: &mut T,
        ids: &Ids,
        events: &[&Event],
    ) -> Result<Self> {
        let devices: HashSet<_> = counted(ids, events).map(|counted| counted.device).collect();
        if devices.is_empty() {
            return Ok(Self::default());
        }
        let mut boots: HashMap<i32, Vec<Boot>> = devices.iter().map(|id| (*id, vec![])).collect();
        let known = tx.boots(&devices.into_iter().collect::<Vec<_>>()).await?;
        for (device, boot) in known {
            boots.entry(device).or_default().push(boot);
        }
        let by_device: HashMap<_, _> =
            boots.into_iter().map(|(device, boots)| (device, UptimeClock::new(boots))).collect();
        let mut clocks = Self { by_device, ..Self::default() };
        let telemetry: Vec<_> = counted(ids, events).filter(Counted::is_telemetry).collect();
        let mut identities = HashSet::new();
        for counted in &telemetry {
            for time in clocks.earlier_times(counted) {
                let readings = readings(counted.device, counted.metrics, counted.sample, time);
                identities.extend(readings.map(|(identity, _)| identity));
            }
        }
        if !identities.is_empty() {
            clocks.stored = tx.stored(&identities.into_iter().collect::<Vec<_>>()).await?;
        }
        clocks.latest = latest_times(&clocks.told(&telemetry)).into_iter();
        Ok(clocks)
    }

    fn earlier_times(&self, counted: &Counted<'_>) -> impl Iterator<Item = Timestamp> {
        let clock = self.by_device.get(&counted.device).into_iter();
        clock.flat_map(|clock| clock.earlier_times(counted.count, counted.received))
    }

    /// The counts of those of these samples that have not come before.
    fn told(&self, telemetry: &[Counted<'_>]) -> Vec<Option<(i32, u32, Timestamp)>> {
        let mut seen: HashMap<_, Vec<_>> = HashMap::new();
        let told = telemetry.iter().map(|counted| {
            let Counted { device, sample, metrics, count, received } = *counted;
            let equal = seen.entry((device, count)).or_default();
            let stored = |time| is_stored(&self.stored, device, metrics, sample, time);
            if equal.contains(&sample) || self.earlier_times(counted).any(stored) {
                return None;
            }
            equal.push(sample);
            Some((device, count, received))
        });
        told.collect()
    }

    /// What has changed of the boots, once these events are placed.
    pub(super) fn changes(&mut self, events: &[&Event]) -> BootChanges {
        let mut changes = BootChanges::default();
        let Some(received) = events.iter().map(|event| event.received).max() else {
            return changes;
        };
        for (device, clock) in &mut self.by_device {
            let gone = clock.forget(received).into_iter();
            changes.gone.extend(gone.map(|number| (*device, number)));
            changes.saved.extend(clock.changed().map(|boot| (*device, *boot)));
        }
        changes
    }
}

/// What is to be written of the boots of devices.
#[derive(Debug, Default)]
pub(super) struct BootChanges {
    /// New ones, and those that went on.
    pub(super) saved: Vec<(i32, Boot)>,
    /// The numbers of those that no message can belong to any more. Kept, they would be read with
    /// every message.
    pub(super) gone: Vec<(i32, i32)>,
}

/// A sample that carries a bare count.
#[derive(Debug)]
struct Counted<'a> {
    device: i32,
    sample: &'a Sample,
    /// The numbers of its metrics; none if it is a heartbeat's.
    metrics: &'a [i32],
    count: u32,
    received: Timestamp,
}

impl Counted<'_> {
    fn is_telemetry(&self) -> bool {
        !self.metrics.is_empty()
    }
}

fn counted<'a>(ids: &'a Ids, events: &'a [&'a Event]) -> impl Iterator<Item = Counted<'a>> {
    let mut metrics = ids.metrics.as_slice();
    let events = events.iter().copied().zip(&ids.devices);
    let samples = events.flat_map(|(event, id)| event.samples.iter().map(move |s| (event, *id, s)));
    samples.filter_map(move |(event, device, sample)| {
        let of_telemetry = event.kind == EventKind::Telemetry;
        let count = if of_telemetry { sample.measurements.len() } else { 0 };
        let (own, others) = metrics.split_at_checked(count).unwrap_or_default();
        metrics = others;
        match sample.clock {
            DeviceClock::Counter(count) => {
                Some(Counted { device, sample, metrics: own, count, received: event.received })
            }
            DeviceClock::None | DeviceClock::Wall(_) => None,
        }
    })
}

/// The time of each event, and the readings of the telemetry among them.
pub(super) fn place<'a>(
    clocks: &mut Clocks,
    ids: &Ids,
    events: &'a [&'a Event],
) -> (Vec<(Timestamp, TimeSource)>, Vec<Row<'a>>) {
    let mut metrics = ids.metrics.iter();
    let mut placed = Vec::with_capacity(events.len());
    let mut rows = Vec::with_capacity(ids.metrics.len());
    for (index, (event, device)) in events.iter().zip(&ids.devices).enumerate() {
        let mut first = None;
        for (n, sample) in (0..).zip(&event.samples) {
            // Samples without a time of their own must not share one.
            let received = event.received.plus(Duration::from_micros(n));
            let telemetry = event.kind == EventKind::Telemetry;
            let own = metrics.as_slice().get(..sample.measurements.len()).filter(|_| telemetry);
            let own = own.unwrap_or_default();
            let (time, time_source) = clocks.place(*device, event.kind, sample, own, received);
            first.get_or_insert((time, time_source));
            for (measurement, metric) in sample.measurements.iter().zip(own) {
                let identity = Identity { device: *device, metric: *metric, time };
                rows.push(Row { identity, time_source, measurement, event: index });
            }
            metrics = metrics.as_slice().get(own.len()..).unwrap_or_default().iter();
        }
        placed.push(first.unwrap_or((event.received, TimeSource::Received)));
    }
    (placed, rows)
}

impl Clocks {
    fn place(
        &mut self,
        device: i32,
        kind: EventKind,
        sample: &Sample,
        metrics: &[i32],
        received: Timestamp,
    ) -> (Timestamp, TimeSource) {
        match sample.clock {
            DeviceClock::Wall(time) if is_credible(time, received) => (time, TimeSource::Device),
            DeviceClock::Wall(_) | DeviceClock::None => (received, TimeSource::Received),
            DeviceClock::Counter(count) => {
                let clock = self.by_device.entry(device).or_default();
                if kind == EventKind::Heartbeat {
                    return clock.place_heartbeat(count, received);
                }
                let latest = self.latest.next().flatten().unwrap_or(received);
                let is_stored = |time| is_stored(&self.stored, device, metrics, sample, time);
                let placed = clock.place(Told { count, received, latest }, is_stored);
                // Later samples of the batch may be this one again.
                let own = readings(device, metrics, sample, placed.0);
                for (identity, value) in own {
                    self.stored.entry(identity).or_insert_with(|| value.clone());
                }
                placed
            }
        }
    }
}

fn readings<'a>(
    device: i32,
    metrics: &'a [i32],
    sample: &'a Sample,
    time: Timestamp,
) -> impl Iterator<Item = (Identity, &'a Value)> {
    let all = metrics.iter().zip(&sample.measurements);
    all.map(move |(metric, m)| (Identity { device, metric: *metric, time }, &m.value))
}

/// Whether all that a sample measured is stored at a time.
fn is_stored(
    stored: &HashMap<Identity, Value>,
    device: i32,
    metrics: &[i32],
    sample: &Sample,
    time: Timestamp,
) -> bool {
    let is_stored = |(identity, value): (Identity, &Value)| {
        stored.get(&identity).is_some_and(|stored| same(stored, value))
    };
    readings(device, metrics, sample, time).all(is_stored)
}

fn is_credible(time: Timestamp, received: Timestamp) -> bool {
    time.micros() >= EARLIEST_CREDIBLE_MICROS && time <= received.plus(MAX_AHEAD)
}
