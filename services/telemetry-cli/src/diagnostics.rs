//! The commands that account for messages, and that list and replay those in the quarantine.
#![expect(clippy::print_stderr, reason = "says on standard error what is not output")]

use clap::{Args, Subcommand};
use telemetry_proto::v1::{self, EventKind, ReasonCount};

use crate::{
    output::{self, Output, Row},
    store::Store,
};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List messages, the newest first.
    List(ListArgs),
    /// Decode messages again, all unless told which, and store what can be understood now.
    Replay(ReplayArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// How many at most.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    which: Which,
    /// Only these messages; may be given several times.
    #[arg(long)]
    id: Vec<i64>,
    /// Only say what would become of them.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
struct Which {
    /// Only messages of this device.
    #[arg(long)]
    device: Option<String>,
    /// Only messages with this reason, such as `not_json`.
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn ledger(store: &Store, output: &mut Output<'_>) -> anyhow::Result<()> {
    let answer = store.diagnostics().get_ledger(v1::GetLedgerRequest {}).await;
    let answer = answer.map_err(|status| store.explain(&status))?.into_inner();
    let mut rows = vec![account("all", "", false, &answer.total.unwrap_or_default())];
    for sender in &answer.senders {
        let ledger = sender.ledger.clone().unwrap_or_default();
        rows.push(account(&sender.process_id, &sender.client_id, sender.ended, &ledger));
    }
    output.rows(rows)?;
    for sender in answer.senders {
        for v1::Hint { finding, fix } in sender.hints {
            eprintln!("{}: {finding}: {fix}", sender.client_id);
        }
    }
    Ok(())
}

fn account(process: &str, client: &str, ended: bool, ledger: &v1::Ledger) -> Row {
    vec![
        ("process", process.into()),
        ("client", client.into()),
        ("ended", ended.into()),
        ("received", ledger.received.into()),
        ("stored", ledger.stored.into()),
        ("duplicate", ledger.duplicate.into()),
        ("quarantined", ledger.quarantined.into()),
        ("dropped", counts(&ledger.dropped).into()),
        ("in_flight", ledger.in_flight.into()),
    ]
}

fn counts(counts: &[ReasonCount]) -> String {
    let counts: Vec<_> = counts.iter().map(|d| format!("{} {}", d.count, d.reason)).collect();
    if counts.is_empty() { "0".to_owned() } else { counts.join(", ") }
}

pub(crate) async fn explain(
    store: &Store,
    device: String,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let request = v1::ExplainDeviceRequest { device_id: device };
    let answer = store.diagnostics().explain_device(request).await;
    let answer = answer.map_err(|status| store.explain(&status))?.into_inner();
    output.rows(answer.findings.into_iter().map(finding).collect())
}

fn finding(finding: v1::Finding) -> Row {
    let severity = finding.severity().as_str_name().trim_start_matches("SEVERITY_").to_lowercase();
    vec![
        ("severity", severity.into()),
        ("finding", finding.text.into()),
        ("fix", finding.fix.into()),
    ]
}

pub(crate) async fn quarantine(
    store: &Store,
    command: QuarantineCommand,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    match command {
        QuarantineCommand::List(args) => list(store, args, output).await,
        QuarantineCommand::Replay(args) => replay(store, args, output).await,
    }
}

async fn list(store: &Store, args: ListArgs, output: &mut Output<'_>) -> anyhow::Result<()> {
    let ListArgs { which: Which { device, reason }, limit } = args;
    let (device_id, reason) = (device.unwrap_or_default(), reason.unwrap_or_default());
    let mut request = v1::ListQuarantineRequest { device_id, reason, ..Default::default() };
    let mut left = limit;
    while left > 0 {
        request.page_size = i32::try_from(left.min(1000)).unwrap_or(1000);
        let answer = store.diagnostics().list_quarantine(request.clone()).await;
        let page = answer.map_err(|status| store.explain(&status))?.into_inner();
        left -= page.messages.len().min(left);
        output.rows(page.messages.into_iter().map(message).collect())?;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
    eprintln!("there are more than these {limit} messages: see --limit");
    Ok(())
}

fn message(message: v1::QuarantinedMessage) -> Row {
    let payload = match message.payload_text.as_str() {
        "" => format!("({} bytes)", message.payload.len()),
        text => text.to_owned(),
    };
    let kind = match message.kind() {
        EventKind::Unspecified => "",
        EventKind::Telemetry => "telemetry",
        EventKind::Heartbeat => "heartbeat",
        EventKind::Presence => "status",
    };
    vec![
        ("id", message.id.into()),
        ("received", output::time(message.received)),
        ("topic", message.topic.into()),
        ("kind", kind.into()),
        ("reason", message.reason.into()),
        ("field", message.field.into()),
        ("detail", message.detail.into()),
        ("partial", message.partial.into()),
        ("payload", payload.into()),
    ]
}

async fn replay(store: &Store, args: ReplayArgs, output: &mut Output<'_>) -> anyhow::Result<()> {
    let ReplayArgs { which: Which { device, reason }, id, dry_run } = args;
    let (device_id, reason) = (device.unwrap_or_default(), reason.unwrap_or_default());
    let mut request = v1::ReplayQuarantineRequest {
        ids: id,
        device_id,
        reason,
        dry_run,
        page_token: String::new(),
    };
    loop {
        let answer = store.diagnostics().replay_quarantine(request.clone()).await;
        let answer = answer.map_err(|status| store.explain(&status))?.into_inner();
        output.rows(vec![vec![
            ("examined", answer.examined.into()),
            ("replayed", answer.replayed.into()),
            ("still_refused", answer.still_refused.into()),
            ("readings_stored", answer.readings_stored.into()),
            ("reasons", counts(&answer.reasons).into()),
        ]])?;
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
}
