//! Exports: a request for one, and its chunks as a response stream.

use std::sync::Arc;

use futures::{StreamExt, stream, stream::BoxStream};
use service_kit::lifecycle::Lifecycle;
use telemetry_model::{Invalid, Selection};
use telemetry_proto::v1::{ExportReadingsRequest, ExportReadingsResponse};
use tonic::Status;

use super::{access::Devices, page_token, query::metric_names, summary};
use crate::{
    error::{Error, Result},
    history::export::{Chunk, Export, Position},
    storage::Storage,
};

/// The chunks of an export; the next one is read when the client has taken this one.
pub(super) async fn export(
    storage: Arc<dyn Storage>,
    lifecycle: Lifecycle,
    mut request: ExportReadingsRequest,
    own: Devices,
) -> Result<BoxStream<'static, Result<ExportReadingsResponse, Status>>> {
    let token = std::mem::take(&mut request.page_token);
    let devices = summary::devices(&request.device_id, &request.device_ids, &own)?;
    if devices.is_empty() {
        own.check_all()?;
    }
    let selection = Selection::new(devices, metric_names(&request.metrics)?);
    let range = telemetry_proto::time_range(request.start_time, request.end_time)?;
    let after = match token.as_str() {
        "" => None,
        token => Some(page_token::decode_position(token, &request)?),
    };
    // A token that was tampered with must not lead to what was not asked for.
    if let Some(Position { series, .. }) = &after {
        own.check(&series.device)?;
        if !selection.contains(series) {
            return Err(Invalid::new("page_token", "belongs to another request").into());
        }
    }
    let export = Export::open(storage, selection, range, after).await?;
    let chunks = stream::unfold(Some((export, lifecycle, request)), |state| async {
        let (mut export, lifecycle, request) = state?;
        let chunk = tokio::select! {
            chunk = export.next() => chunk,
            () = lifecycle.stopping() => Err(Error::Stopping),
        };
        match chunk {
            Ok(Some(chunk)) => {
                Some((Ok(wire(chunk, &request)), Some((export, lifecycle, request))))
            }
            Ok(None) => None,
            Err(error) => Some((Err(Status::from(error)), None)),
        }
    });
    Ok(chunks.boxed())
}

fn wire(chunk: Chunk, request: &ExportReadingsRequest) -> ExportReadingsResponse {
    let Chunk { device, readings, position, .. } = chunk;
    ExportReadingsResponse {
        device_id: device.as_str().to_owned(),
        readings: readings.into_iter().map(Into::into).collect(),
        next_page_token: page_token::encode_position(request, &position),
    }
}
