//! Many watches at once, each of a device of its own: what each holds, how late each sees, and what one
//! that never reads costs the others.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value as Json, json};
use service_kit::duration;
use telemetry_proto::v1::{EventKind, WatchDeviceRequest, WatchDeviceResponse};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::Streaming;

use super::{
    Connect, ledger,
    load::{Load, as_u64},
    processes::{self, Named},
    publish::{Plan, Progress, publish},
    settings::LoginArgs,
    sight::{self, Sight},
};
use crate::{output::Output, store::Store};

/// Readings in a message to the watch that never reads: its window is full after the first.
const MANY_READINGS: usize = 200;
/// How long one watch may take to show the next event.
const PATIENCE: Duration = Duration::from_mins(1);

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
    /// Messages a second, each of 200 readings, to the watch that never reads.
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
        let alone = run(&args, &load, &sight).await?;
        let with_stalled = with_stalled(&connect()?, &args, &load, &sight).await?;
        anyhow::Ok((alone, with_stalled))
    };
    let (alone, (with_stalled, stalled)) = tokio::select! {
        measured = measured => measured?,
        ended = ends => return ended,
    };
    output.figures(vec![
        ("watchers", args.watchers.into()),
        ("rate", args.rate.into()),
        ("kb_per_watcher", growth),
        ("publish_to_watch_ms", alone),
        ("publish_to_watch_beside_stalled_ms", with_stalled),
        ("stalled", stalled),
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
        for mut stream in streams?? {
            let sight = sight.clone();
            watches.spawn(async move {
                while let Some(response) = stream.message().await? {
                    sight.add(&response.events);
                }
                anyhow::bail!("the store ended a watch")
            });
        }
    }
    Ok(watches)
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

/// Publishes to all devices, and answers how late it was seen.
async fn run(args: &WatchersArgs, load: &Load, sight: &Sight) -> anyhow::Result<Json> {
    let plan = plan(args.rate, args.duration);
    let published =
        publish(&args.login.login(), load, plan, &Arc::new(Progress::default())).await?;
    ledger::reaches("seen", published.messages(), || sight.messages()).await?;
    let seen = sight.take();
    let all = published.messages();
    ensure!(seen.messages == all, "the watches showed {} of {all} messages", seen.messages);
    Ok(seen.to_watch.summary())
}

/// The same beside one that does not read what is published to it; that one reads it at last.
async fn with_stalled(
    store: &Store,
    args: &WatchersArgs,
    load: &Load,
    sight: &Sight,
) -> anyhow::Result<(Json, Json)> {
    let much = Load::new(1, MANY_READINGS);
    let mut stalled = watch(store, much.device(0)).await?;
    let login = args.login.login();
    let progress = Arc::new(Progress::default());
    let plan = Plan { connections: 1, ..plan(args.stalled_rate, args.duration) };
    let (seen, published) =
        tokio::try_join!(run(args, load, sight), publish(&login, &much, plan, &progress))?;
    let (messages, mut read) = (published.messages(), 0);
    while read < messages {
        let response = timeout(PATIENCE, stalled.message()).await;
        let response = response.with_context(|| format!("the stalled watch shows {read}"))??;
        read += as_u64(response.context("the stalled watch was ended")?.events.len());
    }
    ensure!(read == messages, "the stalled watch showed {read} of {messages} messages");
    Ok((seen, json!({"messages": messages, "read_at_last": read})))
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
