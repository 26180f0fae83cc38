//! Which series a request means.

use telemetry_model::{DeviceId, Selection, Series};

use crate::{
    error::{Error, Result},
    storage::Storage,
};

/// The series of a selection, ordered by device and metric, after the given one, at most `limit`.
/// Those that are named are there whether or not they have readings; devices must be known.
pub(crate) async fn series(
    storage: &dyn Storage,
    selection: &Selection,
    after: Option<&Series>,
    limit: usize,
) -> Result<Vec<Series>> {
    let mut found = Vec::new();
    let is_left = |device: &&DeviceId| after.is_none_or(|after| **device >= after.device);
    for device in selection.devices().iter().filter(is_left) {
        if found.len() >= limit {
            break;
        }
        known(storage, device).await?;
        let metrics = match selection.metrics() {
            [] => storage.metrics(Some(device)).await?,
            named => named.to_vec(),
        };
        let series = metrics.into_iter().map(|metric| Series { device: device.clone(), metric });
        found.extend(series.filter(|series| after.is_none_or(|after| series > after)));
    }
    found.truncate(limit);
    Ok(found)
}

/// Fails if nothing was ever received from a device.
pub(super) async fn known(storage: &dyn Storage, device: &DeviceId) -> Result<()> {
    match storage.device(device).await? {
        Some(_) => Ok(()),
        None => Err(Error::UnknownDevice(device.clone())),
    }
}
