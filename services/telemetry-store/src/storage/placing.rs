//! Gives every sample of a batch its time, and makes the readings to be stored.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use telemetry_model::{
    DeviceClock, Event, EventKind, Measurement, Sample, TimeSource, Timestamp, Value,
};

use super::{
    append::{AppendTx, Identity, Row, same},
    names::Ids,
};
use crate::{
    clock_repair::{Boot, MAX_AHEAD, UptimeClock},
    error::Result,
};

/// 2010-01-01T00:00:00Z: a device clock that says less has never been set.
const EARLIEST_CREDIBLE_MICROS: i64 = 1_262_304_000_000_000;

/// What is known of the uptime counters of a batch's devices.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    clocks: HashMap<i32, UptimeClock>,
    /// Readings stored before at times at which one of this batch might belong.
    stored: HashMap<Identity, Value>,
}

impl Clocks {
    /// Reads what placing these events needs; nothing if none of them carries a bare count.
    pub(super) async fn load<T: AppendTx>(
        tx: &mut T,
        ids: &Ids,
        events: &[&Event],
    ) -> Result<Self> {
        let devices: HashSet<_> = counts(ids, events).map(|(device, ..)| device).collect();
        if devices.is_empty() {
            return Ok(Self::default());
        }
        let mut boots: HashMap<i32, Vec<Boot>> = devices.iter().map(|id| (*id, vec![])).collect();
        let known = tx.boots(&devices.into_iter().collect::<Vec<_>>()).await?;
        for (device, boot) in known {
            boots.entry(device).or_default().push(boot);
        }
        let clocks: HashMap<_, _> =
            boots.into_iter().map(|(device, boots)| (device, UptimeClock::new(boots))).collect();
        let mut identities = HashSet::new();
        for (device, event, sample, metrics, count) in counts(ids, events) {
            let Some(clock) = clocks.get(&device).filter(|_| event.kind == EventKind::Telemetry)
            else {
                continue;
            };
            for time in clock.earlier_times(count, event.received) {
                let metrics = metrics.iter().take(sample.measurements.len());
                identities.extend(metrics.map(|metric| Identity { device, metric: *metric, time }));
            }
        }
        let stored = match identities.len() {
            0 => HashMap::new(),
            _ => tx.stored(&identities.into_iter().collect::<Vec<_>>()).await?,
        };
        Ok(Self { clocks, stored })
    }

    /// The boots to write back.
    pub(super) fn changed(&self) -> Vec<(i32, Boot)> {
        let changed = |(id, clock): (&i32, &UptimeClock)| {
            clock.changed().map(|boot| (*id, *boot)).collect::<Vec<_>>()
        };
        self.clocks.iter().flat_map(changed).collect()
    }
}

/// The samples that carry a bare count: (device, event, sample, ids of its metrics on, count).
fn counts<'a>(
    ids: &'a Ids,
    events: &'a [&'a Event],
) -> impl Iterator<Item = (i32, &'a Event, &'a Sample, &'a [i32], u32)> {
    let mut metrics = ids.metrics.as_slice();
    let events = events.iter().copied().zip(&ids.devices);
    let samples = events.flat_map(|(event, id)| event.samples.iter().map(move |s| (event, *id, s)));
    samples.filter_map(move |(event, device, sample)| {
        let own = metrics;
        if event.kind == EventKind::Telemetry {
            metrics = metrics.get(sample.measurements.len()..).unwrap_or_default();
        }
        match sample.clock {
            DeviceClock::Counter(count) => Some((device, event, sample, own, count)),
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
                let clock = self.clocks.entry(device).or_default();
                if kind == EventKind::Heartbeat {
                    return clock.place_heartbeat(count, received);
                }
                let stored = &self.stored;
                let is_stored = |time| {
                    readings(device, metrics, &sample.measurements, time).all(
                        |(identity, value)| {
                            stored.get(&identity).is_some_and(|stored| same(stored, value))
                        },
                    )
                };
                let placed = clock.place(count, received, is_stored);
                // Later samples of the batch may be this one again.
                let own = readings(device, metrics, &sample.measurements, placed.0);
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
    measurements: &'a [Measurement],
    time: Timestamp,
) -> impl Iterator<Item = (Identity, &'a Value)> {
    let all = metrics.iter().zip(measurements);
    all.map(move |(metric, m)| (Identity { device, metric: *metric, time }, &m.value))
}

fn is_credible(time: Timestamp, received: Timestamp) -> bool {
    time.micros() >= EARLIEST_CREDIBLE_MICROS && time <= received.plus(MAX_AHEAD)
}
