//! Devices as the backends read them, with times in microseconds.

use sqlx::FromRow;
use telemetry_model::{Device, DeviceCounts, DeviceFacts, Timestamp};

use super::{presence, quarantine, rows};
use crate::{
    error::{Error, Result},
    presence::Listener,
};

/// A row of `devices`.
#[derive(FromRow)]
pub(super) struct DeviceRow {
    device_id: String,
    first_seen_us: i64,
    last_seen_us: i64,
    last_heartbeat_us: Option<i64>,
    clock_skew_us: Option<i64>,
    presence: i16,
    presence_since_us: Option<i64>,
    presence_reason: Option<i16>,
    firmware: Option<String>,
    rssi_dbm: Option<i64>,
    uptime_s: Option<i64>,
    reboots: i64,
    time_source: Option<i16>,
    last_kind: Option<i16>,
    last_topic: Option<String>,
    messages: i64,
    readings: i64,
    duplicates: i64,
    quarantined: i64,
}

impl TryFrom<DeviceRow> for Device {
    type Error = Error;

    fn try_from(row: DeviceRow) -> Result<Self> {
        Ok(Self {
            id: rows::device_id(&row.device_id)?,
            first_seen: rows::timestamp(row.first_seen_us)?,
            last_seen: rows::timestamp(row.last_seen_us)?,
            last_heartbeat: row.last_heartbeat_us.map(rows::timestamp).transpose()?,
            clock_skew_us: row.clock_skew_us,
            presence: presence::standing(row.presence, row.presence_since_us, row.presence_reason)?,
            facts: DeviceFacts {
                firmware: row.firmware,
                rssi_dbm: row.rssi_dbm,
                uptime_s: row.uptime_s,
                reboots: row.reboots.unsigned_abs(),
                time_source: row.time_source.map(rows::time_source).transpose()?,
                last_kind: row.last_kind.map(quarantine::kind).transpose()?,
                last_topic: row.last_topic,
            },
            counts: DeviceCounts {
                messages: row.messages.unsigned_abs(),
                readings: row.readings.unsigned_abs(),
                duplicates: row.duplicates.unsigned_abs(),
                quarantined: row.quarantined.unsigned_abs(),
            },
        })
    }
}

/// For how long a bridge listened: since, through, told.
pub(super) fn listener((since, through, told): (i64, i64, i64)) -> Result<Listener> {
    Ok(Listener {
        since: rows::timestamp(since)?,
        through: rows::timestamp(through)?,
        told: rows::timestamp(told)?,
    })
}

/// A time as the backends compare with it, if there is one: else before or after all others.
pub(super) fn or_end(time: Option<Timestamp>, end: Timestamp) -> i64 {
    time.unwrap_or(end).micros()
}
