//! The present state of the devices of a watch, some devices at a time.

use std::sync::Arc;

use telemetry_model::{Device, DeviceId, DeviceQuery, Reading};

use super::{Filter, MAX_BYTES, Selection, selection::reading_weight};
use crate::{error::Result, storage::Storage};

/// How many devices' state is told at a time.
const DEVICES: usize = 100;

/// What is known of a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceState {
    pub(crate) device: Device,
    /// The newest reading of each metric.
    pub(crate) latest: Vec<Reading>,
}

/// Reads the state of device after device.
#[derive(Debug)]
pub(super) struct States {
    selection: Arc<Selection>,
    filter: Filter,
    /// The device that was told of last.
    last: Option<DeviceId>,
    is_done: bool,
}

impl States {
    pub(super) fn new(selection: Arc<Selection>, filter: Filter) -> Self {
        Self { selection, filter, last: None, is_done: false }
    }

    /// The next devices, ordered by id, as many as fit; nothing after the last ones.
    pub(super) async fn next(&mut self, storage: &dyn Storage) -> Result<Option<Vec<DeviceState>>> {
        if self.is_done {
            return Ok(None);
        }
        let (devices, is_last) = match self.selection.prefixes_of_ids() {
            None => self.named(storage).await?,
            Some(within) => self.prefixed(storage, within).await?,
        };
        let (mut states, mut bytes) = (Vec::with_capacity(devices.len()), 0);
        for device in devices {
            let mut latest = storage.latest(&device.id, &[]).await?;
            latest.retain(|reading| self.filter.shows(reading));
            bytes += latest.iter().map(reading_weight).sum::<usize>();
            if !states.is_empty() && bytes > MAX_BYTES {
                return Ok(Some(states));
            }
            self.last = Some(device.id.clone());
            states.push(DeviceState { device, latest });
        }
        self.is_done = is_last;
        Ok(Some(states))
    }

    /// Those that are known by name behind the last one, and whether they are all.
    async fn named(&self, storage: &dyn Storage) -> Result<(Vec<Device>, bool)> {
        let named = self.selection.devices().into_iter().flatten();
        let left = named.filter(|id| self.last.as_ref().is_none_or(|last| *id > last));
        let mut devices = Vec::new();
        for id in left {
            if devices.len() == DEVICES {
                return Ok((devices, false));
            }
            devices.extend(storage.device(id).await?);
        }
        Ok((devices, true))
    }

    async fn prefixed(
        &self,
        storage: &dyn Storage,
        within: &[String],
    ) -> Result<(Vec<Device>, bool)> {
        let (after, within) = (self.last.clone(), Some(within.to_vec()));
        let query = DeviceQuery { after, within, limit: DEVICES, ..DeviceQuery::default() };
        let devices = storage.devices(&query).await?;
        let is_last = devices.len() < DEVICES;
        Ok((devices, is_last))
    }
}
