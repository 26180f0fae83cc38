//! A client of the telemetry store for people and pipes, a simulator of devices, and a bench that
//! measures the real pair from outside.

mod admin;
mod bench;
mod diagnostics;
mod history;
mod output;
mod query;
pub mod simulate;
mod store;
mod times;
mod token;
mod watch;

use std::io::Write;

use clap::{Args, Parser, Subcommand};
use service_kit::channel::AccessSettings;

use crate::{output::Output, store::Store};

/// Ask a telemetry store, watch devices live, or simulate some.
#[derive(Clone, Debug, Parser)]
#[command(name = "telemetry", version, about)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Debug)]
struct Common {
    /// URL of the telemetry store.
    #[arg(long, global = true, env = "STORE_URL", default_value = "http://localhost:50051")]
    store: String,
    #[command(flatten)]
    access: AccessSettings,
    /// Print JSON, a line each, instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List the devices.
    Devices(query::DevicesArgs),
    /// Delete a device and everything that is stored of it, which cannot be undone.
    Delete {
        /// The device.
        device: String,
    },
    /// Say why a device is silent or wrong, and what to do.
    Explain {
        /// The device.
        device: String,
    },
    /// List the metrics of a device, or of all.
    Metrics {
        /// The device.
        device: Option<String>,
    },
    /// Show the newest reading of each metric of a device.
    Latest {
        /// The device.
        device: String,
    },
    /// List readings of a device.
    Readings(query::ReadingsArgs),
    /// Summarize metrics of devices in buckets, or thin them out to the shape of their line.
    Summarize(history::SummarizeArgs),
    /// Print every reading of a range, as CSV, or with `--json` as JSON a line each.
    Export(history::ExportArgs),
    /// Account for every message, by the process that sent it: what it RECEIVED from the broker was
    /// STORED, was there already (DUPLICATE), is QUARANTINED, was DROPPED for a reason (`ended`: held
    /// by a process that ended; with `QoS` 1 the broker delivers it again), or is `IN_FLIGHT`.
    Ledger,
    /// Messages that could not be understood or stored.
    #[command(subcommand)]
    Quarantine(diagnostics::QuarantineCommand),
    /// Follow devices live, over disconnects.
    Watch(watch::WatchArgs),
    /// Pretend to be some devices.
    Simulate(simulate::SimulateArgs),
    /// Measure the running system, and account for every message of it.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Make a token for somebody who shall call the store: prints it, this once, and the line for the
    /// store's `AUTH_TOKENS_FILE`, which does not reveal it.
    Token(token::TokenArgs),
}

/// Does what was asked, and writes what there is to say to `out`.
pub async fn run(cli: Cli, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let Cli { common: Common { store, access, json }, command } = cli;
    let mut output = Output::new(out, json);
    let command = match command {
        Command::Simulate(args) => {
            return simulate::run(args.check()?, std::future::pending()).await;
        }
        Command::Token(args) => return token::token(&args, &mut output),
        other => other,
    };
    let url = store;
    let store = Store::connect(&url, &access)?;
    match command {
        Command::Devices(args) => query::devices(&store, args, &mut output).await,
        Command::Delete { device } => admin::delete(&store, device, &mut output).await,
        Command::Explain { device } => diagnostics::explain(&store, device, &mut output).await,
        Command::Metrics { device } => query::metrics(&store, device, &mut output).await,
        Command::Latest { device } => query::latest(&store, device, &mut output).await,
        Command::Readings(args) => query::readings(&store, args, &mut output).await,
        Command::Summarize(args) => history::summarize(&store, args, &mut output).await,
        Command::Export(args) => history::export(&store, args, &mut output).await,
        Command::Ledger => diagnostics::ledger(&store, &mut output).await,
        Command::Quarantine(command) => diagnostics::quarantine(&store, command, &mut output).await,
        Command::Bench(command) => {
            let connect = || Store::connect(&url, &access);
            bench::run(command, &connect, &mut output).await
        }
        Command::Watch(args) => watch::watch(&store, args, &mut output).await,
        Command::Simulate(_) | Command::Token(_) => Ok(()),
    }
}
