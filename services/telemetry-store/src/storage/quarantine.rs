//! What an append puts into the quarantine: what the bridge refused, what is too old to be kept.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sqlx::FromRow;
use telemetry_decode::render;
use telemetry_model::{DeviceId, Event, EventKind, Message, Refusal, Timestamp};

use super::{append::Row, rows};
use crate::error::{Error, Result};

/// What a message takes in the quarantine besides its payload, about.
const OVERHEAD_BYTES: u64 = 256;

/// A message to be kept.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub(super) topic: &'a str,
    pub(super) qos: u8,
    pub(super) refusal: Cow<'a, Refusal>,
    pub(super) partial: bool,
}

/// A message in the quarantine.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantined {
    /// Its number.
    pub id: i64,
    /// The topic.
    pub topic: String,
    /// The quality of service with which it came.
    pub qos: u8,
    /// Whether the rest of it was stored.
    pub partial: bool,
    /// What is wrong with it.
    pub refusal: Refusal,
}

/// A message in the quarantine as the backends read it.
#[derive(FromRow)]
pub(super) struct QuarantinedRow {
    id: i64,
    received_us: i64,
    topic: String,
    qos: i16,
    device_id: Option<String>,
    kind: Option<i16>,
    reason: String,
    field: String,
    detail: String,
    partial: bool,
    payload: Vec<u8>,
}

impl TryFrom<QuarantinedRow> for Quarantined {
    type Error = Error;

    fn try_from(row: QuarantinedRow) -> Result<Self> {
        Ok(Self {
            id: row.id,
            topic: row.topic,
            qos: u8::try_from(row.qos).unwrap_or_default(),
            partial: row.partial,
            refusal: Refusal {
                device: row.device_id.as_deref().map(rows::device_id).transpose()?,
                kind: row.kind.map(kind).transpose()?,
                received: rows::timestamp(row.received_us)?,
                reason: row.reason,
                field: row.field,
                detail: row.detail,
                payload: row.payload,
            },
        })
    }
}

/// Which messages in the quarantine to read: those that match all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuarantineQuery {
    /// Of this device.
    pub device: Option<DeviceId>,
    /// Of a device whose id begins with one of these.
    pub within: Option<Vec<String>>,
    /// With this reason.
    pub reason: Option<String>,
    /// One of these; all if empty.
    pub ids: Vec<i64>,
    /// With a lower number than this one.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: usize,
}

/// How much more the quarantine may hold. An estimate: what other replicas put in is only seen when
/// it is measured anew, at each retention run.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicU64,
    bytes: u64,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        Self { used: AtomicU64::new(0), bytes }
    }

    /// Notes what was measured.
    pub(super) fn measured(&self, used: i64) {
        self.used.store(used.unsigned_abs(), Ordering::Relaxed);
    }

    /// How much there is.
    pub(super) fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// Notes what was committed.
    pub(super) fn fill(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Kept<'_> {
    /// What it takes, about.
    pub(super) fn bytes(&self) -> u64 {
        self.refusal.payload.len() as u64 + self.topic.len() as u64 + OVERHEAD_BYTES
    }
}

/// Takes out the readings that retention would delete at once; answers of which events, and the
/// oldest time of each.
pub(super) fn too_old(
    rows: &mut Vec<Row<'_>>,
    events: &[&Event],
    retention: Duration,
) -> BTreeMap<usize, Timestamp> {
    let mut old = BTreeMap::new();
    rows.retain(|row| {
        let time = row.identity.time;
        let Some(event) = events.get(row.event) else { return true };
        let keep = time >= event.received.minus(retention);
        if !keep {
            let oldest = old.entry(row.event).or_insert(time);
            *oldest = time.min(*oldest);
        }
        keep
    });
    old
}

/// The refusal of an event that was understood: it is written anew.
pub fn refuse(event: &Event, reason: &str, field: &str, detail: String) -> Refusal {
    Refusal {
        device: Some(event.device.clone()),
        kind: Some(event.kind),
        received: event.received,
        reason: reason.to_owned(),
        field: field.to_owned(),
        detail,
        payload: render(event),
    }
}

/// The refusal of an event that holds something too old.
pub(super) fn refuse_old(event: &Event, oldest: Timestamp) -> Refusal {
    let detail = format!("{oldest} is past the retention of readings");
    refuse(event, "too_old", "time", detail)
}

/// What of a message the bridge refused.
pub(super) fn refused(message: &Message) -> Option<Kept<'_>> {
    let refusal = Cow::Borrowed(message.refusal.as_ref()?);
    Some(Kept {
        topic: &message.topic,
        qos: message.qos,
        refusal,
        partial: message.event.is_some(),
    })
}

/// The number that stands for a kind.
pub(super) fn kind_number(kind: EventKind) -> i16 {
    match kind {
        EventKind::Telemetry => 1,
        EventKind::Heartbeat => 2,
        EventKind::Presence => 3,
    }
}

/// The kind that a number stands for.
pub(super) fn kind(number: i16) -> Result<EventKind> {
    match number {
        1 => Ok(EventKind::Telemetry),
        2 => Ok(EventKind::Heartbeat),
        3 => Ok(EventKind::Presence),
        other => Err(rows::corrupt(&format!("kind is {other}"))),
    }
}
