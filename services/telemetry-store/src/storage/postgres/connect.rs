//! How the store connects to PostgreSQL, and which schema it accepts there.

use std::{str::FromStr, time::Duration};

use sqlx::{
    Connection, Executor, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use telemetry_model::Invalid;
use tokio::time::timeout;

use super::community;
use crate::{
    error::{Error, Result},
    storage::PATIENCE,
};

pub(in crate::storage) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/postgres");

/// What must hold in each session, whatever the server's defaults.
const SESSION: [(&str, &str); 5] = [
    // An acknowledgement means committed and synced.
    ("synchronous_commit", "on"),
    // Each statement of an append must see what was committed while it waited for the heads.
    ("default_transaction_isolation", "read committed"),
    // A replica that froze, or whose host is gone, must not keep the heads of the log.
    ("idle_in_transaction_session_timeout", "10s"),
    // Nobody waits longer for an answer.
    ("statement_timeout", "60s"),
    ("timezone", "UTC"),
];

/// How long a connection that is given back may take to show that it is still good.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to a database as the store wants them.
pub(in crate::storage) async fn pool(url: &str, connections: u32) -> Result<PgPool> {
    let pool = pool_options(connections).connect_with(session(url)?).await?;
    Ok(pool)
}

/// Connections for questions about the history, which are opened when they are needed.
pub(super) fn queries(url: &str, connections: u32) -> Result<PgPool> {
    let patience = format!("{}s", PATIENCE.as_secs());
    let session = session(url)?.options([
        ("statement_timeout", patience.as_str()),
        // A page of readings ends early only if the index is followed in its order. The planner, which
        // does not know how many readings a series has, would rather read and sort them all: measured,
        // 4,096 of 29,000 readings took 550 ms that way, and 18 ms this.
        ("enable_bitmapscan", "off"),
        // Compiling takes longer than what is to be done for each chunk.
        ("jit", "off"),
    ]);
    Ok(pool_options(connections).connect_lazy_with(session))
}

fn session(url: &str) -> Result<PgConnectOptions> {
    let invalid = |error: sqlx::Error| Invalid::new("DATABASE_URL", error.to_string());
    let options = PgConnectOptions::from_str(url).map_err(invalid)?;
    Ok(options.application_name("telemetry-store").options(SESSION))
}

fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5))
        // Or one whose other end is gone without a word would take a place for ever.
        .after_release(|connection, _| {
            Box::pin(async {
                let answers = timeout(RELEASE_TIMEOUT, connection.ping()).await;
                answers.map_err(|_| sqlx::Error::PoolTimedOut)?.map(|()| true)
            })
        })
}

/// Refuses a database that is older or newer than this program.
pub(super) async fn check_version(pool: &PgPool) -> Result<()> {
    let any: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    let mut applied: Vec<i64> = Vec::new();
    if any {
        let versions = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success");
        applied = versions.fetch_all(pool).await?;
    }
    if let Some(version) = applied.iter().find(|version| !MIGRATOR.version_exists(**version)) {
        return Err(Error::Internal(
            format!("the database has migration {version}, which this program does not know")
                .into(),
        ));
    }
    match MIGRATOR.iter().count() - applied.len() {
        0 => Ok(()),
        n => Err(Error::Internal(
            format!("{n} database migrations are pending: run `telemetry-store migrate`").into(),
        )),
    }
}

/// Brings a database's schema up to date. Several at once wait for each other.
pub(super) async fn migrate(url: &str) -> Result<()> {
    let pool = pool(url, 1).await?;
    // It is the pool's only connection. To move data, or to wait for another one, takes time.
    pool.execute("SET statement_timeout = 0").await?;
    MIGRATOR.run(&pool).await?;
    community::prepare(&pool).await?;
    pool.close().await;
    Ok(())
}
