//! When devices were last heard of: noted in memory at each commit, written every few seconds.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use telemetry_model::{Device, DeviceId, Event, EventKind, Timestamp};

/// The notes not yet in the database.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    notes: Mutex<HashMap<DeviceId, Note>>,
}

/// What is to be written of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) seen: Timestamp,
    pub(super) heartbeat: Option<Timestamp>,
}

impl LastSeen {
    /// Notes that these events came.
    pub(super) fn note(&self, events: &[&Event]) {
        let mut notes = self.notes();
        for event in events {
            let new = Note { seen: event.received, heartbeat: None };
            let note = match notes.get_mut(&event.device) {
                Some(note) => note,
                None => notes.entry(event.device.clone()).or_insert(new),
            };
            note.seen = note.seen.max(event.received);
            if event.kind == EventKind::Heartbeat {
                note.heartbeat = note.heartbeat.max(Some(event.received));
            }
        }
    }

    /// Adds what is noted to a device as the database has it.
    pub(super) fn complete(&self, mut device: Device) -> Device {
        if let Some(note) = self.notes().get(&device.id) {
            device.last_seen = device.last_seen.max(note.seen);
            device.last_heartbeat = device.last_heartbeat.max(note.heartbeat);
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
