//! Query: each call is converted, asked of storage, and converted back.

use std::sync::Arc;

use futures::stream::BoxStream;
use service_kit::lifecycle::Lifecycle;
use telemetry_model::{
    DeviceId, DeviceQuery, Invalid, MetricName, Order, ReadingPosition, ReadingQuery,
};
use telemetry_proto::v1::{self, query_service_server::QueryService};
use tonic::{Request, Response, Status};

use super::{access::Devices, export, page_token, summary};
use crate::{
    error::{Error, Result},
    storage::Storage,
};

/// The most metrics a request may name.
const MAX_METRICS: usize = 1000;

/// The Query service.
#[derive(Debug)]
pub(super) struct Query {
    storage: Arc<dyn Storage>,
    lifecycle: Lifecycle,
}

impl Query {
    pub(super) fn new(storage: Arc<dyn Storage>, lifecycle: Lifecycle) -> Self {
        Self { storage, lifecycle }
    }

    /// Answers what was found; if nothing was, the device must at least be known.
    async fn found<T>(&self, device: &DeviceId, found: Vec<T>) -> Result<Vec<T>> {
        if found.is_empty() && self.storage.device(device).await?.is_none() {
            return Err(Error::UnknownDevice(device.clone()));
        }
        Ok(found)
    }

    async fn page(&self, request: v1::ListReadingsRequest) -> Result<v1::ListReadingsResponse> {
        let (query, page_size) = reading_query(&request)?;
        let mut readings = self.storage.readings(&query).await?;
        let more = readings.len() > page_size;
        readings.truncate(page_size);
        let next_page_token = match readings.last() {
            Some(last) if more => {
                let (time, metric) = (last.time, last.metric.clone());
                page_token::encode(&query, &ReadingPosition { time, metric })
            }
            _ => String::new(),
        };
        let readings = self.found(&query.device, readings).await?;
        let readings = readings.into_iter().map(Into::into).collect();
        Ok(v1::ListReadingsResponse { readings, next_page_token })
    }
}

#[tonic::async_trait]
impl QueryService for Query {
    async fn get_device(
        &self,
        request: Request<v1::GetDeviceRequest>,
    ) -> Result<Response<v1::GetDeviceResponse>, Status> {
        let id = device_id(&request.get_ref().device_id)?;
        Devices::of(&request).check(&id)?;
        let device = self.storage.device(&id).await?.ok_or(Error::UnknownDevice(id))?;
        Ok(Response::new(v1::GetDeviceResponse { device: Some(device.into()) }))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let within = Devices::of(&request).prefixes();
        let request = request.into_inner();
        let page_size = page_size(request.page_size, 100, 1000)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(DeviceId::parse(token).map_err(|_| {
                let reason = "is not a page token: pass next_page_token of the previous page";
                Error::from(Invalid::new("page_token", reason))
            })?),
        };
        if request.id_prefix.len() > DeviceId::MAX_BYTES || request.id_prefix.contains('\0') {
            let most = DeviceId::MAX_BYTES;
            let reason = format!("must be at most {most} bytes, without NUL characters");
            return Err(Error::from(Invalid::new("id_prefix", reason)).into());
        }
        let presence = v1::Presence::try_from(request.presence).map_err(|_| {
            let reason = "must be PRESENCE_ONLINE, PRESENCE_OFFLINE or PRESENCE_UNKNOWN";
            Error::from(Invalid::new("presence", reason))
        })?;
        let query = DeviceQuery {
            after,
            id_prefix: request.id_prefix,
            within,
            presence: telemetry_proto::presence(presence),
            limit: page_size + 1,
        };
        let mut devices = self.storage.devices(&query).await?;
        let more = devices.len() > page_size;
        devices.truncate(page_size);
        let last = devices.last().filter(|_| more);
        let next_page_token = last.map(|last| last.id.as_str().to_owned()).unwrap_or_default();
        let devices = devices.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListDevicesResponse { devices, next_page_token }))
    }

    async fn list_metrics(
        &self,
        request: Request<v1::ListMetricsRequest>,
    ) -> Result<Response<v1::ListMetricsResponse>, Status> {
        let metrics = match request.get_ref().device_id.as_str() {
            "" => {
                Devices::of(&request).check_all()?;
                self.storage.metrics(None).await?
            }
            id => {
                let device = device_id(id)?;
                Devices::of(&request).check(&device)?;
                self.found(&device, self.storage.metrics(Some(&device)).await?).await?
            }
        };
        let metrics = metrics.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListMetricsResponse { metrics }))
    }

    async fn get_latest_readings(
        &self,
        request: Request<v1::GetLatestReadingsRequest>,
    ) -> Result<Response<v1::GetLatestReadingsResponse>, Status> {
        let device = device_id(&request.get_ref().device_id)?;
        Devices::of(&request).check(&device)?;
        let metrics = metric_names(&request.get_ref().metrics)?;
        let readings = self.storage.latest(&device, &metrics).await?;
        let readings = self.found(&device, readings).await?;
        let readings = readings.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::GetLatestReadingsResponse { readings }))
    }

    async fn list_readings(
        &self,
        request: Request<v1::ListReadingsRequest>,
    ) -> Result<Response<v1::ListReadingsResponse>, Status> {
        Devices::of(&request).check(&device_id(&request.get_ref().device_id)?)?;
        Ok(Response::new(self.page(request.into_inner()).await?))
    }

    async fn summarize_readings(
        &self,
        request: Request<v1::SummarizeReadingsRequest>,
    ) -> Result<Response<v1::SummarizeReadingsResponse>, Status> {
        let own = Devices::of(&request);
        Ok(Response::new(summary::summarize(&*self.storage, request.into_inner(), &own).await?))
    }

    type ExportReadingsStream = BoxStream<'static, Result<v1::ExportReadingsResponse, Status>>;

    async fn export_readings(
        &self,
        request: Request<v1::ExportReadingsRequest>,
    ) -> Result<Response<Self::ExportReadingsStream>, Status> {
        let own = Devices::of(&request);
        let (storage, lifecycle) = (Arc::clone(&self.storage), self.lifecycle.clone());
        Ok(Response::new(export::export(storage, lifecycle, request.into_inner(), own).await?))
    }
}

fn device_id(text: &str) -> Result<DeviceId> {
    Ok(DeviceId::parse(text)?)
}

pub(super) fn metric_names(texts: &[String]) -> Result<Vec<MetricName>> {
    if texts.len() > MAX_METRICS {
        let reason = format!("must be at most {MAX_METRICS}, are {}", texts.len());
        return Err(Invalid::new("metrics", reason).into());
    }
    let parse = |(n, text): (usize, &String)| {
        MetricName::parse(text).map_err(|e| Invalid::new(format!("metrics[{n}]"), e.reason).into())
    };
    texts.iter().enumerate().map(parse).collect()
}

/// Coerces a page size as AIP-158 has it: 0 is the default, too many is the most.
pub(super) fn page_size(size: i32, default: usize, most: usize) -> Result<usize> {
    match usize::try_from(size) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(most)),
        Err(_) => Err(Invalid::new("page_size", "must not be negative").into()),
    }
}

/// The query, which asks for one reading more than the page holds to see whether there are more.
fn reading_query(request: &v1::ListReadingsRequest) -> Result<(ReadingQuery, usize)> {
    let page_size = page_size(request.page_size, 1000, 10_000)?;
    let mut query = ReadingQuery {
        device: device_id(&request.device_id)?,
        metrics: metric_names(&request.metrics)?,
        range: telemetry_proto::time_range(request.start_time, request.end_time)?,
        order: order(request.order)?,
        after: None,
        limit: page_size + 1,
    };
    if !request.page_token.is_empty() {
        query.after = Some(page_token::decode(&request.page_token, &query)?);
    }
    Ok((query, page_size))
}

fn order(number: i32) -> Result<Order> {
    match v1::Order::try_from(number) {
        Ok(v1::Order::Unspecified | v1::Order::OldestFirst) => Ok(Order::OldestFirst),
        Ok(v1::Order::NewestFirst) => Ok(Order::NewestFirst),
        Err(_) => {
            let reason = format!("must be ORDER_OLDEST_FIRST or ORDER_NEWEST_FIRST, is {number}");
            Err(Invalid::new("order", reason).into())
        }
    }
}
