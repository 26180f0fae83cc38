//! Device to database: what broker, bridge and store take, how late it is seen, and what it costs.

use std::sync::Arc;

use anyhow::ensure;
use clap::Args;
use serde_json::{Value as Json, json};
use telemetry_proto::v1::Ledger;
use tokio::{task::JoinSet, time::Instant};

use super::{
    audit::{self, Verdict},
    ledger,
    load::Load,
    now_us,
    processes::{self, Named, as_f64},
    publish::{Plan, Progress, Published, publish},
    settings::{LoadArgs, LoginArgs},
    sight::{self, Seen, Sight},
};
use crate::{
    output::{Output, Row},
    store::Store,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Watch no device meanwhile: what a watch of all of them costs, others need not pay.
    #[arg(long)]
    unwatched: bool,
    /// A process of this machine whose cost to print, such as store=1234; may be given several times.
    #[arg(long = "pid", value_name = "NAME=PID")]
    processes: Vec<Named>,
}

/// What a run was.
struct Run {
    plan: Plan,
    published: Published,
    took_s: f64,
    seen: Seen,
    costs: Json,
    ledger: [Ledger; 2],
    verdict: Verdict,
}

/// Publishes, waits until all is stored and seen, prints the figures, and fails if anything is not as
/// it was acknowledged.
pub(crate) async fn ingest(
    store: &Store,
    args: IngestArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let (load, plan) = args.load.check()?;
    let run = measure(store, &args, &load, plan).await?;
    output.figures(run.figures())?;
    run.check(&load, args.unwatched)
}

async fn measure(store: &Store, args: &IngestArgs, load: &Load, plan: Plan) -> anyhow::Result<Run> {
    let (progress, sight) = (Arc::new(Progress::default()), Sight::default());
    let mut watches = JoinSet::new();
    if !args.unwatched {
        watches.spawn(sight::watch(store, &load.prefix, sight.clone()).await?);
    }
    let before = ledger::read(store).await?;
    let usages = processes::usages(&args.processes)?;
    let (began, began_us) = (Instant::now(), now_us());
    let stored = async {
        let published = publish(&args.login.login(), load, plan, &progress).await?;
        let settled = || progress.settled.load(std::sync::atomic::Ordering::Relaxed);
        // A message of QoS 0 may never come.
        let all = if plan.qos == 0 { 0 } else { published.messages() };
        ledger::reaches("stored", all, settled).await?;
        anyhow::Ok((published, began.elapsed().as_secs_f64()))
    };
    let (published, took_s) = tokio::select! {
        stored = stored => stored?,
        failed = ledger::follow(store, &before, &progress) => return Err(ended(failed)),
        Some(failed) = watches.join_next() => return Err(ended(failed?)),
    };
    let costs = processes::costs(&args.processes, &usages, published.messages())?;
    if !args.unwatched && plan.qos == 1 {
        ledger::reaches("seen", published.messages(), || sight.messages()).await?;
    }
    let ledger = [before, ledger::read(store).await?];
    let verdict = audit::audit(store, load, &published.said, began_us).await?;
    Ok(Run { plan, published, took_s, seen: sight.take(), costs, ledger, verdict })
}

/// Why something that has no end of its own has ended.
fn ended(result: anyhow::Result<()>) -> anyhow::Error {
    result.err().unwrap_or_else(|| anyhow::anyhow!("it ended"))
}

impl Run {
    fn figures(&self) -> Row {
        let messages = self.published.messages();
        let [before, after] = &self.ledger;
        vec![
            ("rate", self.plan.rate.into()),
            ("messages", messages.into()),
            ("seconds", self.took_s.into()),
            ("messages_per_s", (as_f64(messages) / self.took_s).into()),
            ("readings_per_s", (as_f64(self.verdict.expected) / self.took_s).into()),
            ("publish_to_puback_ms", self.published.to_puback.clone().summary()),
            ("publish_to_bridge_ms", self.seen.to_bridge.clone().summary()),
            ("publish_to_watch_ms", self.seen.to_watch.clone().summary()),
            ("watched", self.seen.messages.into()),
            ("processes", self.costs.clone()),
            (
                "audit",
                json!({
                    "messages_stored": after.stored - before.stored,
                    "messages_duplicate": after.duplicate - before.duplicate,
                    "messages_quarantined": after.quarantined - before.quarantined,
                    "readings_expected": self.verdict.expected,
                    "readings_stored": self.verdict.stored,
                    "wrong_devices": self.verdict.wrong_devices,
                }),
            ),
        ]
    }

    fn check(&self, load: &Load, unwatched: bool) -> anyhow::Result<()> {
        if self.plan.qos == 0 {
            return Ok(());
        }
        let Verdict { expected, stored, wrong_devices } = self.verdict;
        ensure!(
            self.verdict.is_right(),
            "{expected} readings were acknowledged and {stored} are stored; of {wrong_devices} \
             devices ({}...) it is not as it should be",
            load.prefix
        );
        let Seen { messages, readings, .. } = self.seen;
        ensure!(
            unwatched || (messages == self.published.messages() && readings == expected),
            "the watch showed {messages} messages and {readings} readings"
        );
        Ok(())
    }
}
