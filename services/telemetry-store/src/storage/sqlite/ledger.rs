//! The ledger on SQLite.

use std::{collections::BTreeMap, sync::LazyLock};

use sqlx::{SqliteConnection, SqlitePool};
use telemetry_model::{Account, ProcessId, Sender, Timestamp};

use crate::{
    error::Result,
    storage::{
        ledger::{AccountRow, EARLIER, Entry, for_each_tally},
        rows,
    },
};

pub(super) async fn read(
    connection: &mut SqliteConnection,
    processes: &[ProcessId],
) -> Result<Vec<(ProcessId, u64)>> {
    let mut accounts = Vec::with_capacity(processes.len());
    for process in processes {
        let settled: Option<(String, i64)> =
            sqlx::query_as("SELECT process_id, settled_through FROM ledger WHERE process_id = ?1")
                .bind(process.as_str())
                .fetch_optional(&mut *connection)
                .await?;
        accounts.extend(settled.map(rows::settled).transpose()?);
    }
    Ok(accounts)
}

static SAVE: LazyLock<String> = LazyLock::new(|| {
    let names = for_each_tally(str::to_owned);
    let added = for_each_tally(|name| format!("{name} = ledger.{name} + excluded.{name}"));
    format!(
        "
    INSERT INTO ledger (process_id, client_id, started, updated, report,
                        settled_through, received, dropped, {names})
    VALUES (?1, '', unixepoch() * 1000000, unixepoch() * 1000000, ?2,
            ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
    ON CONFLICT (process_id) DO UPDATE SET
        updated = excluded.updated,
        report = CASE WHEN excluded.report IS NULL OR excluded.received < received
                      THEN report ELSE excluded.report END,
        settled_through = max(settled_through, excluded.settled_through),
        received = max(received, excluded.received),
        dropped = max(dropped, excluded.dropped),
        {added}"
    )
});

pub(super) async fn save(
    connection: &mut SqliteConnection,
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

const END_OTHERS: &str = "
    UPDATE ledger SET ended_at = unixepoch() * 1000000 WHERE client_id = ?2 AND process_id <> ?1";

/// What it has settled elsewhere, this database was never told.
const INTRODUCE: &str = "
    INSERT INTO ledger (process_id, client_id, started, updated, settled_before, settled_through)
    VALUES (?1, ?2, ?3, unixepoch() * 1000000, ?4, ?4)
    ON CONFLICT (process_id) DO UPDATE SET
        client_id = excluded.client_id, started = excluded.started, updated = excluded.updated,
        ended_at = NULL,
        settled_before = settled_before + max(0, excluded.settled_through - settled_through),
        settled_through = max(settled_through, excluded.settled_through)
    RETURNING settled_through";

pub(super) async fn introduce(
    writer: &SqlitePool,
    sender: &Sender,
    first_held: u64,
) -> Result<u64> {
    let mut tx = writer.begin().await?;
    let (process, client) = (sender.process.as_str(), sender.client.as_str());
    sqlx::query(END_OTHERS).bind(process).bind(client).execute(&mut *tx).await?;
    let settled: i64 = sqlx::query_scalar(INTRODUCE)
        .bind(process)
        .bind(client)
        .bind(sender.started.micros())
        .bind(rows::number(first_held.saturating_sub(1)))
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(settled.unsigned_abs())
}

/// A process that lives tells something every few seconds: one that was heard of much later than
/// another took over its session has not ended.
const ACCOUNTS: &str = "
    SELECT *, started AS started_us, updated AS updated_us,
           coalesce(updated <= ended_at + 30000000, 0) AS ended
    FROM ledger ORDER BY updated DESC, process_id";

pub(super) async fn accounts(readers: &SqlitePool) -> Result<Vec<Account>> {
    let rows: Vec<AccountRow> = sqlx::query_as(ACCOUNTS).fetch_all(readers).await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// What the accounts that were not heard of for long come to, in one: of their reports only the numbers are kept.
static FOLD: LazyLock<String> = LazyLock::new(|| {
    let names = for_each_tally(str::to_owned);
    let sums = for_each_tally(|name| format!("CAST(sum({name}) AS bigint)"));
    let added = for_each_tally(|name| format!("{name} = ledger.{name} + excluded.{name}"));
    format!(
        "
    INSERT INTO ledger (process_id, client_id, ended_at, started, updated, received, dropped, {names})
    SELECT ?1, '', unixepoch() * 1000000, min(started), max(updated),
           sum(max(received - settled_before,
                   stored + duplicate + quarantined + quarantine_full + dropped)),
           sum(dropped),
           {sums}
    FROM ledger WHERE updated < ?2 AND process_id NOT IN (?1, '') HAVING count(*) > 0
    ON CONFLICT (process_id) DO UPDATE SET
        updated = excluded.updated,
        received = received + excluded.received,
        dropped = dropped + excluded.dropped,
        {added}"
    )
});

const FORGET: &str = "DELETE FROM ledger WHERE updated < ?2 AND process_id NOT IN (?1, '')";

/// Puts together the accounts that were last heard of before a time.
pub(super) async fn fold(writer: &SqlitePool, before: Timestamp) -> Result<()> {
    let mut tx = writer.begin().await?;
    for statement in [FOLD.as_str(), FORGET] {
        sqlx::query(statement).bind(EARLIER).bind(before.micros()).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}
