//! Watch: a watcher's updates as a response stream.

use std::{collections::BTreeSet, sync::Arc};

use futures::{Stream, StreamExt, stream, stream::BoxStream};
use service_kit::trace;
use telemetry_model::{Cursor, DeviceId, Invalid, Positions, StoredEvent, TraceParent};
use telemetry_proto::v1::{
    self, WatchDeviceRequest, WatchDeviceResponse, WatchDevicesRequest, WatchDevicesResponse,
    watch_service_server::WatchService,
};
use tonic::{Request, Response, Status};

use super::{access::Devices, query::metric_names, stream_end::StreamEnd};
use crate::{
    error::Result,
    watcher::{self, DeviceState, Filter, Selection, Sources, Start, Update, Watcher},
};

/// The most devices that a request may name.
const MAX_DEVICES: usize = 1000;

/// The Watch service.
#[derive(Debug)]
pub(super) struct Watch {
    sources: Arc<Sources>,
    end: StreamEnd,
}

impl Watch {
    pub(super) fn new(sources: Sources, end: StreamEnd) -> Self {
        Self { sources: Arc::new(sources), end }
    }

    /// Updates until the stream ends. The client reads at its own pace: the next one is made when
    /// this one has been taken.
    async fn updates(
        &self,
        request: watcher::Request,
    ) -> Result<impl Stream<Item = Result<Update, Status>> + use<>> {
        let watcher = Watcher::open(Arc::clone(&self.sources), request).await?;
        let state = Some((watcher, self.end.of_new_stream()));
        Ok(stream::unfold(state, |state| async {
            let (mut watcher, end) = state?;
            let update = tokio::select! {
                biased;
                reason = end.reached() => Err(reason),
                update = watcher.next() => update,
            };
            match update {
                Ok(update) => Some((Ok(update), Some((watcher, end)))),
                Err(error) => Some((Err(Status::from(error)), None)),
            }
        }))
    }
}

#[tonic::async_trait]
impl WatchService for Watch {
    type WatchDeviceStream = BoxStream<'static, Result<WatchDeviceResponse, Status>>;
    type WatchDevicesStream = BoxStream<'static, Result<WatchDevicesResponse, Status>>;

    async fn watch_device(
        &self,
        request: Request<WatchDeviceRequest>,
    ) -> Result<Response<Self::WatchDeviceStream>, Status> {
        let devices = Devices::of(&request);
        let updates = self.updates(one(&request.into_inner(), &devices)?).await?;
        Ok(Response::new(updates.map(|update| update.map(Into::into)).boxed()))
    }

    async fn watch_devices(
        &self,
        request: Request<WatchDevicesRequest>,
    ) -> Result<Response<Self::WatchDevicesStream>, Status> {
        let devices = Devices::of(&request);
        let updates = self.updates(many(&request.into_inner(), &devices)?).await?;
        Ok(Response::new(updates.map(|update| update.map(Into::into)).boxed()))
    }
}

fn one(request: &WatchDeviceRequest, own: &Devices) -> Result<watcher::Request> {
    let device = DeviceId::parse(&request.device_id)?;
    own.check(&device)?;
    let parse = |text: &str| {
        let Cursor { partition, position } = Cursor::parse(text, device.partition())?;
        Ok([(partition, position)].into_iter().collect())
    };
    Ok(watcher::Request {
        start: start(&request.after_cursor, request.from_time, parse)?,
        filter: filter(&request.metrics, &request.kinds)?,
        with_state: request.include_state,
        selection: Selection::one(device),
    })
}

fn many(request: &WatchDevicesRequest, own: &Devices) -> Result<watcher::Request> {
    Ok(watcher::Request {
        selection: selection(&request.device_ids, &request.device_id_prefix, own)?,
        start: start(&request.after_cursor, request.from_time, Positions::parse)?,
        filter: filter(&request.metrics, &request.kinds)?,
        with_state: request.include_state,
    })
}

fn selection(ids: &[String], prefix: &str, own: &Devices) -> Result<Selection> {
    if prefix.len() > DeviceId::MAX_BYTES {
        let reason = format!("must be at most {} bytes", DeviceId::MAX_BYTES);
        return Err(Invalid::new("device_id_prefix", reason).into());
    }
    if ids.is_empty() {
        return Ok(Selection::prefixes(own.within(prefix)?));
    }
    if !prefix.is_empty() {
        return Err(Invalid::new("device_id_prefix", "must not come with device_ids").into());
    }
    if ids.len() > MAX_DEVICES {
        let reason = format!("must be at most {MAX_DEVICES}, are {}", ids.len());
        return Err(Invalid::new("device_ids", reason).into());
    }
    let parse = |(n, id): (usize, &String)| {
        DeviceId::parse(id).map_err(|e| Invalid::new(format!("device_ids[{n}]"), e.reason))
    };
    let devices: Result<BTreeSet<_>, _> = ids.iter().enumerate().map(parse).collect();
    let devices = devices?;
    devices.iter().try_for_each(|device| own.check(device))?;
    Ok(Selection::some(devices))
}

fn start(
    cursor: &str,
    time: Option<prost_types::Timestamp>,
    parse: impl FnOnce(&str) -> Result<Positions, Invalid>,
) -> Result<Start> {
    match (cursor, time) {
        ("", None) => Ok(Start::Now),
        ("", Some(time)) => Ok(Start::At(telemetry_proto::timestamp("from_time", time)?)),
        (_, Some(_)) => Err(Invalid::new("from_time", "must not come with after_cursor").into()),
        ("0", None) => Ok(Start::Oldest),
        (text, None) => Ok(Start::After(parse(text)?)),
    }
}

fn filter(metrics: &[String], kinds: &[i32]) -> Result<Filter> {
    Ok(Filter {
        metrics: metric_names(metrics)?.into_iter().collect(),
        kinds: telemetry_proto::event_kinds("kinds", kinds)?.into_iter().collect(),
    })
}

fn events(update: &Update) -> Vec<v1::Event> {
    update.events.iter().map(|event| delivered(event)).collect()
}

/// An event as it goes out; if it is traced, with the span of that.
fn delivered(event: &StoredEvent) -> v1::Event {
    let mut wire = v1::Event::from(event.clone());
    let parent = event.trace.as_ref().map(TraceParent::as_str);
    if let Some(span) = trace::follow("watch deliver", trace::Kind::Producer, parent) {
        wire.trace_parent = span.context();
    }
    wire
}

impl From<Update> for WatchDeviceResponse {
    fn from(update: Update) -> Self {
        Self {
            events: events(&update),
            cursor: update.cursor,
            caught_up: update.caught_up,
            state: update.states.into_iter().next().map(Into::into),
        }
    }
}

impl From<Update> for WatchDevicesResponse {
    fn from(update: Update) -> Self {
        Self {
            events: events(&update),
            cursor: update.cursor,
            caught_up: update.caught_up,
            states: update.states.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<DeviceState> for v1::DeviceState {
    fn from(DeviceState { device, latest }: DeviceState) -> Self {
        Self { device: Some(device.into()), latest: latest.into_iter().map(Into::into).collect() }
    }
}
