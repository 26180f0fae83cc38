//! The log as watches read it: what to read of it, and what was read.

use std::collections::BTreeSet;

use telemetry_model::{Cursor, DeviceId, Partition, Positions, StoredEvent};

use super::rows;
use crate::error::Result;

/// From where to where the log reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Before the oldest events still there.
    pub oldest: Positions,
    /// After the newest.
    pub newest: Positions,
}

impl LogRange {
    /// From each partition's number, horizon and head.
    pub(super) fn new(heads: Vec<(i16, i64, i64)>) -> Result<Self> {
        let (mut oldest, mut newest) = (Positions::start(), Positions::start());
        for (number, horizon, head) in heads {
            let partition = partition(number)?;
            oldest.advance(partition, horizon);
            newest.advance(partition, head);
        }
        Ok(Self { oldest, newest })
    }
}

/// What to read of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogQuery<'a> {
    /// In these partitions.
    pub partitions: &'a [Partition],
    /// Only of these devices; none: of all.
    pub devices: Option<&'a BTreeSet<DeviceId>>,
    /// What comes after these positions.
    pub after: &'a Positions,
    /// How many events of each partition at most.
    pub limit: usize,
}

impl LogQuery<'_> {
    pub(super) fn partition_numbers(&self) -> Vec<i16> {
        self.partitions.iter().map(|partition| number(*partition)).collect()
    }

    pub(super) fn afters(&self) -> Vec<i64> {
        self.partitions.iter().map(|partition| self.after.get(*partition)).collect()
    }

    pub(super) fn sql_limit(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX)
    }
}

/// What a partition held at the moment of reading.
#[derive(Debug)]
pub(super) struct PartitionPage {
    pub(super) partition: Partition,
    pub(super) horizon: i64,
    pub(super) head: i64,
    /// Positions and records after the one that was asked for.
    pub(super) records: Vec<(i64, Vec<u8>)>,
}

/// A part of the log, of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPage {
    /// The events, by partition and position: those of a device in their order.
    pub events: Vec<StoredEvent>,
    /// Where they end: in each partition that was asked for, at the newest event that was found, or
    /// at the head if there was no more.
    pub upto: Positions,
    /// True if there was nothing more in any of them.
    pub at_head: bool,
}

impl LogPage {
    /// Nothing if a position lies outside the log: events behind it may be gone.
    pub(super) fn new(query: &LogQuery<'_>, pages: Vec<PartitionPage>) -> Result<Option<Self>> {
        let (mut events, mut upto, mut at_head) = (Vec::new(), query.after.clone(), true);
        for PartitionPage { partition, horizon, head, records } in pages {
            if !(horizon..=head).contains(&query.after.get(partition)) {
                return Ok(None);
            }
            let is_cut = records.len() >= query.limit;
            let last = records.last().map(|(position, _)| *position);
            upto.advance(partition, last.filter(|_| is_cut).unwrap_or(head));
            at_head &= !is_cut;
            for (position, record) in records {
                events.push(rows::stored_event(&record, Cursor { partition, position })?);
            }
        }
        Ok(Some(Self { events, upto, at_head }))
    }
}

pub(super) fn partition(number: i16) -> Result<Partition> {
    let partition = u16::try_from(number).ok().and_then(Partition::new);
    partition.ok_or_else(|| rows::corrupt(&format!("a log partition is {number}")))
}

pub(super) fn number(partition: Partition) -> i16 {
    i16::try_from(partition.number()).expect("a partition number is below 32")
}
