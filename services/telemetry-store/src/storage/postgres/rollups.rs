//! Rollups: numeric readings by minute, hour and day, on the Community edition.
//!
//! They are continuous aggregates that show what is newer than they hold straight from the readings.
//! What is added behind that point does not show until they are refreshed, so a rollup answers for a
//! range only if nothing in it waits for that ([`for_grid`]). They outlive the readings: where those
//! are dropped, nothing can be added and nothing must be refreshed.
//!
//! Each is made from the readings, not one from another, so that there is one log of what is out of
//! date, and one reading a minute makes the rollup by minute as large as the readings.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Executor, PgConnection, PgPool, Postgres, postgres::PgArguments, query::Query,
};
use telemetry_model::{Grid, TimeRange, Timestamp};

use super::{lease::Lease, micros::Micros, prune::PATIENCE};
use crate::error::Result;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Rollup {
    /// What it is called in SQL. Its columns are bucket, `device_id`, `metric_id`, count, sum,
    /// `sum_squares`, min, max, first, last, `first_time` and `last_time`.
    pub(in crate::storage) name: &'static str,
    /// The same with names in it.
    named: &'static str,
    /// The width of its buckets, which begin at a multiple of it since 1970.
    pub(in crate::storage) width: Duration,
}

/// All of them, the finest first.
pub(super) const ROLLUPS: [Rollup; 3] = [
    Rollup { name: "readings_1m", named: "telemetry_1m", width: Duration::from_mins(1) },
    Rollup { name: "readings_1h", named: "telemetry_1h", width: Duration::from_hours(1) },
    Rollup { name: "readings_1d", named: "telemetry_1d", width: Duration::from_hours(24) },
];

const DAY: Duration = Duration::from_hours(24);
/// A bucket is rolled up so long after its end: what comes in time is not late then.
const SETTLED_AFTER: Duration = Duration::from_mins(15);
const MICROSECOND: Duration = Duration::from_micros(1);
/// How much is refreshed at a time.
const AT_A_TIME: Duration = Duration::from_hours(10 * 24);

/// Sums must not fail on what is too large to be added up or squared, or no bucket would ever be
/// refreshed: they are infinite then.
const MAKE: &str = "
    CREATE MATERIALIZED VIEW IF NOT EXISTS {name}
    WITH (timescaledb.continuous, timescaledb.materialized_only = false,
          timescaledb.create_group_indexes = false) AS
    SELECT time_bucket(INTERVAL '{seconds} seconds', time) AS bucket, device_id, metric_id,
           count(*) AS count,
           {sum} AS sum,
           sum(CASE WHEN abs({value}) < 1e-150 THEN 0 WHEN abs({value}) < 1e147
                    THEN {value} * {value} ELSE float8 'infinity' END) AS sum_squares,
           min({value}) AS min, max({value}) AS max,
           first({value}, time) AS first, last({value}, time) AS last,
           min(time) AS first_time, max(time) AS last_time
    FROM readings WHERE number IS NOT NULL OR integer IS NOT NULL
    GROUP BY 1, device_id, metric_id
    WITH NO DATA";

const INDEX: &str =
    "CREATE INDEX IF NOT EXISTS {name}_identity ON {name} (device_id, metric_id, bucket)";

/// As the rollup itself, but with the names joined to each part of it: joined to the whole, they would
/// have every device's buckets read.
const MAKE_NAMED: &str = "
    CREATE OR REPLACE VIEW {named} AS
    SELECT r.bucket AS time, d.device_id AS device, m.name AS metric, r.count,
           r.sum / r.count AS avg, r.min, r.max, r.first, r.last, r.first_time, r.last_time
    FROM {table} r
    JOIN devices d ON d.id = r.device_id
    JOIN metrics m ON m.id = r.metric_id
    WHERE r.bucket < {watermark}
    UNION ALL
    SELECT time_bucket(INTERVAL '{seconds} seconds', time), d.device_id, m.name, count(*),
           {sum} / count(*), min({value}), max({value}),
           first({value}, time), last({value}, time), min(time), max(time)
    FROM readings r
    JOIN devices d ON d.id = r.device_id
    JOIN metrics m ON m.id = r.metric_id
    WHERE time >= {watermark} AND (number IS NOT NULL OR integer IS NOT NULL)
    GROUP BY 1, 2, 3";

const COMMENT: &str = "
    COMMENT ON VIEW {named} IS
        'numbers in buckets, by name; fast if device, metric and time are limited';
    COMMENT ON VIEW {name} IS
        'numbers in buckets; what came late shows within minutes; a sum is infinite where it is too large'";

const VALUE: &str = "coalesce(number, integer::double precision)";
const SUM: &str = "sum(CASE WHEN abs({value}) < 1e295 THEN {value}
                            ELSE sign({value}) * float8 'infinity' END)";
const WATERMARK: &str = "coalesce(_timescaledb_functions.to_timestamp(
    _timescaledb_functions.cagg_watermark({id})), '-infinity'::timestamptz)";

const TABLE: &str = "
    SELECT h.id, format('%I.%I', h.schema_name, h.table_name)
    FROM _timescaledb_catalog.continuous_agg AS agg
    JOIN _timescaledb_catalog.hypertable AS h ON h.id = agg.mat_hypertable_id
    WHERE agg.user_view_name = $1";

/// Makes those that are missing, empty.
pub(super) async fn make(connection: &mut PgConnection) -> Result<()> {
    for Rollup { name, named, width } in ROLLUPS {
        let complete = |statement: &str| {
            statement
                .replace("{sum}", SUM)
                .replace("{value}", VALUE)
                .replace("{name}", name)
                .replace("{named}", named)
                .replace("{seconds}", &width.as_secs().to_string())
        };
        connection.execute(AssertSqlSafe(complete(MAKE))).await?;
        connection.execute(AssertSqlSafe(complete(INDEX))).await?;
        let (id, table): (i32, String) =
            sqlx::query_as(TABLE).bind(name).fetch_one(&mut *connection).await?;
        let named_view = complete(MAKE_NAMED)
            .replace("{table}", &table)
            .replace("{watermark}", &WATERMARK.replace("{id}", &id.to_string()));
        connection.execute(AssertSqlSafe(named_view)).await?;
        connection.execute(AssertSqlSafe(complete(COMMENT))).await?;
    }
    Ok(())
}

/// The first time of which there can be readings.
const FLOOR: &str = "
    SELECT min(range_start) FROM timescaledb_information.chunks WHERE hypertable_name = 'readings'";

/// Rolls up what has settled and is not up to date. What lies before `kept_from` is as good as gone,
/// whatever late reading was let in there: to roll it up again would be to forget it.
pub(super) async fn refresh(
    pool: &PgPool,
    lease: &Lease<'_>,
    now: Timestamp,
    kept_from: Timestamp,
) -> Result<()> {
    let floor: Option<Micros> = sqlx::query_scalar(FLOOR).fetch_one(pool).await?;
    let Some(floor) = floor.and_then(|floor| Timestamp::from_micros(floor.0)) else {
        return Ok(());
    };
    let floor = floor.max(truncate(kept_from, DAY));
    for Rollup { name, width, .. } in ROLLUPS {
        let end = truncate(now.minus(SETTLED_AFTER), width);
        let mut start = floor;
        while start.plus(width) <= end {
            let next = start.plus(AT_A_TIME).min(end);
            let refresh = format!("CALL refresh_continuous_aggregate('{name}', $1, $2)");
            let refresh = sqlx::query(AssertSqlSafe(refresh));
            let refresh = refresh.bind(Micros(start.micros())).bind(Micros(next.micros()));
            lease.step(patiently(pool, refresh)).await?;
            start = next;
        }
    }
    Ok(())
}

/// Runs what may take long, and cannot run in a transaction, on a session that is used for nothing else.
async fn patiently(pool: &PgPool, call: Query<'_, Postgres, PgArguments>) -> Result<()> {
    let mut session = pool.acquire().await?;
    session.close_on_drop();
    session.execute("SET statement_timeout = 0").await?;
    call.execute(&mut *session).await?;
    Ok(())
}

/// Drops the chunks that are past the retention of rollups.
pub(super) async fn drop_before(pool: &PgPool, lease: &Lease<'_>, before: Timestamp) -> Result<()> {
    for Rollup { name, .. } in ROLLUPS {
        let dropping = async {
            let mut tx = pool.begin().await?;
            tx.execute(PATIENCE).await?;
            let drop_chunks =
                "SELECT count(*) FROM drop_chunks($1::text::regclass, older_than => $2)";
            let chunks: i64 = sqlx::query_scalar(drop_chunks)
                .bind(name)
                .bind(Micros(before.micros()))
                .fetch_one(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(chunks)
        };
        let chunks = lease.step(dropping).await?;
        if chunks > 0 {
            tracing::info!(rollup = name, chunks, "dropped what is past its retention");
        }
    }
    Ok(())
}

/// True if the rollup holds something of the range, and nothing in it waits to be refreshed: neither
/// where readings may still be added, nor before that. Catalog times are microseconds since 1970.
const IS_UP_TO_DATE: &str = "
    WITH rollup AS (
        SELECT agg.mat_hypertable_id AS id, agg.raw_hypertable_id AS readings,
               greatest($2, coalesce((
                   SELECT min(_timescaledb_functions.to_unix_microseconds(range_start))
                   FROM timescaledb_information.chunks
                   WHERE hypertable_name = 'readings'), $3)) AS from_us,
               least($3, mark.watermark) AS end_us
        FROM _timescaledb_catalog.continuous_agg AS agg
        JOIN _timescaledb_catalog.continuous_aggs_watermark AS mark USING (mat_hypertable_id)
        WHERE agg.user_view_name = $1 AND mark.watermark > $2)
    SELECT EXISTS (
        SELECT FROM rollup WHERE NOT EXISTS (
            SELECT FROM (
                SELECT lowest_modified_value, greatest_modified_value
                FROM _timescaledb_catalog.continuous_aggs_hypertable_invalidation_log
                WHERE hypertable_id = rollup.readings
                UNION ALL
                SELECT lowest_modified_value, greatest_modified_value
                FROM _timescaledb_catalog.continuous_aggs_materialization_invalidation_log
                WHERE materialization_id = rollup.id
                UNION ALL
                SELECT lowest_modified_value, greatest_modified_value
                FROM _timescaledb_catalog.continuous_aggs_materialization_ranges
                WHERE materialization_id = rollup.id
            ) AS late (lowest, greatest)
            WHERE late.lowest < rollup.end_us AND late.greatest >= rollup.from_us))";

/// The coarsest rollup from which all buckets of a grid can be made exactly, and the part of the range
/// that it has whole buckets of: what lies before and after it, only the readings say. None if only
/// they say anything. As of now: what is added afterwards is not in it.
pub(in crate::storage) async fn for_grid(
    pool: &PgPool,
    grid: &Grid,
) -> Result<Option<(Rollup, TimeRange)>> {
    for rollup in ROLLUPS.into_iter().rev() {
        let own = micros(rollup.width);
        let fits = grid.edges().iter().all(|edge| edge.micros().rem_euclid(own) == 0);
        let TimeRange { start, end } = grid.range();
        let start = truncate(start.plus(rollup.width.saturating_sub(MICROSECOND)), rollup.width);
        let end = truncate(end, rollup.width);
        if fits && start < end {
            let up_to_date = sqlx::query_scalar(IS_UP_TO_DATE);
            let up_to_date = up_to_date.bind(rollup.name).bind(start.micros()).bind(end.micros());
            if up_to_date.fetch_one(pool).await? {
                return Ok(Some((rollup, TimeRange { start, end })));
            }
        }
    }
    Ok(None)
}

fn micros(width: Duration) -> i64 {
    i64::try_from(width.as_micros()).unwrap_or(i64::MAX)
}

/// The beginning of the bucket in which a time lies.
fn truncate(time: Timestamp, width: Duration) -> Timestamp {
    let micros = time.micros() - time.micros().rem_euclid(micros(width));
    Timestamp::from_micros(micros).unwrap_or(time)
}
