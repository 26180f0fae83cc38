//! Many watches at once, each of a device of its own: what each holds, how late each sees, and what one
//! that never reads costs the others: the same load comes beside one that does.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use clap::Args;
use serde_json::Value as Json;
use service_kit::duration;
use telemetry_proto::v1::{EventKind, WatchDeviceRequest, WatchDeviceResponse};
use tokio::{task::JoinSet, time::sleep};
use tonic::Streaming;

use super::{
    Connect, ledger,
    load::Load,
    processes::{self, Named},
    publish::{Plan, Progress, publish},
    settings::LoginArgs,
    sight::{self, Sight},
};
use crate::{output::Output, store::Store};

/// Readings in a message to that watch: its window is full after some ten.
const MANY_READINGS: usize = 200;

#[derive(Args, Clone, Debug)]
pub(crate) struct WatchersArgs {
    #[command(flatten)]
    login: LoginArgs,
    /// How many watches, and devices.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..1_000_000))]
    watchers: u64,
    /// How many connections to the store they share.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// Messages a second, over all devices.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Messages a second, each of 200 readings, to one more watch: it reads along the first time, and
    /// the second time not before the end.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    stalled_rate: u32,
    /// For how long, each of the two times.
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    duration: Duration,
    /// A process of this machine whose memory to print, such as store=1234.
    #[arg(long = "pid", value_name = "NAME=PID")]
    processes: Vec<Named>,
}

pub(crate) async fn watchers(
    connect: &Connect<'_>,
    args: WatchersArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let (load, sight) = (Load::new(args.watchers, 4), Sight::default());
    let before = processes::usages(&args.processes)?;
    let mut watches = open(connect, &args, &load, &sight).await?;
    // What the first moments of a stream need is given back.
    sleep(Duration::from_secs(1)).await;
    let growth = processes::growth_kb(
        &args.processes,
        &before,
        &processes::usages(&args.processes)?,
        args.watchers,
    );
    let ends = async { watches.join_next().await.map_or(Ok(()), |ended| ended?) };
    let measured = async {
        let measured = (&load, &sight);
        let (alone, _) = run(&connect()?, &args, measured, false).await?;
        let (beside_stalled, read) = run(&connect()?, &args, measured, true).await?;
        anyhow::Ok((alone, beside_stalled, read))
    };
    let (alone, beside_stalled, read) = tokio::select! {
        measured = measured => measured?,
        ended = ends => return ended,
    };
    output.figures(vec![
        ("watchers", args.watchers.into()),
        ("rate", args.rate.into()),
        ("kb_per_watcher", growth),
        ("publish_to_watch_ms", alone),
        ("publish_to_watch_beside_stalled_ms", beside_stalled),
        ("stalled_read_at_last", read.into()),
    ])
}

/// Opens all of them, and lets each add what it sees.
async fn open(
    connect: &Connect<'_>,
    args: &WatchersArgs,
    load: &Load,
    sight: &Sight,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut opening = JoinSet::new();
    for connection in 0..args.connections {
        let (store, load, args) = (connect()?, load.clone(), args.clone());
        opening.spawn(async move {
            let mut streams = Vec::new();
            for number in (connection..args.watchers).step_by(usize::try_from(args.connections)?) {
                streams.push(watch(&store, load.device(number)).await?);
            }
            anyhow::Ok(streams)
        });
    }
    let mut watches = JoinSet::new();
    while let Some(streams) = opening.join_next().await {
        for stream in streams?? {
            watches.spawn(follow(stream, sight.clone()));
        }
    }
    Ok(watches)
}

/// Adds what a stream shows, until it is dropped.
async fn follow(mut stream: Streaming<WatchDeviceResponse>, sight: Sight) -> anyhow::Result<()> {
    while let Some(response) = stream.message().await? {
        sight.add(&response.events);
    }
    anyhow::bail!("the store ended a watch")
}

async fn watch(store: &Store, device: String) -> anyhow::Result<Streaming<WatchDeviceResponse>> {
    let request = WatchDeviceRequest {
        device_id: device,
        kinds: vec![EventKind::Telemetry.into()],
        ..WatchDeviceRequest::default()
    };
    let stream = store.watch().watch_device(request).await;
    let mut stream = stream.map_err(|status| store.explain(&status))?.into_inner();
    sight::first(&mut stream).await?;
    Ok(stream)
}

/// Publishes to all devices, and much to one more; answers how late the former were seen. The watch of
/// the latter reads along or, if it is stalled, only when all is over; answers how much it read.
async fn run(
    store: &Store,
    args: &WatchersArgs,
    (load, sight): (&Load, &Sight),
    is_stalled: bool,
) -> anyhow::Result<(Json, u64)> {
    let (much, much_sight) = (Load::new(1, MANY_READINGS), Sight::default());
    let (mut reading, stream) = (JoinSet::new(), watch(store, much.device(0)).await?);
    let mut reader = Some(follow(stream, much_sight.clone()));
    if !is_stalled {
        reader.take().map(|reader| reading.spawn(reader));
    }
    let (login, progress) = (args.login.login(), Arc::new(Progress::default()));
    let (published, much_published) = tokio::try_join!(
        publish(&login, load, plan(args.rate, args.duration), &progress),
        publish(&login, &much, plan(args.stalled_rate, args.duration), &progress),
    )?;
    let (all, much) = (published.messages(), much_published.messages());
    ledger::reaches("seen", all, || sight.messages()).await?;
    reader.take().map(|reader| reading.spawn(reader));
    ledger::reaches("read at last", much, || much_sight.messages()).await?;
    let (seen, read) = (sight.take(), much_sight.messages());
    ensure!(seen.messages == all, "the watches showed {} of {all} messages", seen.messages);
    ensure!(read == much, "the watch of one device showed {read} of {much} messages");
    Ok((seen.to_watch.summary(), read))
}

fn plan(rate: u32, duration: Duration) -> Plan {
    Plan {
        qos: 1,
        connections: 1,
        in_flight: 1000,
        rate: Some(rate),
        ahead: u64::MAX,
        duration,
        messages: u64::MAX,
    }
}
