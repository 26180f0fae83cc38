//! Watch: a watcher's updates as a response stream.

use std::sync::Arc;

use futures::{StreamExt, stream, stream::BoxStream};
use service_kit::lifecycle::Lifecycle;
use telemetry_model::{Cursor, DeviceId};
use telemetry_proto::v1::{
    WatchDeviceRequest, WatchDeviceResponse, watch_service_server::WatchService,
};
use tonic::{Request, Response, Status};

use super::access::Devices;
use crate::{
    error::{Error, Result},
    hub::Hub,
    storage::Storage,
    watcher::{Start, Update, Watcher},
};

/// The Watch service.
#[derive(Debug)]
pub(super) struct Watch {
    storage: Arc<dyn Storage>,
    hub: Hub,
    lifecycle: Lifecycle,
}

impl Watch {
    pub(super) fn new(storage: Arc<dyn Storage>, hub: Hub, lifecycle: Lifecycle) -> Self {
        Self { storage, hub, lifecycle }
    }
}

#[tonic::async_trait]
impl WatchService for Watch {
    type WatchDeviceStream = BoxStream<'static, Result<WatchDeviceResponse, Status>>;

    async fn watch_device(
        &self,
        request: Request<WatchDeviceRequest>,
    ) -> Result<Response<Self::WatchDeviceStream>, Status> {
        let devices = Devices::of(&request);
        let (device, start) = parse(&request.into_inner())?;
        devices.check(&device)?;
        let storage = Arc::clone(&self.storage);
        let watcher = Watcher::open(storage, &self.hub, device, start).await?;
        // The client reads at its own pace: the next update is made when this one has been taken.
        let state = Some((watcher, self.lifecycle.clone()));
        let updates = stream::unfold(state, |state| async {
            let (mut watcher, lifecycle) = state?;
            let update = tokio::select! {
                update = watcher.next() => update,
                () = lifecycle.stopping() => Err(Error::Stopping),
            };
            match update {
                Ok(update) => Some((Ok(update.into()), Some((watcher, lifecycle)))),
                Err(error) => Some((Err(Status::from(error)), None)),
            }
        });
        Ok(Response::new(updates.boxed()))
    }
}

fn parse(request: &WatchDeviceRequest) -> Result<(DeviceId, Start)> {
    let device = DeviceId::parse(&request.device_id)?;
    let start = match request.after_cursor.as_str() {
        "" => Start::Now,
        "0" => Start::Oldest,
        text => Start::After(Cursor::parse(text, device.partition())?),
    };
    Ok((device, start))
}

impl From<Update> for WatchDeviceResponse {
    fn from(update: Update) -> Self {
        Self {
            cursor: update.cursor.to_string(),
            events: update.events.into_iter().map(Into::into).collect(),
            caught_up: update.caught_up,
        }
    }
}
