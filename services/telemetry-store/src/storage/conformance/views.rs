//! The views for people who ask in SQL: what they show, and that they show it fast.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use telemetry_model::{Event, Value};

use super::{Fresh, at, on_each_backend, telemetry};
use crate::storage::testing::AppendEvents;

on_each_backend!(readings_by_name, what_is_not_asked_for_is_not_read);

const DAY: i64 = 24 * 60 * 60;

/// A row as text, whatever the database.
pub(super) async fn text(fresh: &Fresh, sql: String) -> Vec<String> {
    if fresh.database.is_some() {
        let mut session = PgConnection::connect(fresh.database_url()).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut session).await.unwrap()
    } else {
        let mut session = SqliteConnection::connect(fresh.database_url()).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut session).await.unwrap()
    }
}

async fn readings_by_name(fresh: &mut Fresh) {
    let values = [
        ("light", Value::Integer(800)),
        ("mode", Value::text("auto").unwrap()),
        ("t", Value::Number(21.5)),
        ("wet", Value::Flag(true)),
    ];
    fresh.storage.append_events(&[telemetry("fern-1", 0, &values)]).await.unwrap();
    fresh.storage.flush_devices(at(0)).await.unwrap();
    let time = if fresh.database.is_some() { "time::text" } else { "time" };
    let rows = text(
        fresh,
        format!(
            "SELECT {time} || ' ' || device || ' ' || metric || ' '
                    || coalesce(CAST(value AS TEXT), text, CASE WHEN flag THEN 'yes' END)
             FROM telemetry ORDER BY metric"
        ),
    )
    .await;
    let ends = ["fern-1 light 800", "fern-1 mode auto", "fern-1 t 21.5", "fern-1 wet yes"];
    assert_eq!(rows.len(), ends.len());
    for (row, end) in rows.iter().zip(ends) {
        let row = row.strip_suffix(".0").unwrap_or(row);
        assert!(row.starts_with("2026-01-07") && row.ends_with(end), "{row}");
    }
    let overview = "SELECT device || ' ' || metrics FROM device_overview".to_owned();
    assert_eq!(text(fresh, overview).await, ["fern-1 4"]);
}

/// Twenty devices for five days.
fn many() -> Vec<Event> {
    let event = |n: i64| {
        let values = [("t", Value::Integer(n)), ("h", Value::Integer(n))];
        telemetry(&format!("device-{}", n % 20), n * 60, &values)
    };
    (0..5 * 1440).map(event).collect()
}

async fn what_is_not_asked_for_is_not_read(fresh: &mut Fresh) {
    fresh.storage.append_events(&many()).await.unwrap();
    let (from, to) = (at(DAY), at(DAY + 3600));
    if fresh.database.is_none() {
        let sql = format!(
            "SELECT value FROM telemetry WHERE device = 'device-7' AND metric = 't'
             AND time_us >= {} AND time_us < {}",
            from.micros(),
            to.micros(),
        );
        assert_eq!(text(fresh, sql.replace("value", "CAST(value AS TEXT)")).await.len(), 3);
        let mut session = SqliteConnection::connect(fresh.database_url()).await.unwrap();
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(explain).fetch_all(&mut session).await.unwrap();
        let found =
            "SEARCH r USING PRIMARY KEY (device_id=? AND metric_id=? AND time>? AND time<?)";
        assert!(plan.iter().any(|(.., step)| step == found), "{plan:?}");
        return;
    }
    let mut session = PgConnection::connect(fresh.database_url()).await.unwrap();
    session.execute("ANALYZE").await.unwrap();
    let sql = format!(
        "SELECT value::text FROM telemetry WHERE device = 'device-7' AND metric = 't'
         AND time >= '{from}' AND time < '{to}'"
    );
    assert_eq!(text(fresh, sql.clone()).await.len(), 3);
    let plan = text(fresh, format!("EXPLAIN {sql}")).await.join("\n");
    assert!(plan.contains("readings_identity"), "{plan}");
    assert_eq!(plan.matches("_chunk r ").count(), 1, "one chunk is read: {plan}");
    assert!(!plan.contains("Seq Scan on _hyper_"), "{plan}");
}

/// The same for the rollups, of which there are some on the Community edition.
#[tokio::test]
async fn rollups_by_name() {
    let fresh = Fresh::community().await;
    fresh.storage.append_events(&many()).await.unwrap();
    fresh.storage.prune(at(6 * DAY)).await.unwrap();
    let mut session = PgConnection::connect(fresh.database_url()).await.unwrap();
    session.execute("ANALYZE").await.unwrap();
    let sql = format!(
        "SELECT avg::text FROM telemetry_1h WHERE device = 'device-7' AND metric = 't'
         AND time >= '{}' AND time < '{}'",
        at(DAY),
        at(DAY + 2 * 3600)
    );
    assert_eq!(text(&fresh, sql.clone()).await, ["1467", "1527"]);
    let plan = text(&fresh, format!("EXPLAIN {sql}")).await.join("\n");
    assert!(plan.contains("readings_1h_identity"), "{plan}");
    assert_eq!(plan.matches("_chunk r ").count(), 1, "one chunk is read: {plan}");
    // What is not rolled up yet is in it as well.
    let late = telemetry("fern-1", 6 * DAY, &[("t", Value::Integer(5))]);
    fresh.storage.append_events(&[late]).await.unwrap();
    let newest = "SELECT last::text FROM telemetry_1h WHERE device = 'fern-1'".to_owned();
    assert_eq!(text(&fresh, newest).await, ["5"]);
    session.close().await.unwrap();
    fresh.close().await;
}
