//! Devices and their presence on SQLite.

use std::collections::HashMap;

use sqlx::{QueryBuilder, Sqlite as Db, SqliteConnection, SqlitePool};
use telemetry_model::{Device, DeviceId, DeviceQuery, Presence, Standing, Timestamp};

use super::reads::prefixes;
use crate::{
    error::Result,
    presence::{Evidence, Listener},
    storage::{
        devices::{self, DeviceRow},
        last_seen::{Note, Notes, UPTIME_SLACK_S},
        presence::{self, Found, PAGE},
        quarantine::kind_number,
        rows,
    },
};

const LIST: &str = "
    SELECT *, first_seen AS first_seen_us, last_seen AS last_seen_us,
           last_heartbeat AS last_heartbeat_us, presence_since AS presence_since_us
    FROM devices
    WHERE device_id > ?1 AND device_id >= ?2
      AND substr(device_id, 1, length(?2)) = ?2 AND (?3 IS NULL OR presence = ?3)
      AND (?4 IS NULL OR device_id = ?4)
      AND (?6 IS NULL OR EXISTS (
          SELECT 1 FROM json_each(?6) WHERE substr(device_id, 1, length(value)) = value))
    ORDER BY device_id LIMIT ?5";

pub(super) async fn device(pool: &SqlitePool, device: &DeviceId) -> Result<Option<Device>> {
    let query = DeviceQuery { limit: 1, ..DeviceQuery::default() };
    Ok(find(pool, &query, Some(device)).await?.pop())
}

pub(super) async fn devices(pool: &SqlitePool, query: &DeviceQuery) -> Result<Vec<Device>> {
    find(pool, query, None).await
}

async fn find(
    pool: &SqlitePool,
    query: &DeviceQuery,
    one: Option<&DeviceId>,
) -> Result<Vec<Device>> {
    let rows: Vec<DeviceRow> = sqlx::query_as(LIST)
        .bind(query.after.as_ref().map_or("", DeviceId::as_str))
        .bind(&query.id_prefix)
        .bind(query.presence.map(presence::number))
        .bind(one.map(DeviceId::as_str))
        .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
        .bind(query.within.as_deref().map(prefixes))
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

pub(super) async fn count(pool: &SqlitePool) -> Result<Vec<(Presence, u64)>> {
    let count = "SELECT presence, count(*) FROM devices GROUP BY presence";
    presence::counted(sqlx::query_as(count).fetch_all(pool).await?)
}

const FLUSH: &str = "
    WITH new (id, seen, heartbeat, skew, kind, topic, source, firmware, rssi,
              first_uptime, first_told, last_uptime, last_told, more_reboots,
              more_messages, more_readings, more_duplicates, more_quarantined) AS (";

/// Times are microseconds, uptimes seconds.
const FLUSH_INTO: &str = ")
    UPDATE devices SET last_seen = max(last_seen, coalesce(new.seen, last_seen)),
        last_heartbeat = max(coalesce(last_heartbeat, new.heartbeat),
                             coalesce(new.heartbeat, last_heartbeat)),
        clock_skew_us = coalesce(new.skew, clock_skew_us),
        last_kind = coalesce(new.kind, last_kind),
        last_topic = coalesce(new.topic, last_topic),
        time_source = coalesce(new.source, time_source),
        firmware = coalesce(new.firmware, devices.firmware),
        rssi_dbm = coalesce(new.rssi, rssi_dbm),
        reboots = reboots + more_reboots
            + coalesce(first_uptime < uptime_s
                       AND first_told - first_uptime * 1000000 >= uptime_told, 0),
        uptime_s = coalesce(last_uptime, uptime_s),
        uptime_told = coalesce(last_told, uptime_told),
        messages = messages + more_messages,
        readings = readings + more_readings,
        duplicates = duplicates + more_duplicates,
        quarantined = quarantined + more_quarantined
    FROM new WHERE devices.device_id = new.id";

/// A bridge's session has a row, whichever process serves it.
const FLUSH_LISTENING: &str = "
    INSERT INTO listening (client_id, since, through, told)
    SELECT client_id, ?2, ?3, ?4 FROM ledger WHERE process_id = ?1 AND client_id <> ''
    ON CONFLICT (client_id) DO UPDATE SET
        told = CASE WHEN excluded.since = listening.since AND excluded.through = listening.through
                    THEN listening.told ELSE excluded.told END,
        since = excluded.since, through = excluded.through";

const LEAVE: &str = "
    DELETE FROM listening
    WHERE client_id = (SELECT client_id FROM ledger WHERE process_id = ?1)";

/// Writes notes, all or none.
pub(super) async fn flush(writer: &SqlitePool, notes: &Notes, now: Timestamp) -> Result<()> {
    let mut tx = writer.begin().await?;
    let devices: Vec<_> = notes.devices.iter().collect();
    for chunk in devices.chunks(1000) {
        flush_devices(&mut tx, chunk).await?;
    }
    for (process, listening) in &notes.listening {
        if listening.leaves {
            sqlx::query(LEAVE).bind(process.as_str()).execute(&mut *tx).await?;
            continue;
        }
        sqlx::query(FLUSH_LISTENING)
            .bind(process.as_str())
            .bind(listening.since.micros())
            .bind(listening.through.micros())
            .bind(now.micros())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn flush_devices(tx: &mut SqliteConnection, notes: &[(&DeviceId, &Note)]) -> Result<()> {
    let mut update = QueryBuilder::<Db>::new(FLUSH);
    update.push_values(notes, |mut row, (id, note)| {
        let time = |time: Option<Timestamp>| time.map(Timestamp::micros);
        let first = note.uptime.map(|uptime| uptime.first);
        let last = note.uptime.map(|uptime| uptime.last);
        let first_told = first.map(|told| told.received.micros() + UPTIME_SLACK_S * 1_000_000);
        let newest = note.newest.as_ref();
        row.push_bind(id.as_str().to_owned()).push_bind(time(note.seen));
        row.push_bind(time(note.heartbeat)).push_bind(note.skew_us());
        row.push_bind(newest.map(|newest| kind_number(newest.kind)));
        row.push_bind(newest.map(|newest| newest.topic.clone()));
        row.push_bind(newest.map(|newest| rows::time_source_number(newest.time_source)));
        row.push_bind(note.firmware.clone()).push_bind(note.rssi_dbm);
        row.push_bind(first.map(|told| told.uptime_s)).push_bind(first_told);
        row.push_bind(last.map(|told| told.uptime_s));
        row.push_bind(time(last.map(|told| told.received)));
        row.push_bind(note.uptime.map_or(0, |uptime| uptime.reboots));
        row.push_bind(rows::number(note.counts.messages));
        row.push_bind(rows::number(note.counts.readings));
        row.push_bind(rows::number(note.counts.duplicates));
        row.push_bind(rows::number(note.counts.quarantined));
    });
    update.push(FLUSH_INTO);
    update.build().persistent(false).execute(tx).await?;
    Ok(())
}

/// For how long each bridge has listened.
pub(super) async fn listeners(pool: &SqlitePool) -> Result<Vec<Listener>> {
    let rows: Vec<(i64, i64, i64)> =
        sqlx::query_as("SELECT since, through, told FROM listening").fetch_all(pool).await?;
    rows.into_iter().map(devices::listener).collect()
}

/// As [`Evidence::judge`] has it.
const CANDIDATES: &str = "
    SELECT id, device_id FROM devices
    WHERE presence IN (1, 2) AND last_seen <= ?1
       OR presence = 2 AND last_seen <= ?2 AND last_seen < ?3
       OR presence = 1 AND last_seen > ?2
       OR presence = 3 AND last_seen > ?2 AND last_seen > presence_since
    ORDER BY id LIMIT ?4";

/// Devices whose presence may have to change.
pub(super) async fn candidates(
    pool: &SqlitePool,
    evidence: &Evidence,
) -> Result<HashMap<i32, DeviceId>> {
    let rows: Vec<(i32, String)> = sqlx::query_as(CANDIDATES)
        .bind(devices::or_end(evidence.silent_by, Timestamp::MIN))
        .bind(evidence.fresh_after.micros())
        .bind(devices::or_end(evidence.listening_since, Timestamp::MAX))
        .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(|(id, device)| Ok((id, rows::device_id(&device)?))).collect()
}

/// The presence of a list of devices, given as JSON.
const STANDINGS: &str = "
    SELECT id, presence, presence_since, presence_reason, last_seen FROM devices
    WHERE id IN (SELECT value FROM json_each(?1)) ORDER BY id";

/// Device, presence, since when and why, last seen.
type StandingRow = (i32, i16, Option<i64>, Option<i16>, i64);

pub(super) async fn standings(tx: &mut SqliteConnection, devices: &[i32]) -> Result<Vec<Found>> {
    let list: Vec<_> = devices.iter().map(ToString::to_string).collect();
    let rows: Vec<StandingRow> =
        sqlx::query_as(STANDINGS).bind(format!("[{}]", list.join(","))).fetch_all(tx).await?;
    let found = |(device, state, since, reason, seen)| {
        let standing = presence::standing(state, since, reason)?;
        Ok(Found { device, standing, seen: rows::timestamp(seen)? })
    };
    rows.into_iter().map(found).collect()
}

pub(super) async fn save_standings(
    tx: &mut SqliteConnection,
    standings: &[(i32, Standing)],
) -> Result<()> {
    for (device, standing) in standings {
        let reason = standing.decided.map(|(_, reason)| presence::reason_number(reason));
        sqlx::query(
            "UPDATE devices SET presence = ?2, presence_since = ?3, presence_reason = ?4
             WHERE id = ?1",
        )
        .bind(device)
        .bind(presence::number(standing.state))
        .bind(standing.since().map(Timestamp::micros))
        .bind(reason)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}
