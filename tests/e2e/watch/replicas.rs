//! Written at one replica, watched at another, on one real TimescaleDB: whatever becomes of the
//! connection on which they hear of each other.

use anyhow::{Context, ensure};
use e2e::{
    Client, Database, Process, Proxy, System, events, eventually, free_port, health_becomes,
};
use sqlx::{Executor, Row};
use telemetry_proto::v1::{WatchDeviceResponse, WatchDevicesRequest, WatchDevicesResponse};
use tonic::{Code, Streaming};

use super::{publish, values};

/// The bridge writes at one store; this is the other.
struct Other {
    process: Process,
    one: Streaming<WatchDeviceResponse>,
    many: Streaming<WatchDevicesResponse>,
    next: i64,
}

impl Other {
    async fn start(system: &System) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let process = system.another_store(&address)?;
        health_becomes(&address, true).await?;
        let client = Client::connect(&address).await?;
        let (_, one) = client.watch("fern-1", "").await?;
        let (_, many) = client.watch_many(WatchDevicesRequest::default()).await?;
        Ok(Self { process, one, many, next: 0 })
    }

    /// What is written at the first is seen here.
    async fn sees_what_is_written(&mut self, system: &System) -> anyhow::Result<()> {
        let range = self.next..self.next + 50;
        self.next = range.end;
        publish(&system.device(), "fern-1", range.clone())?;
        let expected: Vec<_> = range.collect();
        ensure!(values(&events(&mut self.one, 50).await?.0) == expected);
        ensure!(values(&events(&mut self.many, 50).await?.0) == expected);
        Ok(())
    }
}

/// How many sessions of stores listen.
async fn listeners(system: &System) -> anyhow::Result<Vec<i32>> {
    let mut session = system.postgres.as_ref().context("no database")?.connect().await?;
    let rows = session
        .fetch_all(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = 'telemetry-store'
             AND (query LIKE 'LISTEN%' OR query = 'SELECT 1 -- listening')",
        )
        .await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn written_at_one_and_watched_at_another() -> anyhow::Result<()> {
    let system = System::start(Database::Timescale).await?;
    let mut other = Other::start(&system).await?;
    for _ in 0..5 {
        other.sees_what_is_written(&system).await?;
    }
    other.process.terminate()?;
    ensure!(other.process.ended().await?.code() == Some(0), "{:?}", other.process.log());
    for ended in [other.one.message().await.err(), other.many.message().await.err()] {
        ensure!(ended.context("ended as if complete")?.code() == Code::Unavailable);
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_listen_connection_is_replaced() -> anyhow::Result<()> {
    let system = System::start(Database::Timescale).await?;
    let mut other = Other::start(&system).await?;
    let mut session = system.postgres.as_ref().context("no database")?.connect().await?;
    for _ in 0..3 {
        let before = listeners(&system).await?;
        ensure!(!before.is_empty(), "nobody listens");
        for pid in before {
            sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut session).await?;
        }
        other.sees_what_is_written(&system).await?;
        eventually("both listen again", async || {
            ensure!(listeners(&system).await?.len() >= 2);
            Ok(())
        })
        .await?;
        other.sees_what_is_written(&system).await?;
    }
    other.process.logged("other replicas' commits", 3).await
}

/// A firewall forgets every connection to the database: none breaks, none carries anything.
#[tokio::test]
async fn connections_that_are_gone_without_a_word_are_replaced() -> anyhow::Result<()> {
    let mut system = System::start(Database::Timescale).await?;
    let server = system.postgres.as_ref().context("no database")?.port()?;
    let link = Proxy::to(server).await?;
    system.set_database(link.port());
    let mut other = Other::start(&system).await?;
    other.sees_what_is_written(&system).await?;
    link.forget();
    other.sees_what_is_written(&system).await?;
    other.sees_what_is_written(&system).await
}
