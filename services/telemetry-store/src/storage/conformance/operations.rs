//! What operators rely on: schema checks, and retention that never holds up whoever stores or reads.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use service_kit::lifecycle::Lifecycle;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use telemetry_model::{ClientId, ProcessId, Sender, Submission, Value};
use tokio::time::timeout;

use super::{
    Fresh, POLICY, TestDatabase, at, device, heartbeat, on_each_backend, prune_before, telemetry,
};
use crate::{
    Error,
    batcher::Batcher,
    storage::{
        QuarantineQuery, migrate, open,
        postgres::connect::pool,
        testing::{AppendEvents, DeviceLog, message},
    },
};

on_each_backend!(
    pruning_while_storing_disturbs_nobody,
    pruning_leaves_other_devices_and_metrics_alone,
);

const DAY: i64 = 24 * 60 * 60;
/// Long enough for anything that waits for nobody.
const PROMPTLY: Duration = Duration::from_secs(8);

/// Writers of events of now and of long ago, to the same partitions, while retention deletes the
/// latter: who adds to what is being deleted may have to try again, the others notice nothing.
async fn pruning_while_storing_disturbs_nobody(fresh: &mut Fresh) {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let storage = Arc::clone(&fresh.storage);
        let since = if writer % 2 == 0 { 2 * DAY } else { 0 };
        tasks.spawn(async move {
            for round in 0..12 {
                let id = |n| format!("device-{}", (n * 7 + writer * 13) % 100);
                let event = |n| {
                    let seconds = since + writer * 1000 + round * 40 + n % 40;
                    telemetry(&id(n), seconds, &[("t", Value::Integer(n))])
                };
                let events: Vec<_> = (0..100).map(event).collect();
                let mut stored = storage.append_events(&events).await;
                while since == 0 && matches!(stored, Err(Error::Unavailable(_))) {
                    stored = storage.append_events(&events).await;
                }
                stored.unwrap();
            }
        });
    }
    let storage = Arc::clone(&fresh.storage);
    let pruning = async {
        loop {
            // It is retention that gives up if it must wait.
            match prune_before(&storage, at(DAY)).await {
                Ok(()) | Err(Error::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::select! {
        () = pruning => {}
        _ = tasks.join_all() => {}
    }
}

async fn pruning_leaves_other_devices_and_metrics_alone(fresh: &mut Fresh) {
    let values = |n| [("a", Value::Integer(n)), ("b", Value::Integer(n))];
    let events: Vec<_> = ["fern-1", "moss-1"]
        .into_iter()
        .flat_map(|id| [0, 1, 3 * DAY].map(|seconds| telemetry(id, seconds, &values(seconds))))
        .collect();
    fresh.storage.append_events(&events).await.unwrap();
    fresh.storage.append_events(&[heartbeat("ivy-1", 0, vec![])]).await.unwrap();
    prune_before(&fresh.storage, at(DAY)).await.unwrap();
    for id in ["fern-1", "moss-1"] {
        let left = super::all(&fresh.storage, id).await;
        let left: Vec<_> = left.iter().map(|r| (r.metric.as_str(), r.time)).collect();
        assert_eq!(left, [("a", at(3 * DAY)), ("b", at(3 * DAY))], "{id}");
        let range = fresh.storage.range_of(&device(id)).await.unwrap();
        let tail = fresh.storage.tail_of(&device(id), range.oldest, 10).await.unwrap();
        assert_eq!(tail.events.len(), 1, "{id}");
    }
}

/// Two submissions of one sender in a batch, and the database refuses a reading of the first.
#[tokio::test]
async fn a_reading_that_the_database_refuses_costs_no_other() {
    let fresh = Fresh::timescaledb().await;
    let mut session = PgConnection::connect(fresh.database_url()).await.unwrap();
    session.execute("ALTER TABLE readings ADD CHECK (integer <> 666)").await.unwrap();
    let sender = Sender {
        process: ProcessId::parse("p").unwrap(),
        client: ClientId::parse("bridge").unwrap(),
        started: at(0),
    };
    fresh.storage.introduce(&sender, 1).await.unwrap();
    let (batcher, work, _) = Batcher::new(Arc::clone(&fresh.storage));
    let of = |first: i64| Submission {
        sender: Some(sender.process.clone()),
        first_sequence: first.unsigned_abs(),
        messages: (first..first + 10)
            .map(|n| if n == 4 { 666 } else { n })
            .map(|n| message(telemetry("fern-1", n, &[("t", Value::Integer(n))])))
            .collect(),
        report: None,
    };
    let first = batcher.submit(of(1), false).await.unwrap();
    let second = batcher.submit(of(11), true).await.unwrap();
    drop(batcher);
    work.await.unwrap();
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!((first.stored, first.quarantined, second.stored), (9, 1, 10));
    assert_eq!(super::all(&fresh.storage, "fern-1").await.len(), 19);
    let query = QuarantineQuery { limit: 10, ..QuarantineQuery::default() };
    let kept = fresh.storage.quarantine(&query).await.unwrap();
    assert_eq!(kept[0].refusal.reason, "refused_by_database");
    session.close().await.unwrap();
    fresh.close().await;
}

/// Someone has looked at a table in `psql` and gone to lunch with the transaction open.
#[tokio::test]
async fn pruning_does_not_make_storing_wait_for_a_forgotten_session() {
    for table in ["readings", "device_log"] {
        let fresh = Fresh::timescaledb().await;
        let events = [0, 3 * DAY].map(|s| telemetry("fern-1", s, &[("t", Value::Integer(s))]));
        fresh.storage.append_events(&events).await.unwrap();
        let url = fresh.database_url();
        let mut session = PgConnection::connect(url).await.unwrap();
        session.execute("BEGIN").await.unwrap();
        session.execute(AssertSqlSafe(format!("SELECT * FROM {table}"))).await.unwrap();

        let (storage, pruning) = (Arc::clone(&fresh.storage), Arc::clone(&fresh.storage));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { prune_before(&pruning, at(DAY)).await });
        let mut waiting = PgConnection::connect(url).await.unwrap();
        // Not before retention has come to where it must wait, or given up.
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        for _ in 0..200 {
            if sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut waiting).await.unwrap() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let more = telemetry("fern-1", 3 * DAY + 60, &[("t", Value::Integer(1))]);
        let stored = timeout(PROMPTLY, storage.append_events(&[more])).await;
        assert!(matches!(stored, Ok(Ok(_))), "{table}: {stored:?}");

        session.execute("COMMIT").await.unwrap();
        // What has given up will succeed next time, once it has let go.
        drop(tasks.join_all().await);
        let pruned = async {
            while super::all(&storage, "fern-1").await.len() > 2 {
                prune_before(&storage, at(DAY)).await.unwrap();
            }
        };
        timeout(PROMPTLY, pruned).await.unwrap();
        fresh.close().await;
    }
}

/// A replica that froze in the middle of an append, its connection still open.
#[tokio::test]
async fn a_replica_that_froze_in_a_transaction_does_not_stop_the_others_for_ever() {
    let fresh = Fresh::timescaledb().await;
    let pool = pool(fresh.database_url(), 1).await.unwrap();
    let mut frozen = pool.begin().await.unwrap();
    frozen.execute("SELECT * FROM log_heads FOR UPDATE").await.unwrap();
    let event = telemetry("fern-1", 0, &[("t", Value::Integer(1))]);
    let stored = timeout(Duration::from_secs(30), fresh.storage.append_events(&[event])).await;
    assert!(matches!(stored, Ok(Ok(_))), "{stored:?}");
    drop(frozen);
    pool.close().await;
    fresh.close().await;
}

#[tokio::test]
async fn a_schema_that_is_not_this_programs_is_refused() {
    let database = TestDatabase::create().await;
    let (url, background) = (SecretString::from(database.url.clone()), Lifecycle::new());
    let error = open(&url, POLICY, &background).await.unwrap_err().to_string();
    assert!(error.contains("run `telemetry-store migrate`"), "{error}");
    // Several at once wait for each other.
    tokio::try_join!(migrate(&url), migrate(&url)).unwrap();
    open(&url, POLICY, &background).await.unwrap().close().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations VALUES (9999, 'x', now(), true, '', 0)";
    connection.execute(newer).await.unwrap();
    let error = open(&url, POLICY, &background).await.unwrap_err().to_string();
    assert!(error.contains("9999"), "{error}");
    connection.close().await.unwrap();
    background.stop();
    assert!(background.drained().await);
    database.drop().await;
}
