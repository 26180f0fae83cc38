//! The store's settings: environment variables, each also a flag.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use service_kit::{
    auth::AuthSettings,
    duration,
    health::AskSettings,
    incoming::LimitSettings,
    metrics::MetricsSettings,
    observe::LogSettings,
    process::{EXIT_CODES, VERSION},
    secret::{self, SecretError, SecretString},
    tls::ServerTlsSettings,
};
use telemetry_model::Invalid;

use crate::storage::{Fleet, Policy};

/// gRPC in, database out, live out.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "telemetry-store",
    version = VERSION.as_str(),
    about,
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// To ask one that runs how it is.
    #[command(flatten)]
    pub ask: AskSettings,
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
    /// How long a connection may last, such as 1h; then its streams end and go on with another one,
    /// so that the load spreads over new replicas [default: no limit]
    #[arg(long, global = true, env = "STORE_MAX_CONNECTION_AGE", value_parser = max_age)]
    pub max_connection_age: Option<Duration>,
    /// How long readings are kept, such as 365d.
    #[arg(long, global = true, env = "RETENTION", default_value = "365d", value_parser = duration::parse)]
    pub retention: Duration,
    /// How long rollups of readings are kept, such as 1825d: not shorter than readings. TimescaleDB's
    /// Community edition has them.
    #[arg(long, global = true, env = "ROLLUP_RETENTION", default_value = "1825d", value_parser = duration::parse)]
    pub rollup_retention: Duration,
    /// After how long readings are compressed, such as 7d, by TimescaleDB's Community edition.
    #[arg(long, global = true, env = "COMPRESS_AFTER", default_value = "7d", value_parser = duration::parse)]
    pub compress_after: Duration,
    /// How long events are kept for watches to resume from, such as 24h.
    #[arg(long, global = true, env = "WATCH_HORIZON", default_value = "24h", value_parser = duration::parse)]
    pub watch_horizon: Duration,
    /// How long messages stay in the quarantine, such as 30d.
    #[arg(long, global = true, env = "QUARANTINE_RETENTION", default_value = "30d", value_parser = duration::parse)]
    pub quarantine_retention: Duration,
    /// How much the quarantine may hold, in bytes. What no longer fits is counted and let go.
    #[arg(long, global = true, env = "QUARANTINE_MAX_BYTES", default_value_t = 256 << 20)]
    pub quarantine_max_bytes: u64,
    /// After how much silence, while we listened, a device is offline, such as 180s; at least 1s.
    #[arg(long, global = true, env = "OFFLINE_AFTER", default_value = "180s", value_parser = duration::parse)]
    pub offline_after: Duration,
    /// How many devices there may be. What is of a new one beyond goes to the quarantine.
    #[arg(long, global = true, env = "MAX_DEVICES", default_value_t = 1_000_000)]
    pub max_devices: u64,
    /// How many names of metrics there may be, likewise.
    #[arg(long, global = true, env = "MAX_METRICS", default_value_t = 10_000)]
    pub max_metrics: u64,
    /// Who may call.
    #[command(flatten)]
    pub auth: AuthSettings,
    /// TLS.
    #[command(flatten)]
    pub tls: ServerTlsSettings,
    /// How much callers may take up.
    #[command(flatten)]
    pub limits: LimitSettings,
    /// Whether anyone may ask for the definition of the API [default: on if anyone may call].
    #[arg(long, global = true, env = "REFLECTION")]
    pub reflection: Option<Reflection>,
    /// Metrics.
    #[command(flatten)]
    pub metrics: MetricsSettings,
    /// Logs.
    #[command(flatten)]
    pub log: LogSettings,
}

impl Settings {
    pub(crate) fn policy(&self) -> Result<Policy, Invalid> {
        if self.rollup_retention < self.retention {
            return Err(Invalid::new("ROLLUP_RETENTION", "must not be shorter than RETENTION"));
        }
        Ok(Policy {
            readings: self.retention,
            compress_after: self.compress_after,
            rollups: self.rollup_retention,
            log: self.watch_horizon,
            quarantine: self.quarantine_retention,
            quarantine_bytes: self.quarantine_max_bytes,
            offline_after: self.offline_after.max(Duration::from_secs(1)),
            fleet: Fleet { devices: self.max_devices, metrics: self.max_metrics },
        })
    }
}

fn max_age(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("must be at least 1s; leave it out for no limit".to_owned()),
        age => Ok(age),
    }
}

/// Whether the API explains itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reflection {
    /// To anyone who asks.
    On,
    /// To nobody.
    Off,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollups_are_kept_as_long_as_readings() {
        let policy = |arguments: &[&str]| {
            let arguments = ["telemetry-store"].iter().chain(arguments);
            Cli::try_parse_from(arguments).unwrap().settings.policy()
        };
        assert!(policy(&[]).is_ok());
        let error = policy(&["--rollup-retention", "300d"]).unwrap_err();
        assert_eq!(error.field, "ROLLUP_RETENTION");
        assert!(policy(&["--rollup-retention", "300d", "--retention", "300d"]).is_ok());
    }
}
