//! The commands that ask once.
#![expect(clippy::print_stderr, reason = "says on standard error what is not output")]

use clap::{Args, ValueEnum};
use telemetry_model::Timestamp;
use telemetry_proto::v1;

use crate::{
    output::{self, Output, Row},
    store::Store,
    times::When,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct DevicesArgs {
    /// Only those with this presence.
    #[arg(long)]
    presence: Option<Presence>,
    /// Only those whose ids begin so.
    #[arg(long, default_value = "")]
    prefix: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Presence {
    Online,
    Offline,
    Unknown,
}

impl From<Presence> for v1::Presence {
    fn from(presence: Presence) -> Self {
        match presence {
            Presence::Online => Self::Online,
            Presence::Offline => Self::Offline,
            Presence::Unknown => Self::Unknown,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ReadingsArgs {
    /// The device.
    device: String,
    /// Only this metric; may be given several times.
    #[arg(long)]
    metric: Vec<String>,
    /// From when: a time, or how long ago.
    #[arg(long, default_value = "24h")]
    since: When,
    /// Until when: a time, how long ago, or now.
    #[arg(long, default_value = "now")]
    until: When,
    /// The newest first.
    #[arg(long)]
    newest: bool,
    /// How many at most.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

pub(crate) async fn devices(
    store: &Store,
    args: DevicesArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut request = v1::ListDevicesRequest {
        page_size: 1000,
        presence: args.presence.map_or(v1::Presence::Unspecified, Into::into).into(),
        id_prefix: args.prefix,
        page_token: String::new(),
    };
    loop {
        let page = store.query().list_devices(request.clone()).await;
        let page = page.map_err(|status| store.explain(&status))?.into_inner();
        output.rows(page.devices.into_iter().map(device).collect())?;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
}

fn device(device: v1::Device) -> Row {
    let presence = output::presence(device.presence());
    vec![
        ("device", device.device_id.into()),
        ("presence", presence.into()),
        ("since", output::time(device.presence_since)),
        ("first_seen", output::time(device.first_seen)),
        ("last_seen", output::time(device.last_seen)),
        ("last_heartbeat", output::time(device.last_heartbeat)),
        ("clock_ahead_s", device.clock_skew.as_ref().map(seconds).into()),
    ]
}

fn seconds(duration: &prost_types::Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "people read it")]
    let seconds = duration.seconds as f64;
    seconds + f64::from(duration.nanos) / 1e9
}

pub(crate) async fn metrics(
    store: &Store,
    device: Option<String>,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let request = v1::ListMetricsRequest { device_id: device.unwrap_or_default() };
    let answer = store.query().list_metrics(request).await;
    let metrics = answer.map_err(|status| store.explain(&status))?.into_inner().metrics;
    output.rows(metrics.into_iter().map(|metric| vec![("metric", metric.metric.into())]).collect())
}

pub(crate) async fn latest(
    store: &Store,
    device: String,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let request = v1::GetLatestReadingsRequest { device_id: device, metrics: Vec::new() };
    let answer = store.query().get_latest_readings(request).await;
    let readings = answer.map_err(|status| store.explain(&status))?.into_inner().readings;
    output.rows(readings.into_iter().map(output::reading).collect())
}

pub(crate) async fn readings(
    store: &Store,
    args: ReadingsArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let order = if args.newest { v1::Order::NewestFirst } else { v1::Order::OldestFirst };
    let mut request = v1::ListReadingsRequest {
        device_id: args.device,
        metrics: args.metric,
        start_time: Some(wire(args.since)),
        end_time: Some(wire(args.until)),
        order: order.into(),
        page_size: 0,
        page_token: String::new(),
    };
    let mut left = args.limit;
    while left > 0 {
        request.page_size = i32::try_from(left.min(10_000)).unwrap_or(10_000);
        let answer = store.query().list_readings(request.clone()).await;
        let page = answer.map_err(|status| store.explain(&status))?.into_inner();
        left -= page.readings.len().min(left);
        output.rows(page.readings.into_iter().map(output::reading).collect())?;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
    let (limit, end) = (args.limit, if args.newest { "newest" } else { "oldest" });
    eprintln!("there are more than these {limit} {end} readings: see --limit, --newest, --since");
    Ok(())
}

fn wire(when: When) -> prost_types::Timestamp {
    telemetry_proto::wire_timestamp(Timestamp::from(when))
}
