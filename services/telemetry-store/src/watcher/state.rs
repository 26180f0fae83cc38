//! The present state of the devices of a watch, some devices at a time.

use std::{collections::VecDeque, sync::Arc};

use telemetry_model::{Device, DeviceId, DeviceQuery, Reading};

use super::{Filter, Selection};
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
    /// Those that are still to be told of, if they are known by name.
    named: VecDeque<DeviceId>,
    /// The device that was told of last.
    last: Option<DeviceId>,
    is_done: bool,
}

impl States {
    pub(super) fn new(selection: Arc<Selection>, filter: Filter) -> Self {
        let named = selection.devices().into_iter().flatten().cloned().collect();
        Self { selection, filter, named, last: None, is_done: false }
    }

    /// The next devices, ordered by id; nothing after the last ones.
    pub(super) async fn next(&mut self, storage: &dyn Storage) -> Result<Option<Vec<DeviceState>>> {
        if self.is_done {
            return Ok(None);
        }
        let devices = match self.selection.devices() {
            Some(_) => self.next_named(storage).await?,
            None => self.next_prefixed(storage).await?,
        };
        let mut states = Vec::with_capacity(devices.len());
        for device in devices {
            let mut latest = storage.latest(&device.id, &[]).await?;
            latest.retain(|reading| self.filter.shows(reading));
            states.push(DeviceState { device, latest });
        }
        Ok(Some(states))
    }

    async fn next_named(&mut self, storage: &dyn Storage) -> Result<Vec<Device>> {
        let next: Vec<_> = self.named.iter().take(DEVICES).cloned().collect();
        let mut devices = Vec::with_capacity(next.len());
        for id in &next {
            devices.extend(storage.device(id).await?);
        }
        self.named.drain(..next.len());
        self.is_done = self.named.is_empty();
        Ok(devices)
    }

    async fn next_prefixed(&mut self, storage: &dyn Storage) -> Result<Vec<Device>> {
        let within = self.selection.prefixes_of_ids().map(<[String]>::to_vec);
        let after = self.last.clone();
        let query = DeviceQuery { after, within, limit: DEVICES, ..DeviceQuery::default() };
        let devices = storage.devices(&query).await?;
        self.is_done = devices.len() < DEVICES;
        self.last = devices.last().map(|device| device.id.clone());
        Ok(devices)
    }
}
