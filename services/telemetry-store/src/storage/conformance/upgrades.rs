//! Schema upgrades: a database that an older version has filled is brought up to date and loses nothing.

use std::{collections::BTreeMap, str::FromStr};

use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection, migrate::Migrator,
    sqlite::SqliteConnectOptions,
};
use telemetry_model::{Cursor, EventKind, Reading, StoredEvent, TimeSource, Value};
use tempfile::TempDir;

use super::{Fresh, TestDatabase, at, device, metric};
use crate::storage::{QuarantineQuery, postgres, sqlite, testing::DeviceLog};

/// A row for each table of each version, as that version knew it.
const ROWS: [(i64, &str); 5] = [
    (
        1,
        "INSERT INTO devices (device_id, first_seen, last_seen, last_heartbeat)
         VALUES ('fern-1', {time}, {time}, {time});
         INSERT INTO metrics (name) VALUES ('t');
         INSERT INTO device_metrics (device_id, metric_id) VALUES (1, 1);
         INSERT INTO readings (time, device_id, metric_id, time_source, number)
         VALUES ({time}, 1, 1, 1, 21.5);
         INSERT INTO device_log (received, position, device_id, log_partition, event)
         VALUES ({time}, 1, 1, {partition}, {event});
         UPDATE log_heads SET head = 1 WHERE log_partition = {partition};
         INSERT INTO device_boots (device_id, boot, booted, last_uptime_ms)
         VALUES (1, 1, {time}, 5);",
    ),
    (
        2,
        "INSERT INTO ledger (process_id, client_id, started, updated, stored)
         VALUES ('p', 'bridge', {time}, {time}, 1);
         INSERT INTO quarantine (received, topic, qos, device_id, kind, reason, field, detail,
                                 partial, payload)
         VALUES ({time}, 'devices/fern-1/telemetry', 1, 'fern-1', 1, 'not_json', 'payload', '',
                 false, {event});",
    ),
    (
        3,
        "INSERT INTO listening (client_id, since, through, told)
         VALUES ('bridge', {time}, {time}, {time});",
    ),
    (4, "{leases}"),
    (
        7,
        "INSERT INTO audit (at, actor, action, subject, number, readings, events, quarantined)
         VALUES ({time}, 'gardener', 'delete_device', 'fern-2', 2, 1, 1, 0);",
    ),
];

const LEASES: &str =
    "INSERT INTO leases (name, holder, held_until) VALUES ('housekeeping', 'p', {time});";

const POSTGRES_TABLES: &str = "
    SELECT table_name::text FROM information_schema.tables
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name <> '_sqlx_migrations'";
const SQLITE_TABLES: &str = "
    SELECT name FROM sqlite_master
    WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> '_sqlx_migrations'";

fn event() -> StoredEvent {
    let reading = Reading {
        metric: metric("t"),
        value: Value::Number(21.5),
        time: at(0),
        time_source: TimeSource::Device,
    };
    StoredEvent {
        device: device("fern-1"),
        cursor: Cursor { partition: device("fern-1").partition(), position: 1 },
        kind: EventKind::Telemetry,
        time: at(0),
        time_source: TimeSource::Device,
        received: at(0),
        readings: vec![reading],
        presence: None,
        trace: None,
    }
}

/// The rows of all versions up to one, in a dialect.
fn rows(version: i64, is_sqlite: bool) -> String {
    let hex: String =
        telemetry_proto::encode_log_record(event()).iter().map(|b| format!("{b:02x}")).collect();
    let (time, event, leases) = if is_sqlite {
        (at(0).micros().to_string(), format!("x'{hex}'"), "")
    } else {
        (format!("'{}'", at(0)), format!("'\\x{hex}'"), LEASES)
    };
    let partition = device("fern-1").partition().number().to_string();
    let rows = ROWS.iter().filter(|(of, _)| *of <= version).map(|(_, sql)| *sql);
    let rows: String = rows.collect();
    rows.replace("{leases}", leases)
        .replace("{time}", &time)
        .replace("{event}", &event)
        .replace("{partition}", &partition)
}

/// How many rows each table has.
type Counts = BTreeMap<String, i64>;

async fn postgres_counts(connection: &mut PgConnection) -> Counts {
    let tables = sqlx::query_scalar(POSTGRES_TABLES).fetch_all(&mut *connection).await.unwrap();
    let mut counts = Counts::new();
    for table in tables {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        counts.insert(table, sqlx::query_scalar(count).fetch_one(&mut *connection).await.unwrap());
    }
    counts
}

async fn sqlite_counts(connection: &mut SqliteConnection) -> Counts {
    let tables = sqlx::query_scalar(SQLITE_TABLES).fetch_all(&mut *connection).await.unwrap();
    let mut counts = Counts::new();
    for table in tables {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        counts.insert(table, sqlx::query_scalar(count).fetch_one(&mut *connection).await.unwrap());
    }
    counts
}

fn nothing_is_empty(version: i64, counts: &Counts) {
    let empty: Vec<_> = counts.iter().filter(|(_, count)| **count == 0).collect();
    assert!(empty.is_empty(), "ROWS has none for {empty:?} of version {version}");
}

fn nothing_is_lost(version: i64, before: &Counts, after: &Counts) {
    for (table, count) in before {
        assert!(after.get(table) >= Some(count), "{table} of version {version}: {after:?}");
    }
}

/// All of it is there, as the storage reads it.
async fn is_readable(version: i64, fresh: &Fresh) {
    let (storage, id) = (&fresh.storage, device("fern-1"));
    let readings = super::all(storage, "fern-1").await;
    assert_eq!(readings, event().readings, "version {version}");
    assert_eq!(storage.latest(&id, &[]).await.unwrap(), readings);
    let oldest = storage.range_of(&id).await.unwrap().oldest;
    assert_eq!(storage.tail_of(&id, oldest, 10).await.unwrap().events, [event()]);
    let known = storage.device(&id).await.unwrap().unwrap();
    assert_eq!((known.first_seen, known.last_heartbeat), (at(0), Some(at(0))));
    assert_eq!(storage.metrics(Some(&id)).await.unwrap(), [metric("t")]);
    if version >= 2 {
        assert_eq!(storage.accounts().await.unwrap()[0].tally.stored, 1);
        let query = QuarantineQuery { limit: 10, ..QuarantineQuery::default() };
        assert_eq!(storage.quarantine(&query).await.unwrap()[0].refusal.reason, "not_json");
    }
}

fn versions(migrator: &Migrator) -> Vec<i64> {
    migrator.iter().map(|migration| migration.version).collect()
}

async fn on_postgres(make: impl AsyncFn() -> TestDatabase) {
    for version in versions(&postgres::connect::MIGRATOR) {
        let database = make().await;
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        postgres::connect::MIGRATOR.run_to(version, &mut connection).await.unwrap();
        connection.execute(AssertSqlSafe(rows(version, false))).await.unwrap();
        let before = postgres_counts(&mut connection).await;
        nothing_is_empty(version, &before);
        let fresh = Fresh::open(database.url.clone(), None, Some(database)).await;
        nothing_is_lost(version, &before, &postgres_counts(&mut connection).await);
        is_readable(version, &fresh).await;
        connection.close().await.unwrap();
        fresh.close().await;
    }
}

#[tokio::test]
async fn each_version_of_timescaledb() {
    on_postgres(TestDatabase::create).await;
}

#[tokio::test]
async fn each_version_of_community() {
    on_postgres(TestDatabase::of_community).await;
}

#[tokio::test]
async fn each_version_of_sqlite() {
    for version in versions(&sqlite::MIGRATOR) {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/telemetry.db", folder.path().display());
        let options = SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlite::MIGRATOR.run_to(version, &mut connection).await.unwrap();
        connection.execute(AssertSqlSafe(rows(version, true))).await.unwrap();
        let before = sqlite_counts(&mut connection).await;
        nothing_is_empty(version, &before);
        let fresh = Fresh::open(url, Some(folder), None).await;
        nothing_is_lost(version, &before, &sqlite_counts(&mut connection).await);
        is_readable(version, &fresh).await;
        connection.close().await.unwrap();
        fresh.close().await;
    }
}
