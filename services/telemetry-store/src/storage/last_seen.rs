//! What messages tell of their devices besides readings (when they were heard of, how far their
//! clocks are ahead, counts), and how long bridges listened: noted in memory at each commit, written
//! every few seconds, all in one transaction.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use telemetry_model::{
    Device, DeviceClock, DeviceCounts, DeviceId, Event, EventKind, Listening, ProcessId,
    TimeSource, Timestamp, Value,
};

use super::quarantine::Kept;
use crate::{clock_repair::MAX_AHEAD, presence::is_sign_of_life};

/// How often a device is warned of.
const WARN_EVERY: Duration = Duration::from_hours(1);
/// Of how many devices within that time, so that the list of them is bounded.
const MAX_WARNED: usize = 1000;
/// Under which names heartbeats tell the version of the firmware, and the uptime in seconds.
const FIRMWARE: [&str; 5] = ["firmware", "fw", "fw_version", "firmware_version", "version"];
const UPTIME: [&str; 3] = ["uptime", "uptime_s", "uptime_seconds"];
/// The longest version that is shown, in bytes.
const MAX_FIRMWARE_BYTES: usize = 128;
/// An uptime that began anew did so after the one before was told, but for the way here.
pub(super) const UPTIME_SLACK_S: i64 = 5;
/// No device runs for so long.
const MAX_UPTIME_S: i64 = 10_000_000_000;

/// The notes not yet in the database.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    notes: Mutex<Notes>,
    /// Those that are being written; if that failed, they are written again before others.
    writing: Mutex<Option<Arc<Notes>>>,
    warned: Mutex<Warned>,
}

/// What was noted since the last writing.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    pub(super) devices: HashMap<DeviceId, Note>,
    pub(super) listening: HashMap<ProcessId, Listening>,
}

impl Notes {
    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.listening.is_empty()
    }
}

/// The devices that were warned of within the hour.
#[derive(Debug, Default)]
struct Warned {
    until: Option<Timestamp>,
    devices: HashSet<DeviceId>,
}

/// An event that was committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard<'a> {
    pub(super) event: &'a Event,
    pub(super) topic: &'a str,
    pub(super) time_source: TimeSource,
    pub(super) readings: u64,
    pub(super) duplicates: u64,
}

/// What is to be written of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Note {
    pub(super) seen: Option<Timestamp>,
    pub(super) heartbeat: Option<Timestamp>,
    pub(super) newest: Option<Newest>,
    pub(super) firmware: Option<String>,
    pub(super) rssi_dbm: Option<i64>,
    pub(super) uptime: Option<Uptime>,
    pub(super) counts: DeviceCounts,
    skew: Option<Skew>,
}

/// Of the newest message: what kind it was of, on which topic, and how its time was decided.
#[derive(Clone, Debug)]
pub(super) struct Newest {
    received: Timestamp,
    pub(super) kind: EventKind,
    pub(super) topic: String,
    pub(super) time_source: TimeSource,
}

/// The first and the last uptime noted, and how often it began anew in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uptime {
    pub(super) first: Told,
    pub(super) last: Told,
    pub(super) reboots: i64,
}

/// An uptime, and when it was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) uptime_s: i64,
    pub(super) received: Timestamp,
}

impl Told {
    /// Whether this one began anew after another. One that only came again did not.
    fn is_after_reboot(&self, last: &Self) -> bool {
        let age = Duration::from_secs(self.uptime_s.unsigned_abs());
        let slack = Duration::from_secs(UPTIME_SLACK_S.unsigned_abs());
        self.uptime_s < last.uptime_s && self.received.minus(age).plus(slack) >= last.received
    }
}

impl Note {
    /// How many microseconds the device's wall clock was ahead when it last told a time.
    pub(super) fn skew_us(&self) -> Option<i64> {
        self.skew.map(|skew| skew.ahead_us)
    }

    fn hear(&mut self, heard: &Heard<'_>) {
        let Heard { event, topic, time_source, readings, duplicates } = *heard;
        let received = event.received;
        if is_sign_of_life(event) {
            self.seen = self.seen.max(Some(received));
        }
        self.counts.messages += 1;
        self.counts.readings += readings;
        self.counts.duplicates += duplicates;
        match &mut self.newest {
            Some(newest) if newest.received > received => {}
            Some(newest) => {
                (newest.received, newest.kind) = (received, event.kind);
                newest.time_source = time_source;
                if newest.topic != topic {
                    topic.clone_into(&mut newest.topic);
                }
            }
            None => {
                let (kind, topic) = (event.kind, topic.to_owned());
                self.newest = Some(Newest { received, kind, topic, time_source });
            }
        }
        if event.kind == EventKind::Heartbeat {
            self.heartbeat = self.heartbeat.max(Some(received));
            self.hear_facts(event);
        }
    }

    /// What a heartbeat says of its device.
    fn hear_facts(&mut self, event: &Event) {
        for measurement in event.samples.iter().flat_map(|sample| &sample.measurements) {
            let (name, value) = (measurement.metric.as_str(), &measurement.value);
            if FIRMWARE.contains(&name) {
                self.firmware = Some(text(value));
            } else if name == "rssi" {
                self.rssi_dbm = whole(value).or(self.rssi_dbm);
            } else if UPTIME.contains(&name)
                && let Some(uptime_s) = whole(value).filter(|s| (0..MAX_UPTIME_S).contains(s))
            {
                let told = Told { uptime_s, received: event.received };
                let uptime =
                    self.uptime.get_or_insert(Uptime { first: told, last: told, reboots: 0 });
                uptime.reboots += i64::from(told.is_after_reboot(&uptime.last));
                uptime.last = told;
            }
        }
    }

    /// Adds what is noted to a device as the database has it.
    fn complete(&self, device: &mut Device) {
        device.last_seen = self.seen.map_or(device.last_seen, |seen| seen.max(device.last_seen));
        device.last_heartbeat = device.last_heartbeat.max(self.heartbeat);
        device.clock_skew_us = self.skew_us().or(device.clock_skew_us);
        let (facts, counts) = (&mut device.facts, &mut device.counts);
        if let Some(newest) = &self.newest {
            facts.time_source = Some(newest.time_source);
            (facts.last_kind, facts.last_topic) = (Some(newest.kind), Some(newest.topic.clone()));
        }
        facts.firmware = self.firmware.clone().or(facts.firmware.take());
        facts.rssi_dbm = self.rssi_dbm.or(facts.rssi_dbm);
        facts.uptime_s = self.uptime.map(|uptime| uptime.last.uptime_s).or(facts.uptime_s);
        counts.messages += self.counts.messages;
        counts.readings += self.counts.readings;
        counts.duplicates += self.counts.duplicates;
        counts.quarantined += self.counts.quarantined;
    }
}

fn text(value: &Value) -> String {
    let mut text = match value {
        Value::Text(text) => text.as_ref().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
    };
    text.truncate(text.floor_char_boundary(MAX_FIRMWARE_BYTES));
    text
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and nobody is that far")]
        Value::Number(number) => Some(number.round() as i64),
        Value::Flag(_) | Value::Text(_) => None,
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
    /// Notes what was committed together: events, what went to the quarantine, and for how long the
    /// senders had listened by then.
    pub(super) fn note<'a>(
        &self,
        heard: impl Iterator<Item = Heard<'a>>,
        kept: &[Kept<'_>],
        listening: impl Iterator<Item = (ProcessId, Listening)>,
    ) {
        let mut notes = self.notes();
        for heard in heard {
            let event = heard.event;
            let note = match notes.devices.get_mut(&event.device) {
                Some(note) => note,
                None => notes.devices.entry(event.device.clone()).or_default(),
            };
            note.hear(&heard);
            if let Some(skew) = Skew::of(event) {
                if note.skew.is_none_or(|last| last.received <= skew.received) {
                    note.skew = Some(skew);
                }
                self.warn(&event.device, skew);
            }
        }
        for device in kept.iter().filter_map(|kept| kept.refusal.device.as_ref()) {
            notes.devices.entry(device.clone()).or_default().counts.quarantined += 1;
        }
        notes.listening.extend(listening);
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
        if let Some(note) = self.writing().as_ref().and_then(|notes| notes.devices.get(&device.id))
        {
            note.complete(&mut device);
        }
        if let Some(note) = self.notes().devices.get(&device.id) {
            note.complete(&mut device);
        }
        device
    }

    /// Forgets what is noted of a device, which was deleted.
    pub(super) fn forget(&self, device: &DeviceId) {
        if let Some(notes) = self.writing().as_mut() {
            Arc::make_mut(notes).devices.remove(device);
        }
        self.notes().devices.remove(device);
    }

    /// The notes to write.
    pub(super) fn pending(&self) -> Arc<Notes> {
        let mut writing = self.writing();
        let notes = writing.get_or_insert_with(|| Arc::new(mem::take(&mut *self.notes())));
        Arc::clone(notes)
    }

    /// Forgets the notes that were to be written.
    pub(super) fn written(&self) {
        *self.writing() = None;
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Option<Arc<Notes>>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
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
