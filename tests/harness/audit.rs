//! Compares what the devices of a load know with what the database has.

use std::{collections::HashSet, fmt};

use anyhow::{Context, ensure};
use prost::Message as _;
use sqlx::{PgConnection, Row, postgres::PgRow};
use telemetry_proto::v1::Event;

use crate::auditor::{DEVICES, Tally, device_name};

/// What became of the messages of a load.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The broker has certainly taken them.
    pub taken: u64,
    /// The broker may or may not have taken or kept them, and they are not stored.
    pub unsure: u64,
    /// In the database, whole.
    pub stored: u64,
    /// Taken and not stored.
    pub missing: u64,
    /// Rows of the log beyond one a message.
    pub doubled: u64,
    /// Not as they were sent, never sent, or not in the log.
    pub wrong: u64,
    /// Some of the missing and the wrong, for whoever has to find out why.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Fails unless everything that was taken is stored, once, as it was sent.
    pub fn is_clean(&self) -> anyhow::Result<()> {
        ensure!(self.missing == 0 && self.doubled == 0 && self.wrong == 0, "{self:#}");
        ensure!(self.taken > 0, "nothing was published");
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken, unsure, stored, missing, doubled, wrong, examples } = self;
        write!(f, "{taken} acknowledged, {stored} stored, ")?;
        write!(f, "{missing} missing, {doubled} doubled, {wrong} wrong, ")?;
        write!(f, "{unsure} perhaps not the broker's")?;
        if f.alternate() { write!(f, ", such as {examples:?}") } else { Ok(()) }
    }
}

/// How many of the messages that a tally is through with are stored.
pub(crate) async fn stored_of(database: &mut PgConnection, tally: &Tally) -> anyhow::Result<u64> {
    let through: Vec<_> = tally.through.iter().map(|through| through.cast_signed()).collect();
    let stored: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM unnest($1::text[], $2::bigint[]) AS asked (device_id, through)
         JOIN devices d ON d.device_id = asked.device_id
         JOIN readings r ON r.device_id = d.id
         JOIN metrics m ON m.id = r.metric_id AND m.name = 'n'
         WHERE r.integer < asked.through",
    )
    .bind((0..through.len()).map(device_name).collect::<Vec<_>>())
    .bind(through)
    .fetch_one(database)
    .await?;
    Ok(stored.cast_unsigned())
}

/// A row for each time of each device; `right` if all is there and as it was sent. The time says
/// which message it was.
const MESSAGES: &str = "
    SELECT substr(d.device_id, 7)::bigint AS device, x.n,
           count(*) = 4 AND bool_and(r.time_source = 1 AND CASE m.name
               WHEN 'n' THEN r.integer = x.n
               WHEN 'tenths' THEN r.number = x.n / 10.0::float8
               WHEN 'even' THEN r.flag = (x.n % 2 = 0)
               WHEN 'name' THEN r.text = d.device_id || '/' || x.n
           END IS TRUE) AS \"right\"
    FROM readings r
    JOIN devices d ON d.id = r.device_id
    JOIN metrics m ON m.id = r.metric_id,
    LATERAL (SELECT (extract(epoch FROM r.time) * 1000)::bigint - $1 AS n) AS x
    WHERE d.device_id LIKE 'audit-%'
    GROUP BY d.device_id, r.time, x.n";

/// Compares, now.
pub async fn audit(
    database: &mut PgConnection,
    epoch_ms: i64,
    tally: &Tally,
) -> anyhow::Result<Verdict> {
    let rows = sqlx::query(MESSAGES).bind(epoch_ms).fetch_all(&mut *database).await?;
    let mut verdict = Verdict { taken: tally.taken(), ..Verdict::default() };
    let mut stored = HashSet::new();
    for row in &rows {
        let (device, n, right) = message(row)?;
        if right && device < DEVICES {
            stored.insert((device, n));
        } else {
            verdict.wrong += 1;
            verdict.example("wrong", device, n);
        }
    }
    for (device, through) in tally.through.iter().enumerate() {
        for n in 0..*through {
            if stored.contains(&(device, n)) {
                continue;
            }
            if tally.unsure.contains(&(device, n)) {
                verdict.unsure += 1;
            } else {
                verdict.missing += 1;
                verdict.example("missing", device, n);
            }
        }
    }
    let (logged, messages) = (logged(database).await?, rows.len() as u64);
    verdict.stored = stored.len() as u64;
    verdict.doubled = logged.saturating_sub(messages);
    verdict.wrong += messages.saturating_sub(logged);
    Ok(verdict)
}

/// How many messages the log has; changes of presence are none.
async fn logged(database: &mut PgConnection) -> anyhow::Result<u64> {
    let records: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT l.event FROM device_log l JOIN devices d ON d.id = l.device_id
         WHERE d.device_id LIKE 'audit-%'",
    )
    .fetch_all(database)
    .await?;
    let mut logged = 0;
    for record in records {
        logged += u64::from(Event::decode(record.as_slice())?.presence.is_none());
    }
    Ok(logged)
}

fn message(row: &PgRow) -> anyhow::Result<(usize, u64, bool)> {
    let (device, n): (i64, i64) = (row.try_get("device")?, row.try_get("n")?);
    let device = usize::try_from(device).context("a device that is none")?;
    // What was never sent may lie before the first message.
    Ok((device, n.cast_unsigned(), row.try_get("right")?))
}

impl Verdict {
    fn example(&mut self, what: &str, device: usize, n: u64) {
        if self.examples.len() < 10 {
            self.examples.push(format!("{what} {}/{n}", device_name(device)));
        }
    }
}
