//! PostgreSQL is there and does not do what it should: it starts, recovers, refuses, is full.
//!
//! A chunk cannot be compressed meanwhile: the Apache edition, which the tests run on, has no
//! compression.

use anyhow::{Context, ensure};
use e2e::{Bed, Process, Setup, eventually, is_serving, lasts};
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
