//! Following devices: what breaks is resumed by cursor, so that nothing is shown twice or left out.
#![expect(clippy::print_stderr, reason = "says on standard error what is not output")]

use std::time::Duration;

use clap::Args;
use telemetry_model::Timestamp;
use telemetry_proto::{
    v1::{Event, EventKind, WatchDevicesRequest},
    wire_timestamp,
};
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::{
    output::{self, Output},
    store::Store,
    times::When,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct WatchArgs {
    /// The devices. They need not exist yet.
    #[arg(required_unless_present_any = ["prefix", "all"])]
    devices: Vec<String>,
    /// All devices whose id begins with this.
    #[arg(long, conflicts_with = "devices")]
    prefix: Option<String>,
    /// All devices.
    #[arg(long, conflicts_with_all = ["devices", "prefix"])]
    all: bool,
    /// Only readings of this metric; may be given several times.
    #[arg(long = "metric")]
    metrics: Vec<String>,
    /// Only events of this kind, such as telemetry or heartbeat; may be given several times.
    #[arg(long = "kind", value_parser = kind)]
    kinds: Vec<EventKind>,
    /// Begin with what was received at this time or this long ago (`2026-01-07T12:00:00Z`, `1h`).
    /// Left out: from now on.
    #[arg(long)]
    from: Option<When>,
    /// Begin after this cursor; `0` for the oldest event still held.
    #[arg(long, default_value = "", conflicts_with = "from")]
    after: String,
}

fn kind(name: &str) -> Result<EventKind, String> {
    let full = format!("EVENT_KIND_{}", name.to_uppercase());
    let kind = EventKind::from_str_name(&full).filter(|kind| *kind != EventKind::Unspecified);
    kind.ok_or_else(|| "must be a kind of event, such as telemetry or heartbeat".to_owned())
}

impl WatchArgs {
    fn request(self) -> WatchDevicesRequest {
        WatchDevicesRequest {
            device_ids: self.devices,
            device_id_prefix: self.prefix.unwrap_or_default(),
            after_cursor: self.after,
            from_time: self.from.map(|from| wire_timestamp(Timestamp::from(from))),
            metrics: self.metrics,
            kinds: self.kinds.into_iter().map(Into::into).collect(),
            include_state: false,
        }
    }
}

pub(crate) async fn watch(
    store: &Store,
    args: WatchArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut request = args.request();
    let mut failures = 0;
    loop {
        let before = request.after_cursor.clone();
        let Some(status) = follow(store, &mut request, output).await? else {
            return Ok(());
        };
        if is_final(status.code()) {
            return Err(store.explain(&status));
        }
        failures = if request.after_cursor == before { failures + 1 } else { 0 };
        let wait = Duration::from_millis(250 << failures.min(6)).mul_f64(1.0 + fastrand::f64());
        eprintln!("{:#}; resuming in {:.1} s", store.explain(&status), wait.as_secs_f64());
        tokio::select! {
            () = sleep(wait) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Shows events and moves on behind them, until the stream ends, and answers how; nothing if whoever
/// reads them has had enough.
async fn follow(
    store: &Store,
    request: &mut WatchDevicesRequest,
    output: &mut Output<'_>,
) -> anyhow::Result<Option<Status>> {
    let is_one = request.device_ids.len() == 1;
    let mut stream = match store.watch().watch_devices(request.clone()).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Some(status)),
    };
    loop {
        let response = tokio::select! {
            response = stream.message() => response,
            _ = tokio::signal::ctrl_c() => return Ok(None),
        };
        match response {
            Ok(Some(response)) => {
                for event in response.events {
                    show(event, is_one, output)?;
                }
                (request.after_cursor, request.from_time) = (response.cursor, None);
            }
            Ok(None) => return Ok(Some(Status::ok("the store ended the watch"))),
            Err(status) => return Ok(Some(status)),
        }
    }
}

/// Prints a line for each reading; which device it is of, unless there is only one.
fn show(event: Event, is_one: bool, output: &mut Output<'_>) -> anyhow::Result<()> {
    let device = (!is_one).then(|| ("device", event.device_id.as_str().into()));
    if let Some(change) = &event.presence {
        let row = [
            ("time", output::time(change.since)),
            ("metric", "presence".into()),
            ("value", output::presence(change.state()).into()),
            ("time_source", "".into()),
        ];
        return output.line(device.into_iter().chain(row).collect());
    }
    if event.kind() == EventKind::Telemetry {
        return event.readings.into_iter().try_for_each(|reading| {
            output.line(device.clone().into_iter().chain(output::reading(reading)).collect())
        });
    }
    let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_lowercase();
    let said = event.readings.into_iter().map(|r| (r.metric, output::value(r.value)));
    let said: serde_json::Map<_, _> = said.collect();
    let row = [
        ("time", output::time(event.time)),
        ("metric", kind.into()),
        ("value", said.into()),
        ("time_source", "".into()),
    ];
    output.line(device.into_iter().chain(row).collect())
}

/// Whether trying again cannot help.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
    )
}
