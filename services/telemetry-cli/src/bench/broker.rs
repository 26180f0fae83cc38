//! The broker alone: the same messages, to one plain subscriber that acknowledges them at once.

use std::sync::{Arc, atomic::Ordering};

use clap::Args;
use tokio::{io::AsyncWriteExt, task::JoinSet, time::Instant};

use super::{
    ledger,
    mqtt::{self, Heard, Login},
    processes::{self, Named, as_f64},
    publish::{Progress, publish},
    settings::{LoadArgs, LoginArgs},
};
use crate::output::Output;

/// How many bytes of acknowledgements wait for more while there is more to read.
const ACKNOWLEDGEMENTS_BYTES: usize = 1024;

#[derive(Args, Clone, Debug)]
pub(crate) struct BrokerArgs {
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// User name at the broker with the right to read [default: the publisher's].
    #[arg(long)]
    reader: Option<String>,
    /// A process of this machine whose cost to print; may be given several times.
    #[arg(long = "pid", value_name = "NAME=PID")]
    processes: Vec<Named>,
}

pub(crate) async fn broker(args: BrokerArgs, output: &mut Output<'_>) -> anyhow::Result<()> {
    let (load, plan) = args.load.check()?;
    let login = args.login.login();
    let reader = Login {
        credentials: login
            .credentials
            .clone()
            .map(|(username, password)| (args.reader.clone().unwrap_or(username), password)),
        ..login.clone()
    };
    let progress = Arc::new(Progress::default());
    let mut subscribers = JoinSet::new();
    let client_id = format!("{}reader", load.prefix);
    subscribers.spawn(subscriber(&reader, &client_id, progress.clone()).await?);
    let usages = processes::usages(&args.processes)?;
    let began = Instant::now();
    let passed = async {
        let published = publish(&login, &load, plan, &progress).await?;
        let all = if plan.qos == 0 { 0 } else { published.messages() };
        ledger::reaches("delivered", all, || progress.settled.load(Ordering::Relaxed)).await?;
        anyhow::Ok((published, began.elapsed().as_secs_f64()))
    };
    let (published, took_s) = tokio::select! {
        passed = passed => passed?,
        Some(failed) = subscribers.join_next() => return failed?,
    };
    output.figures(vec![
        ("rate", plan.rate.into()),
        ("messages", published.messages().into()),
        ("seconds", took_s.into()),
        ("messages_per_s", (as_f64(published.messages()) / took_s).into()),
        ("publish_to_puback_ms", published.to_puback.clone().summary()),
        ("processes", processes::costs(&args.processes, &usages, published.messages())?),
    ])
}

/// Subscribes; then acknowledges and counts, until it is dropped.
async fn subscriber(
    login: &Login,
    client_id: &str,
    progress: Arc<Progress>,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let (mut listener, mut write) = mqtt::connect(login, client_id).await?;
    listener.subscribe(&mut write, "devices/+/telemetry").await?;
    Ok(async move {
        let mut packets = Vec::new();
        loop {
            if let Heard::Message(id) = listener.hear().await? {
                progress.settled.fetch_add(1, Ordering::Relaxed);
                if let Some(id) = id {
                    mqtt::put_puback(&mut packets, id);
                }
            }
            if !listener.has_more() || packets.len() >= ACKNOWLEDGEMENTS_BYTES {
                write.write_all(&packets).await?;
                packets.clear();
            }
        }
    })
}
