//! When devices were last heard of, and how far their clocks are ahead: noted in memory at each
//! commit, written every few seconds.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use telemetry_model::{Device, DeviceClock, DeviceId, Event, EventKind, Timestamp};

use crate::clock_repair::MAX_AHEAD;

/// How often a device is warned of.
const WARN_EVERY: Duration = Duration::from_hours(1);
/// Of how many devices within that time, so that the list of them is bounded.
const MAX_WARNED: usize = 1000;

/// The notes not yet in the database.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    notes: Mutex<HashMap<DeviceId, Note>>,
    warned: Mutex<Warned>,
}

/// The devices that were warned of within the hour.
#[derive(Debug, Default)]
struct Warned {
    until: Option<Timestamp>,
    devices: HashSet<DeviceId>,
}

/// What is to be written of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) seen: Timestamp,
    pub(super) heartbeat: Option<Timestamp>,
    skew: Option<Skew>,
}

impl Note {
    /// How many microseconds the device's wall clock was ahead when it last told a time.
    pub(super) fn skew_us(&self) -> Option<i64> {
        self.skew.map(|skew| skew.ahead_us)
    }
}

/// What a device's wall clock said against ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Skew {
    received: Timestamp,
    ahead_us: i64,
}

impl Skew {
    /// By the last sample, the one that was measured last.
    fn of(event: &Event) -> Option<Self> {
        let DeviceClock::Wall(time) = event.samples.last()?.clock else { return None };
        let received = event.received;
        Some(Self { received, ahead_us: time.micros() - received.micros() })
    }
}

impl LastSeen {
    /// Notes that these events came.
    pub(super) fn note(&self, events: &[&Event]) {
        let mut notes = self.notes();
        for event in events {
            let new = Note { seen: event.received, heartbeat: None, skew: None };
            let note = match notes.get_mut(&event.device) {
                Some(note) => note,
                None => notes.entry(event.device.clone()).or_insert(new),
            };
            note.seen = note.seen.max(event.received);
            if event.kind == EventKind::Heartbeat {
                note.heartbeat = note.heartbeat.max(Some(event.received));
            }
            if let Some(skew) = Skew::of(event) {
                if note.skew.is_none_or(|last| last.received <= skew.received) {
                    note.skew = Some(skew);
                }
                self.warn(&event.device, skew);
            }
        }
    }

    /// Warns of a clock that is not believed.
    fn warn(&self, device: &DeviceId, skew: Skew) {
        if self.is_to_be_warned_of(device, skew) {
            let ahead_s = skew.ahead_us / 1_000_000;
            tracing::warn!(%device, ahead_s, "device clock is too far ahead to be believed");
        }
    }

    fn is_to_be_warned_of(&self, device: &DeviceId, Skew { received, ahead_us }: Skew) -> bool {
        if Duration::from_micros(u64::try_from(ahead_us).unwrap_or(0)) <= MAX_AHEAD {
            return false;
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.until.is_none_or(|until| received > until) {
            *warned = Warned { until: Some(received.plus(WARN_EVERY)), devices: HashSet::new() };
        }
        warned.devices.len() < MAX_WARNED && warned.devices.insert(device.clone())
    }

    /// Adds what is noted to a device as the database has it.
    pub(super) fn complete(&self, mut device: Device) -> Device {
        if let Some(note) = self.notes().get(&device.id) {
            device.last_seen = device.last_seen.max(note.seen);
            device.last_heartbeat = device.last_heartbeat.max(note.heartbeat);
            device.clock_skew_us = note.skew_us().or(device.clock_skew_us);
        }
        device
    }

    /// The notes to write.
    pub(super) fn pending(&self) -> Vec<(DeviceId, Note)> {
        self.notes().iter().map(|(id, note)| (id.clone(), *note)).collect()
    }

    /// Forgets notes that were written and have not changed since.
    pub(super) fn written(&self, written: &[(DeviceId, Note)]) {
        let mut notes = self.notes();
        for (device, note) in written {
            if notes.get(device) == Some(note) {
                notes.remove(device);
            }
        }
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<DeviceId, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is warned of when a device's clock is so far ahead, so long after noon.
    fn is_warned(last_seen: &LastSeen, device: &str, ahead: Duration, after: Duration) -> bool {
        let received = Timestamp::from_micros(1_767_787_200_000_000).unwrap().plus(after);
        let ahead_us = i64::try_from(ahead.as_micros()).unwrap();
        let device = DeviceId::parse(device).unwrap();
        last_seen.is_to_be_warned_of(&device, Skew { received, ahead_us })
    }

    #[test]
    fn a_clock_far_ahead_is_warned_of_once_an_hour() {
        let last_seen = LastSeen::default();
        let far = MAX_AHEAD + Duration::from_micros(1);
        let warned = |device, ahead, after| is_warned(&last_seen, device, ahead, after);
        assert!(!warned("fern-1", MAX_AHEAD, Duration::ZERO), "it is believed");
        assert!(warned("fern-1", far, Duration::ZERO));
        assert!(!warned("fern-1", far, WARN_EVERY));
        assert!(warned("fern-2", far, WARN_EVERY));
        assert!(warned("fern-1", far, WARN_EVERY + Duration::from_micros(1)));
    }

    #[test]
    fn who_invents_devices_does_not_fill_the_log() {
        let last_seen = LastSeen::default();
        let warned =
            |n: usize, after| is_warned(&last_seen, &format!("d{n}"), 2 * MAX_AHEAD, after);
        let count = (0..2 * MAX_WARNED).filter(|n| warned(*n, Duration::ZERO)).count();
        assert_eq!(count, MAX_WARNED);
        assert!(warned(2 * MAX_WARNED, 2 * WARN_EVERY));
    }
}
