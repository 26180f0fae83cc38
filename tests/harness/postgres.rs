//! A fresh TimescaleDB database, dropped when the test is over.

use std::env;

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// A database of one test.
#[derive(Debug)]
pub struct PostgresDatabase {
    server: String,
    name: String,
    /// The Community edition's server makes what is connected to, and drops it by itself.
    is_community: bool,
}

impl PostgresDatabase {
    /// Creates it on the server of `TELEMETRY_TEST_POSTGRES_URL`.
    pub async fn create() -> anyhow::Result<Self> {
        let server = env::var("TELEMETRY_TEST_POSTGRES_URL")
            .context("TELEMETRY_TEST_POSTGRES_URL is not set: run tests/run")?;
        Self::create_on(server).await
    }

    /// Creates it on the Community edition's server.
    pub async fn create_on_community() -> anyhow::Result<Self> {
        let server = env::var("TELEMETRY_TEST_COMMUNITY_URL")
            .context("TELEMETRY_TEST_COMMUNITY_URL is not set: run tests/run")?;
        let mut database = Self::named_on(server)?;
        database.is_community = true;
        database.connect().await?.close().await?;
        Ok(database)
    }

    /// Creates it on a server.
    pub async fn create_on(server: String) -> anyhow::Result<Self> {
        let database = Self::named_on(server)?;
        let create = format!("CREATE DATABASE {}", database.name);
        let mut server = PgConnection::connect(&database.server).await?;
        server.execute(AssertSqlSafe(create)).await?;
        Ok(database)
    }

    fn named_on(server: String) -> anyhow::Result<Self> {
        let unique = tempfile::Builder::new().prefix("x").rand_bytes(10).tempfile()?;
        let unique = unique.path().file_name().context("no file name")?.to_string_lossy();
        let name = format!("telemetry_e2e_{}", unique.to_lowercase());
        Ok(Self { server, name, is_community: false })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let end = self.server.rfind('/').unwrap_or(self.server.len());
        format!("{}/{}", self.server.get(..end).unwrap_or_default(), self.name)
    }

    /// The port of its server.
    pub fn port(&self) -> anyhow::Result<u16> {
        let (_, rest) = self.server.rsplit_once(':').context("a URL without a port")?;
        let (port, _) = rest.split_once('/').context("a URL without a database")?;
        Ok(port.parse()?)
    }

    /// Its URL through another port of this machine.
    pub fn url_through(&self, port: u16) -> anyhow::Result<String> {
        let own = format!(":{}/", self.port()?);
        Ok(self.url().replacen(&own, &format!(":{port}/"), 1))
    }

    /// A connection to it.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.url()).await?)
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        if self.is_community {
            return;
        }
        let drop_it = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // Dropping is synchronous and may happen inside a runtime, so it gets one of its own.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut server = PgConnection::connect(&server).await?;
                server.execute(AssertSqlSafe(drop_it)).await?;
                anyhow::Ok(())
            })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("could not drop test database {}", self.name);
        }
    }
}
