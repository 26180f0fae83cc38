//! The ledger on PostgreSQL.

use std::{collections::BTreeMap, sync::LazyLock};

use sqlx::{PgConnection, PgPool};
use telemetry_model::{Account, ProcessId, Sender, Timestamp};

use super::micros::Micros;
use crate::{
    error::Result,
    storage::{
        ledger::{AccountRow, EARLIER, Entry, for_each_tally},
        rows,
    },
};

const LOCK: &str = "
    SELECT process_id, settled_through FROM ledger
    WHERE process_id = ANY($1) ORDER BY process_id FOR UPDATE";

pub(super) async fn lock(
    connection: &mut PgConnection,
    processes: &[ProcessId],
) -> Result<Vec<(ProcessId, u64)>> {
    let ids: Vec<_> = processes.iter().map(ProcessId::as_str).collect();
    let locked: Vec<(String, i64)> = sqlx::query_as(LOCK).bind(ids).fetch_all(connection).await?;
    locked.into_iter().map(rows::settled).collect()
}

static SAVE: LazyLock<String> = LazyLock::new(|| {
    let names = for_each_tally(str::to_owned);
    let added = for_each_tally(|name| format!("{name} = ledger.{name} + excluded.{name}"));
    format!(
        "
    INSERT INTO ledger (process_id, client_id, started, updated, report,
                        settled_through, received, dropped, {names})
    VALUES ($1, '', now(), now(), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    ON CONFLICT (process_id) DO UPDATE SET
        updated = now(),
        report = CASE WHEN excluded.report IS NULL OR excluded.received < ledger.received
                      THEN ledger.report ELSE excluded.report END,
        settled_through = greatest(ledger.settled_through, excluded.settled_through),
        received = greatest(ledger.received, excluded.received),
        dropped = greatest(ledger.dropped, excluded.dropped),
        {added}"
    )
});

pub(super) async fn save(
    connection: &mut PgConnection,
    entries: &BTreeMap<&str, Entry<'_>>,
) -> Result<()> {
    for (process, entry) in entries {
        let record = entry.report.map(|report| report.record.as_slice());
        let save = sqlx::query(SAVE.as_str()).bind(*process).bind(record);
        let save = entry.numbers().into_iter().fold(save, sqlx::query::Query::bind);
        save.execute(&mut *connection).await?;
    }
    Ok(())
}

/// In the order in which appends lock them.
const LOCK_RELATED: &str = "
    SELECT process_id FROM ledger WHERE process_id = $1 OR client_id = $2
    ORDER BY process_id FOR UPDATE";

const END_OTHERS: &str = "
    UPDATE ledger SET ended_at = now() WHERE client_id = $2 AND process_id <> $1";

/// What it has settled elsewhere, this database was never told.
const INTRODUCE: &str = "
    INSERT INTO ledger (process_id, client_id, started, updated, settled_before, settled_through)
    VALUES ($1, $2, $3, now(), $4, $4)
    ON CONFLICT (process_id) DO UPDATE SET
        client_id = excluded.client_id, started = excluded.started, updated = now(),
        ended_at = NULL,
        settled_before = ledger.settled_before
            + greatest(0, excluded.settled_through - ledger.settled_through),
        settled_through = greatest(ledger.settled_through, excluded.settled_through)
    RETURNING settled_through";

pub(super) async fn introduce(pool: &PgPool, sender: &Sender, first_held: u64) -> Result<u64> {
    let mut tx = pool.begin().await?;
    let (process, client) = (sender.process.as_str(), sender.client.as_str());
    sqlx::query(LOCK_RELATED).bind(process).bind(client).execute(&mut *tx).await?;
    sqlx::query(END_OTHERS).bind(process).bind(client).execute(&mut *tx).await?;
    let settled: i64 = sqlx::query_scalar(INTRODUCE)
        .bind(process)
        .bind(client)
        .bind(Micros(sender.started.micros()))
        .bind(rows::number(first_held.saturating_sub(1)))
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(settled.unsigned_abs())
}

/// A process that lives tells something every few seconds: one that was heard of much later than
/// another took over its session has not ended.
const ACCOUNTS: &str = "
    SELECT *, (extract(epoch FROM started) * 1000000)::bigint AS started_us,
           (extract(epoch FROM updated) * 1000000)::bigint AS updated_us,
           coalesce(updated <= ended_at + INTERVAL '30 seconds', false) AS ended
    FROM ledger ORDER BY updated DESC, process_id";

pub(super) async fn accounts(pool: &PgPool) -> Result<Vec<Account>> {
    let rows: Vec<AccountRow> = sqlx::query_as(ACCOUNTS).fetch_all(pool).await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// What the accounts that were not heard of for long come to, in one: of their reports only the numbers are kept.
static FOLD: LazyLock<String> = LazyLock::new(|| {
    let names = for_each_tally(str::to_owned);
    let sums = for_each_tally(|name| format!("CAST(sum({name}) AS bigint)"));
    let added = for_each_tally(|name| format!("{name} = ledger.{name} + excluded.{name}"));
    format!(
        "
    WITH old AS (
        DELETE FROM ledger WHERE updated < $2 AND process_id NOT IN ($1, '') RETURNING *
    )
    INSERT INTO ledger (process_id, client_id, ended_at, started, updated, received, dropped, {names})
    SELECT $1, '', now(), min(started), max(updated),
           sum(greatest(received - settled_before,
                        stored + duplicate + quarantined + quarantine_full + dropped))::bigint,
           sum(dropped)::bigint,
           {sums}
    FROM old HAVING count(*) > 0
    ON CONFLICT (process_id) DO UPDATE SET
        updated = excluded.updated,
        received = ledger.received + excluded.received,
        dropped = ledger.dropped + excluded.dropped,
        {added}"
    )
});

/// Puts together the accounts that were last heard of before a time.
pub(super) async fn fold(pool: &PgPool, before: Timestamp) -> Result<()> {
    sqlx::query(FOLD.as_str()).bind(EARLIER).bind(Micros(before.micros())).execute(pool).await?;
    Ok(())
}
