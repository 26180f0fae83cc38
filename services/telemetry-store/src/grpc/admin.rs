//! Administration: deletes devices.

use std::sync::Arc;

use telemetry_model::{Clock, DeviceId};
use telemetry_proto::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use super::access::Devices;
use crate::{
    error::Error,
    storage::{Deleted, Storage},
};

/// The Admin service.
#[derive(Debug)]
pub(super) struct Admin {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
}

impl Admin {
    pub(super) fn new(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>) -> Self {
        Self { storage, clock }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn delete_device(
        &self,
        request: Request<v1::DeleteDeviceRequest>,
    ) -> Result<Response<v1::DeleteDeviceResponse>, Status> {
        let id = DeviceId::parse(&request.get_ref().device_id).map_err(Error::from)?;
        let devices = Devices::of(&request);
        devices.check(&id)?;
        let who = devices.caller();
        let deleted = self.storage.delete_device(&id, who, self.clock.now()).await?;
        let Deleted { readings, events, quarantined } = deleted;
        tracing::info!(device = %id, who, readings, events, quarantined, "deleted a device");
        Ok(Response::new(v1::DeleteDeviceResponse { readings, events, quarantined }))
    }
}
