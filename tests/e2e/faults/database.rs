//! PostgreSQL is there and does not do what it should: it starts, recovers, refuses, is full, turns
//! around what is being added to.

use anyhow::{Context, ensure};
use e2e::{Bed, Mode, Process, Setup, eventually, is_long, is_serving, lasts};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

async fn own_cluster() -> anyhow::Result<Bed> {
    Bed::start_with(Setup { own_cluster: true, ..Setup::default() }).await
}

/// Calls a function on each session of the store.
async fn to_each_session(connection: &mut PgConnection, function: &str) -> anyhow::Result<()> {
    let sql = format!(
        "SELECT {function}(pid) FROM pg_stat_activity
         WHERE application_name = 'telemetry-store' AND datname = current_database()"
    );
    connection.execute(AssertSqlSafe(sql)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted() -> anyhow::Result<()> {
    let mut bed = own_cluster().await?;
    bed.cluster()?.stop().await?;
    lasts(1, 30).await;
    bed.cluster()?.restart().await?;
    bed.audit().await
}

/// Killed again and again while it reads its log and lets nobody in.
#[tokio::test(flavor = "multi_thread")]
async fn in_recovery() -> anyhow::Result<()> {
    let mut bed = own_cluster().await?;
    for _ in 0..5 {
        bed.cluster()?.launch()?;
        let messages = bed.chance.u64(1..300);
        bed.auditor.publishes(messages).await?;
    }
    bed.cluster()?.restart().await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only() -> anyhow::Result<()> {
    let mut bed = own_cluster().await?;
    bed.cluster()?.set("default_transaction_read_only", "on").await?;
    lasts(4, 60).await;
    bed.cluster()?.set("default_transaction_read_only", "off").await?;
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_full() -> anyhow::Result<()> {
    let setup = Setup { disk_megabytes: Some(300), ..Setup::default() };
    let mut bed = Bed::start_with(setup).await?;
    bed.cluster()?.fill_disk()?;
    eventually("the store is told", async || {
        let log = bed.system.store.as_ref().map(Process::log).context("no store")?;
        ensure!(log.iter().any(|line| line.contains("No space left")), "{log:?}");
        Ok(())
    })
    .await?;
    lasts(2, 60).await;
    bed.cluster()?.free_disk()?;
    bed.audit().await
}

/// The store loses its connections, and others have taken all before it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn max_connections_reached() -> anyhow::Result<()> {
    let mut bed = own_cluster().await?;
    let (url, store) = (bed.cluster()?.url(), bed.system.store_address());
    let mut killer = bed.database().await?;
    let mut others = Vec::new();
    while is_serving(&store).await? {
        to_each_session(&mut killer, "pg_terminate_backend").await?;
        while let Ok(other) = PgConnection::connect(&url).await {
            others.push(other);
        }
    }
    lasts(2, 60).await;
    drop((others, killer));
    bed.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_killed() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    for kill in ["pg_cancel_backend", "pg_terminate_backend"] {
        for _ in 0..10 {
            to_each_session(&mut bed.database().await?, kill).await?;
            bed.auditor.publishes(100).await?;
        }
        bed.recovers().await?;
    }
    bed.audit().await
}

const COMPRESSED: &str = "
    SELECT count(*) FROM timescaledb_information.chunks
    WHERE hypertable_name = 'readings' AND is_compressed";
/// Every chunk of the readings, and what was added to it since it was compressed last.
const COMPRESS: &str = "SELECT compress_chunk(c) FROM show_chunks('readings') AS c";

/// The very chunks to which the devices add are compressed, again and again, and what is stored in
/// them comes once more: the store has committed it, and the bridge dies before it hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn chunk_compressed_meanwhile() -> anyhow::Result<()> {
    let setup = Setup { community: true, rate: Some(200), ..Setup::default() };
    let mut bed = Bed::start_with(setup).await?;
    for _ in 0..if is_long() { 50 } else { 4 } {
        bed.database().await?.execute(COMPRESS).await?;
        let messages = bed.chance.u64(1..400);
        bed.auditor.publishes(messages).await?;
        let lost = bed.store_link.swallowed();
        bed.store_link.set(Mode::Swallow);
        eventually("an answer is lost", async || {
            ensure!(bed.store_link.swallowed() > lost, "none");
            Ok(())
        })
        .await?;
        drop(bed.system.bridge.take());
        bed.store_link.set(Mode::Cut);
        bed.database().await?.execute(COMPRESS).await?;
        bed.store_link.set(Mode::Pass);
        bed.system.start_bridge()?;
        bed.recovers().await?;
    }
    let ledger = bed.system.client().await?.ledger().await?.total.context("no total")?;
    ensure!(ledger.readings_duplicate > 0, "nothing came once more: {ledger:?}");
    let compressed: i64 =
        sqlx::query_scalar(COMPRESSED).fetch_one(&mut bed.database().await?).await?;
    ensure!(compressed > 0, "nothing is compressed");
    bed.audit().await
}
