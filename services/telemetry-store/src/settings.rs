//! The store's settings: environment variables, each also a flag.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use service_kit::{
    duration,
    metrics::MetricsSettings,
    observe::LogSettings,
    process::{EXIT_CODES, VERSION},
    secret::{self, SecretError, SecretString},
};

use crate::storage::Policy;

/// gRPC in, database out, live out.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "telemetry-store",
    version = VERSION.as_str(),
    about,
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// Ask the store that runs here, at the address that it listens on, whether it serves.
    #[arg(long)]
    pub health: bool,
    /// What to do; `serve` if left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to do it.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the binary can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve until told to stop (the default).
    Serve,
    /// Bring the database to this version's schema, then exit.
    Migrate,
}

/// Everything that can be set.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Where the data is.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// Address to serve gRPC on.
    #[arg(long, global = true, env = "STORE_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// How long readings are kept, such as 365d.
    #[arg(long, global = true, env = "RETENTION", default_value = "365d", value_parser = duration::parse)]
    pub retention: Duration,
    /// How long events are kept for watches to resume from, such as 24h.
    #[arg(long, global = true, env = "WATCH_HORIZON", default_value = "24h", value_parser = duration::parse)]
    pub watch_horizon: Duration,
    /// How long messages stay in the quarantine, such as 30d.
    #[arg(long, global = true, env = "QUARANTINE_RETENTION", default_value = "30d", value_parser = duration::parse)]
    pub quarantine_retention: Duration,
    /// How much the quarantine may hold, in bytes. What no longer fits is counted and let go.
    #[arg(long, global = true, env = "QUARANTINE_MAX_BYTES", default_value_t = 256 << 20)]
    pub quarantine_max_bytes: u64,
    /// Metrics.
    #[command(flatten)]
    pub metrics: MetricsSettings,
    /// Logs.
    #[command(flatten)]
    pub log: LogSettings,
}

impl Settings {
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            readings: self.retention,
            log: self.watch_horizon,
            quarantine: self.quarantine_retention,
            quarantine_bytes: self.quarantine_max_bytes,
        }
    }
}

/// Which database to use.
#[derive(Args, Clone, Debug)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host/database` for TimescaleDB, `sqlite://path` for the embedded
    /// database [default: `sqlite://telemetry.db`]
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// File that holds the database URL.
    #[arg(long, global = true, env = "DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
}

impl DatabaseSettings {
    /// The URL, from whichever place it is given in.
    pub fn url(&self) -> Result<SecretString, SecretError> {
        let (value, file) = (self.database_url.clone(), self.database_url_file.clone());
        let url = secret::resolve("DATABASE_URL", value, file)?;
        Ok(url.unwrap_or_else(|| "sqlite://telemetry.db".into()))
    }
}
