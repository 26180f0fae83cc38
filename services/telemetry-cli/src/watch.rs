//! Following a device: what breaks is resumed by cursor, so that nothing is shown twice or left out.
#![expect(clippy::print_stderr, reason = "says on standard error what is not output")]

use std::time::Duration;

use clap::Args;
use telemetry_proto::v1::{Event, EventKind, WatchDeviceRequest};
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::{
    output::{self, Output},
    store::Store,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct WatchArgs {
    /// The device. It need not exist yet.
    device: String,
    /// Begin after this cursor; `0` for the oldest event still held. Left out: from now on.
    #[arg(long, default_value = "")]
    after: String,
}

pub(crate) async fn watch(
    store: &Store,
    args: WatchArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut cursor = args.after;
    let mut failures = 0;
    loop {
        let before = cursor.clone();
        let Some(status) = follow(store, &args.device, &mut cursor, output).await? else {
            return Ok(());
        };
        if is_final(status.code()) {
            return Err(store.explain(&status));
        }
        failures = if cursor == before { failures + 1 } else { 0 };
        let wait = Duration::from_millis(250 << failures.min(6)).mul_f64(1.0 + fastrand::f64());
        eprintln!("{:#}; resuming in {:.1} s", store.explain(&status), wait.as_secs_f64());
        tokio::select! {
            () = sleep(wait) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Shows events until the stream breaks (answers why) or Ctrl-C.
async fn follow(
    store: &Store,
    device: &str,
    cursor: &mut String,
    output: &mut Output<'_>,
) -> anyhow::Result<Option<Status>> {
    let request = WatchDeviceRequest { device_id: device.to_owned(), after_cursor: cursor.clone() };
    let mut stream = match store.watch().watch_device(request).await {
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
                    show(event, output)?;
                }
                *cursor = response.cursor;
            }
            Ok(None) => return Ok(Some(Status::ok("the store ended the watch"))),
            Err(status) => return Ok(Some(status)),
        }
    }
}

fn show(event: Event, output: &mut Output<'_>) -> anyhow::Result<()> {
    if let Some(change) = &event.presence {
        return output.line(vec![
            ("time", output::time(change.since)),
            ("metric", "presence".into()),
            ("value", output::presence(change.state()).into()),
            ("time_source", "".into()),
        ]);
    }
    if event.kind() == EventKind::Heartbeat {
        let said = event.readings.into_iter().map(|r| (r.metric, output::value(r.value)));
        let said: serde_json::Map<_, _> = said.collect();
        return output.line(vec![
            ("time", output::time(event.time)),
            ("metric", "heartbeat".into()),
            ("value", said.into()),
            ("time_source", "".into()),
        ]);
    }
    event.readings.into_iter().try_for_each(|reading| output.line(output::reading(reading)))
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
