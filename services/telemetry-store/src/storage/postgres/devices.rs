//! Devices and their presence on PostgreSQL.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use telemetry_model::{Device, DeviceId, DeviceQuery, Presence, Standing, Timestamp};

use super::micros::Micros;
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

/// In the order of bytes, as on SQLite. `starts_with` knows no wildcards.
const LIST: &str = "
    SELECT *, (extract(epoch FROM first_seen) * 1000000)::bigint AS first_seen_us,
           (extract(epoch FROM last_seen) * 1000000)::bigint AS last_seen_us,
           (extract(epoch FROM last_heartbeat) * 1000000)::bigint AS last_heartbeat_us,
           (extract(epoch FROM presence_since) * 1000000)::bigint AS presence_since_us
    FROM devices
    WHERE device_id COLLATE \"C\" > $1 AND device_id COLLATE \"C\" >= $2
      AND starts_with(device_id, $2) AND ($3::smallint IS NULL OR presence = $3)
      AND ($4::text IS NULL OR device_id = $4) AND ($6::text[] IS NULL OR device_id ^@ ANY($6))
    ORDER BY device_id COLLATE \"C\" LIMIT $5";

pub(super) async fn device(pool: &PgPool, device: &DeviceId) -> Result<Option<Device>> {
    let query = DeviceQuery { limit: 1, ..DeviceQuery::default() };
    Ok(find(pool, &query, Some(device)).await?.pop())
}

pub(super) async fn devices(pool: &PgPool, query: &DeviceQuery) -> Result<Vec<Device>> {
    find(pool, query, None).await
}

async fn find(pool: &PgPool, query: &DeviceQuery, one: Option<&DeviceId>) -> Result<Vec<Device>> {
    let rows: Vec<DeviceRow> = sqlx::query_as(LIST)
        .bind(query.after.as_ref().map_or("", DeviceId::as_str))
        .bind(&query.id_prefix)
        .bind(query.presence.map(presence::number))
        .bind(one.map(DeviceId::as_str))
        .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
        .bind(query.within.as_deref())
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

pub(super) async fn count(pool: &PgPool) -> Result<Vec<(Presence, u64)>> {
    let count = "SELECT presence, count(*) FROM devices GROUP BY presence";
    presence::counted(sqlx::query_as(count).fetch_all(pool).await?)
}

/// Locks the devices in one order: two replicas that write notes on the same ones cannot deadlock.
/// (An update alone locks in the order of its plan, whatever the order of the array.)
const FLUSH: &str = "
    WITH known AS (
        SELECT devices.id, new.*
        FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::smallint[],
                    $6::text[], $7::smallint[], $8::text[], $9::bigint[], $10::bigint[],
                    $11::timestamptz[], $12::bigint[], $13::timestamptz[], $14::bigint[],
                    $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[])
             AS new (device_id, seen, heartbeat, skew, kind, topic, source, firmware, rssi,
                     first_uptime, first_told, last_uptime, last_told, reboots,
                     messages, readings, duplicates, quarantined)
        JOIN devices USING (device_id)
        ORDER BY devices.id FOR UPDATE OF devices
    )
    UPDATE devices SET last_seen = greatest(devices.last_seen, known.seen),
           last_heartbeat = greatest(devices.last_heartbeat, known.heartbeat),
           clock_skew_us = coalesce(known.skew, devices.clock_skew_us),
           last_kind = coalesce(known.kind, devices.last_kind),
           last_topic = coalesce(known.topic, devices.last_topic),
           time_source = coalesce(known.source, devices.time_source),
           firmware = coalesce(known.firmware, devices.firmware),
           rssi_dbm = coalesce(known.rssi, devices.rssi_dbm),
           reboots = devices.reboots + known.reboots
               + CASE WHEN known.first_uptime < devices.uptime_s
                       AND known.first_told - make_interval(secs => known.first_uptime - $19)
                           >= devices.uptime_told
                      THEN 1 ELSE 0 END,
           uptime_s = coalesce(known.last_uptime, devices.uptime_s),
           uptime_told = coalesce(known.last_told, devices.uptime_told),
           messages = devices.messages + known.messages,
           readings = devices.readings + known.readings,
           duplicates = devices.duplicates + known.duplicates,
           quarantined = devices.quarantined + known.quarantined
    FROM known WHERE devices.id = known.id";

/// A bridge's session has a row, whichever process serves it.
const FLUSH_LISTENING: &str = "
    INSERT INTO listening (client_id, since, through, told)
    SELECT client_id, $2, $3, $4 FROM ledger WHERE process_id = $1 AND client_id <> ''
    ON CONFLICT (client_id) DO UPDATE SET
        told = CASE WHEN excluded.since = listening.since AND excluded.through = listening.through
                    THEN listening.told ELSE excluded.told END,
        since = excluded.since, through = excluded.through";

const LEAVE: &str = "
    DELETE FROM listening USING ledger
    WHERE process_id = $1 AND listening.client_id = ledger.client_id";

/// Writes notes, all or none.
pub(super) async fn flush(pool: &PgPool, notes: &Notes, now: Timestamp) -> Result<()> {
    let mut tx = pool.begin().await?;
    if !notes.devices.is_empty() {
        flush_devices(&mut tx, &notes.devices).await?;
    }
    let mut listening: Vec<_> = notes.listening.iter().collect();
    listening.sort_by_key(|(process, _)| *process);
    for (process, listening) in listening {
        if listening.leaves {
            sqlx::query(LEAVE).bind(process.as_str()).execute(&mut *tx).await?;
            continue;
        }
        sqlx::query(FLUSH_LISTENING)
            .bind(process.as_str())
            .bind(Micros(listening.since.micros()))
            .bind(Micros(listening.through.micros()))
            .bind(Micros(now.micros()))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn flush_devices(tx: &mut PgConnection, notes: &HashMap<DeviceId, Note>) -> Result<()> {
    fn column<T>(notes: &HashMap<DeviceId, Note>, value: impl Fn(&Note) -> T) -> Vec<T> {
        notes.values().map(value).collect()
    }
    let time = |time: Option<Timestamp>| time.map(|time| Micros(time.micros()));
    let first = |note: &Note| note.uptime.map(|uptime| uptime.first);
    let last = |note: &Note| note.uptime.map(|uptime| uptime.last);
    let newest = |note: &Note| note.newest.clone();
    sqlx::query(FLUSH)
        .bind(notes.keys().map(|id| id.as_str().to_owned()).collect::<Vec<_>>())
        .bind(column(notes, |note| time(note.seen)))
        .bind(column(notes, |note| time(note.heartbeat)))
        .bind(column(notes, Note::skew_us))
        .bind(column(notes, |note| newest(note).map(|newest| kind_number(newest.kind))))
        .bind(column(notes, |note| newest(note).map(|newest| newest.topic)))
        .bind(column(notes, |note| {
            newest(note).map(|newest| rows::time_source_number(newest.time_source))
        }))
        .bind(column(notes, |note| note.firmware.clone()))
        .bind(column(notes, |note| note.rssi_dbm))
        .bind(column(notes, |note| first(note).map(|told| told.uptime_s)))
        .bind(column(notes, |note| time(first(note).map(|told| told.received))))
        .bind(column(notes, |note| last(note).map(|told| told.uptime_s)))
        .bind(column(notes, |note| time(last(note).map(|told| told.received))))
        .bind(column(notes, |note| note.uptime.map_or(0, |uptime| uptime.reboots)))
        .bind(column(notes, |note| rows::number(note.counts.messages)))
        .bind(column(notes, |note| rows::number(note.counts.readings)))
        .bind(column(notes, |note| rows::number(note.counts.duplicates)))
        .bind(column(notes, |note| rows::number(note.counts.quarantined)))
        .bind(UPTIME_SLACK_S)
        .execute(tx)
        .await?;
    Ok(())
}

/// For how long each bridge has listened.
pub(super) async fn listeners(pool: &PgPool) -> Result<Vec<Listener>> {
    let rows: Vec<(Micros, Micros, Micros)> =
        sqlx::query_as("SELECT since, through, told FROM listening").fetch_all(pool).await?;
    let listener =
        |(Micros(since), Micros(through), Micros(told))| devices::listener((since, through, told));
    rows.into_iter().map(listener).collect()
}

/// As [`Evidence::judge`] has it.
const CANDIDATES: &str = "
    SELECT id, device_id FROM devices
    WHERE presence IN (1, 2) AND last_seen <= $1
       OR presence = 2 AND last_seen <= $2 AND last_seen < $3
       OR presence = 1 AND last_seen > $2
       OR presence = 3 AND last_seen > $2 AND last_seen > presence_since
    ORDER BY id LIMIT $4";

/// Devices whose presence may have to change.
pub(super) async fn candidates(
    pool: &PgPool,
    evidence: &Evidence,
) -> Result<HashMap<i32, DeviceId>> {
    let rows: Vec<(i32, String)> = sqlx::query_as(CANDIDATES)
        .bind(Micros(devices::or_end(evidence.silent_by, Timestamp::MIN)))
        .bind(Micros(evidence.fresh_after.micros()))
        .bind(Micros(devices::or_end(evidence.listening_since, Timestamp::MAX)))
        .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(|(id, device)| Ok((id, rows::device_id(&device)?))).collect()
}

const STANDINGS: &str = "
    SELECT id, presence, presence_since, presence_reason, last_seen FROM devices
    WHERE id = ANY($1) ORDER BY id";

/// Device, presence, since when and why, last seen.
type StandingRow = (i32, i16, Option<Micros>, Option<i16>, Micros);

pub(super) async fn standings(tx: &mut PgConnection, devices: &[i32]) -> Result<Vec<Found>> {
    let rows: Vec<StandingRow> = sqlx::query_as(STANDINGS).bind(devices).fetch_all(tx).await?;
    let found = |(device, state, since, reason, Micros(seen)): StandingRow| {
        let standing = presence::standing(state, since.map(|Micros(since)| since), reason)?;
        Ok(Found { device, standing, seen: rows::timestamp(seen)? })
    };
    rows.into_iter().map(found).collect()
}

/// Locks the devices in the order in which notes are written.
const SAVE_STANDINGS: &str = "
    WITH known AS (
        SELECT new.* FROM unnest($1::integer[], $2::smallint[], $3::timestamptz[], $4::smallint[])
             AS new (id, state, since, reason)
        JOIN devices USING (id)
        ORDER BY devices.id FOR UPDATE OF devices
    )
    UPDATE devices SET presence = known.state, presence_since = known.since,
           presence_reason = known.reason
    FROM known WHERE devices.id = known.id";

pub(super) async fn save_standings(
    tx: &mut PgConnection,
    standings: &[(i32, Standing)],
) -> Result<()> {
    if standings.is_empty() {
        return Ok(());
    }
    let since = |standing: &Standing| standing.since().map(|since| Micros(since.micros()));
    let reason =
        |standing: &Standing| standing.decided.map(|(_, reason)| presence::reason_number(reason));
    sqlx::query(SAVE_STANDINGS)
        .bind(standings.iter().map(|(device, _)| *device).collect::<Vec<_>>())
        .bind(standings.iter().map(|(_, s)| presence::number(s.state)).collect::<Vec<_>>())
        .bind(standings.iter().map(|(_, standing)| since(standing)).collect::<Vec<_>>())
        .bind(standings.iter().map(|(_, standing)| reason(standing)).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}
