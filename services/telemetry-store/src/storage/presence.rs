//! How presence is kept: one algorithm for both backends. What decides is [`crate::presence`].
//!
//! Whoever changes a device's presence holds the head of its log partition, reads what it is, and
//! writes row and log in that transaction.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use telemetry_model::{
    Cursor, DeviceId, Event, EventKind, Presence, PresenceChange, PresenceReason, Standing,
    StoredEvent, TimeSource, Timestamp,
};

use super::{
    append::{AppendTx, LogRow},
    names::Ids,
    placing::BootChanges,
    rows,
};
use crate::{
    error::Result,
    presence::{self, Evidence},
};

/// How many devices are looked at in one transaction, which holds up appends.
pub(super) const PAGE: usize = 500;

/// What this replica remembers of the presence of devices.
#[derive(Debug)]
pub(super) struct Known {
    /// Devices that are online, and when they were last heard of here.
    online: Mutex<HashMap<i32, Timestamp>>,
    /// What was received by then is not fresh, in microseconds.
    fresh_after: AtomicI64,
    pub(super) offline_after: Duration,
}

/// A device's presence, and when it was last heard of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) device: i32,
    pub(super) standing: Standing,
    pub(super) seen: Timestamp,
}

/// The changes that events bring about.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Each with the index of its event.
    pub(super) changes: Vec<(usize, PresenceChange)>,
    /// How it then stands with the devices that were looked at.
    standings: HashMap<i32, Standing>,
}

impl Known {
    pub(super) fn new(offline_after: Duration) -> Self {
        let fresh_after = AtomicI64::new(Timestamp::MIN.micros());
        Self { online: Mutex::default(), fresh_after, offline_after }
    }

    /// Finds what these events change, and writes how it then stands with their devices.
    pub(super) async fn changes<T: AppendTx>(
        &self,
        tx: &mut T,
        ids: &Ids,
        events: &[&Event],
    ) -> Result<Changes> {
        let doubtful = self.doubtful(ids, events);
        if doubtful.is_empty() {
            return Ok(Changes::default());
        }
        let found = tx.standings(&doubtful.into_iter().collect::<Vec<_>>()).await?;
        let mut standings: HashMap<_, _> = found.iter().map(|f| (f.device, f.standing)).collect();
        let (mut changes, mut moved) = (Vec::new(), HashSet::new());
        let fresh_after = self.fresh_after();
        for (index, (event, device)) in events.iter().zip(&ids.devices).enumerate() {
            let Some(standing) = standings.get_mut(device) else { continue };
            if let Some(change) = presence::heard(*standing, event, fresh_after) {
                *standing = change.standing();
                changes.push((index, change));
                moved.insert(*device);
            }
        }
        let saved = standings.iter().filter(|(device, _)| moved.contains(*device));
        let mut saved: Vec<_> = saved.map(|(device, standing)| (*device, *standing)).collect();
        saved.sort_unstable_by_key(|(device, _)| *device);
        tx.save_standings(&saved).await?;
        Ok(Changes { changes, standings })
    }

    /// The devices whose presence these events may change, as far as we remember.
    fn doubtful(&self, ids: &Ids, events: &[&Event]) -> HashSet<i32> {
        let online = self.online();
        let lately = self.offline_after / 2;
        let doubtful = events.iter().zip(&ids.devices).filter(|(event, device)| {
            // Nobody finds a device silent so soon.
            let is_online = |heard: &Timestamp| event.received < heard.plus(lately);
            event.kind == EventKind::Presence || !online.get(device).is_some_and(is_online)
        });
        doubtful.map(|(_, device)| *device).collect()
    }

    /// Remembers what was committed.
    pub(super) fn learn(&self, ids: &Ids, events: &[&Event], changes: &Changes) {
        let mut online = self.online();
        for (event, device) in events.iter().zip(&ids.devices) {
            match changes.standings.get(device).map(|standing| standing.state) {
                Some(Presence::Offline | Presence::Unknown) => _ = online.remove(device),
                Some(Presence::Online) => _ = online.insert(*device, event.received),
                None => {
                    if let Some(heard) = online.get_mut(device) {
                        *heard = event.received.max(*heard);
                    }
                }
            }
        }
    }

    fn fresh_after(&self) -> Timestamp {
        let micros = self.fresh_after.load(Ordering::Relaxed);
        Timestamp::from_micros(micros).unwrap_or(Timestamp::MIN)
    }

    fn online(&self) -> MutexGuard<'_, HashMap<i32, Timestamp>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.online.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what silence proves at present.
    pub(super) fn consider(&self, evidence: &Evidence) {
        self.fresh_after.store(evidence.fresh_after.micros(), Ordering::Relaxed);
    }

    /// Judges devices by how long they were silent; answers whose presence has changed.
    pub(super) async fn judge<T: AppendTx>(
        &self,
        mut tx: T,
        evidence: &Evidence,
        devices: &HashMap<i32, DeviceId>,
    ) -> Result<Vec<DeviceId>> {
        let mut heads: BTreeMap<_, _> = devices.values().map(|id| (id.partition(), 0)).collect();
        let partitions: Vec<_> = heads.keys().copied().collect();
        for (head, locked) in heads.values_mut().zip(tx.lock_heads(&partitions).await?) {
            *head = locked.position;
        }
        let mut ids: Vec<_> = devices.keys().copied().collect();
        ids.sort_unstable();
        let (mut log, mut saved, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for Found { device, standing, seen } in tx.standings(&ids).await? {
            let Some(id) = devices.get(&device) else { continue };
            let Some(change) = evidence.judge(standing, seen) else { continue };
            let head = heads.entry(id.partition()).or_default();
            *head += 1;
            log.push(log_row(device, id, *head, change));
            saved.push((device, change.standing()));
            changed.push(id.clone());
        }
        if changed.is_empty() {
            return Ok(changed);
        }
        tx.insert_log(&log).await?;
        tx.save(&heads, &BootChanges::default(), &[]).await?;
        tx.save_standings(&saved).await?;
        tx.commit(&partitions).await?;
        let mut online = self.online();
        // Those that have come online are looked up once more by the next append.
        for (device, _) in &saved {
            online.remove(device);
        }
        Ok(changed)
    }
}

/// A change as the log has it.
pub(super) fn log_row(device: i32, id: &DeviceId, position: i64, change: PresenceChange) -> LogRow {
    let cursor = Cursor { partition: id.partition(), position };
    let record = telemetry_proto::encode_log_record(StoredEvent {
        device: id.clone(),
        cursor,
        kind: EventKind::Presence,
        time: change.since,
        time_source: TimeSource::Received,
        received: change.since,
        readings: Vec::new(),
        presence: Some(change),
        trace: None,
    });
    LogRow { device, cursor, received: change.since, record }
}

/// The number that stands for a presence.
pub(super) fn number(presence: Presence) -> i16 {
    match presence {
        Presence::Unknown => 1,
        Presence::Online => 2,
        Presence::Offline => 3,
    }
}

/// The number that stands for a reason.
pub(super) fn reason_number(reason: PresenceReason) -> i16 {
    match reason {
        PresenceReason::Heard => 1,
        PresenceReason::Silence => 2,
        PresenceReason::LastWill => 3,
        PresenceReason::NotListening => 4,
    }
}

/// The presence in a row, with times in microseconds.
pub(super) fn standing(state: i16, since: Option<i64>, reason: Option<i16>) -> Result<Standing> {
    let reason = match reason {
        None => None,
        Some(1) => Some(PresenceReason::Heard),
        Some(2) => Some(PresenceReason::Silence),
        Some(3) => Some(PresenceReason::LastWill),
        Some(4) => Some(PresenceReason::NotListening),
        Some(other) => return Err(rows::corrupt(&format!("presence_reason is {other}"))),
    };
    let since = since.map(rows::timestamp).transpose()?;
    Ok(Standing { state: state_of(state)?, decided: since.zip(reason) })
}

fn state_of(number: i16) -> Result<Presence> {
    match number {
        1 => Ok(Presence::Unknown),
        2 => Ok(Presence::Online),
        3 => Ok(Presence::Offline),
        other => Err(rows::corrupt(&format!("presence is {other}"))),
    }
}

/// How many devices there are of each presence.
pub(super) fn counted(rows: Vec<(i16, i64)>) -> Result<Vec<(Presence, u64)>> {
    let counted = |(state, count): (i16, i64)| Ok((state_of(state)?, count.unsigned_abs()));
    rows.into_iter().map(counted).collect()
}
