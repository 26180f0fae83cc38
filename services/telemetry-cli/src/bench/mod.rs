//! Measures the running system from outside: what is published comes over a real broker, what is
//! stored and shown is asked of a real store, and every message is accounted for.
//!
//! Each reading carries the instant it was published at as its time, so that whoever sees it knows
//! how long it took. At a rate, that is the instant at which it was *due*: a generator that is held up
//! does not hide it. All of it must therefore run on one machine, or by one clock.
//!
//! A client cannot see a COMMIT. It sees what follows: nothing comes to a watch before its commit, so
//! `publish_to_watch` bounds publish→COMMIT from above.

mod audit;
mod broker;
mod ingest;
mod latency;
mod ledger;
mod load;
mod mqtt;
mod processes;
mod publish;
mod queries;
mod settings;
mod sight;
mod watchers;

use clap::Subcommand;
use telemetry_model::{Clock, SystemClock};

use crate::{output::Output, store::Store};

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Publish to broker, bridge and store: throughput, latencies, costs, and whether all is there.
    Ingest(ingest::IngestArgs),
    /// Publish to a broker alone, with one plain subscriber: what `ingest` is to be compared with.
    Broker(broker::BrokerArgs),
    /// Many watches at once: their memory and latency, then with one that never reads.
    Watchers(watchers::WatchersArgs),
    /// Ask for history, of devices picked at random.
    Queries(queries::QueriesArgs),
}

/// Makes a connection of its own to the store.
type Connect<'a> = dyn Fn() -> anyhow::Result<Store> + Sync + 'a;

pub(crate) async fn run(
    command: BenchCommand,
    connect: &Connect<'_>,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    match command {
        BenchCommand::Ingest(args) => ingest::ingest(&connect()?, args, output).await,
        BenchCommand::Broker(args) => broker::broker(args, output).await,
        BenchCommand::Watchers(args) => watchers::watchers(connect, args, output).await,
        BenchCommand::Queries(args) => queries::queries(&connect()?, args, output).await,
    }
}

/// The time in microseconds since 1970.
fn now_us() -> i64 {
    SystemClock.now().micros()
}
