//! Everything of some series, chunk by chunk, in the order of the index that holds it.
//!
//! A chunk is one statement, which begins where the one before it ended: no cursor, no connection and
//! no snapshot is held while a client takes its time, and where an export broke off another one, at
//! another replica, goes on.

use std::{collections::VecDeque, sync::Arc};

use telemetry_model::{DeviceId, Reading, Selection, Series, TimeRange, Timestamp, Value};

use super::selection::known;
use crate::{
    error::Result,
    storage::{Scan, Storage},
};

/// How many readings are read at a time.
const READINGS: usize = 8192;
/// How large a chunk may grow, in bytes, which texts may make it: a client takes no more than 4 MiB.
const CHUNK_BYTES: usize = 1 << 20;
/// How many series are read at a time: many have few readings in a short range.
const SERIES: usize = 256;

/// After which reading an export goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) series: Series,
    pub(crate) time: Timestamp,
}

/// Readings of one device.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) device: DeviceId,
    pub(crate) readings: Vec<Reading>,
    pub(crate) position: Position,
    /// How large it has grown, about.
    bytes: usize,
}

impl Chunk {
    fn takes(&self, device: &DeviceId) -> bool {
        self.device == *device && self.bytes < CHUNK_BYTES
    }

    fn push(&mut self, reading: Reading) {
        let text = if let Value::Text(text) = &reading.value { text.len() } else { 0 };
        self.bytes += text + 64;
        self.position.time = reading.time;
        self.readings.push(reading);
    }
}

/// An export under way.
#[derive(Debug)]
pub(crate) struct Export {
    storage: Arc<dyn Storage>,
    selection: Selection,
    range: TimeRange,
    /// Where the first of the series goes on.
    from: Timestamp,
    series: Vec<Series>,
    /// The last series that was begun.
    last: Option<Series>,
    chunks: VecDeque<Chunk>,
}

impl Export {
    /// Begins, or goes on after a position. The devices that are named must be known.
    pub(crate) async fn open(
        storage: Arc<dyn Storage>,
        selection: Selection,
        range: TimeRange,
        after: Option<Position>,
    ) -> Result<Self> {
        for device in selection.devices() {
            known(&*storage, device).await?;
        }
        let (series, from, last) = match after {
            None => (Vec::new(), range.start, None),
            Some(Position { series, time }) => {
                (vec![series.clone()], time.next().max(range.start), Some(series))
            }
        };
        Ok(Self { storage, selection, range, from, series, last, chunks: VecDeque::new() })
    }

    /// The next chunk, or nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Ok(Some(chunk));
            }
            if self.series.is_empty() {
                let (selection, last) = (&self.selection, self.last.as_ref());
                self.series = self.storage.series(selection, last, SERIES).await?;
                self.from = self.range.start;
                let Some(last) = self.series.last() else { return Ok(None) };
                self.last = Some(last.clone());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        let TimeRange { start, end } = self.range;
        let scan = Scan { series: &self.series, from: self.from, start, end, limit: READINGS };
        let readings = self.storage.scan(scan).await?;
        let more = readings.len() == READINGS;
        let mut reached = None;
        for (n, reading) in readings {
            let Some(series) = self.series.get(n) else { continue };
            reached = Some((n, reading.time));
            if !self.chunks.back().is_some_and(|chunk| chunk.takes(&series.device)) {
                let position = Position { series: series.clone(), time: reading.time };
                let (device, readings) = (series.device.clone(), Vec::new());
                self.chunks.push_back(Chunk { device, readings, position, bytes: 0 });
            }
            if let Some(chunk) = self.chunks.back_mut() {
                if chunk.position.series != *series {
                    chunk.position.series = series.clone();
                }
                chunk.push(reading);
            }
        }
        match reached.filter(|_| more) {
            None => self.series.clear(),
            Some((n, time)) => {
                self.series.drain(..n);
                self.from = time.next();
            }
        }
        Ok(())
    }
}
