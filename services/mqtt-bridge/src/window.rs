//! The deliveries that we owe the broker an acknowledgement for, in the order of receipt. Pure.
//!
//! Each delivery either carries an event, which must be stored first, or was rejected and is only
//! waiting for its turn. Events are numbered per Ingest stream as they are sent; the store's
//! cumulative acknowledgement takes them off the front together with the rejected ones that follow.
//!
//! A receipt is good for the connection that brought it. When that is lost the events stay, although
//! a broker that kept the session sends them again: one that lost it, or came back from an older
//! copy of it, does not.

use std::collections::VecDeque;

use telemetry_model::{Event, Value};

/// How much the window holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Deliveries with a receipt: as many as the broker was told to send unacknowledged.
    pub(crate) owed: usize,
    /// Memory, at least twice what any delivery takes; deliveries without a receipt get half of it, so that they cannot keep others out.
    pub(crate) bytes: usize,
}

/// The window. `R` is what it takes to acknowledge one delivery.
#[derive(Debug)]
pub(crate) struct Window<R> {
    limits: Limits,
    deliveries: VecDeque<Delivery<R>>,
    bytes: usize,
    /// How many of the deliveries have a receipt.
    owed: usize,
    /// How many of the deliveries, from the front, were looked at for sending on this stream.
    offered: usize,
    /// The sequence numbers on this stream: acknowledged, and sent.
    acked: u64,
    sent: u64,
}

#[derive(Debug)]
struct Delivery<R> {
    event: Option<Event>,
    receipt: Option<R>,
    bytes: usize,
}

/// Events to send, with consecutive sequence numbers.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) first_sequence: u64,
    pub(crate) events: Vec<&'a Event>,
    /// True if nothing is left to send.
    pub(crate) is_last: bool,
}

/// The window has no room for a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The store acknowledged what it was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotSent;

impl<R> Window<R> {
    /// An empty window.
    pub(crate) fn new(limits: Limits) -> Self {
        let deliveries = VecDeque::new();
        Self { limits, deliveries, bytes: 0, owed: 0, offered: 0, acked: 0, sent: 0 }
    }

    /// Adds a delivery that takes so much memory; without an event if it was rejected.
    pub(crate) fn push(
        &mut self,
        event: Option<Event>,
        receipt: Option<R>,
        bytes: usize,
    ) -> Result<(), Full> {
        let Limits { owed, bytes: room } = self.limits;
        let fits = match (&event, &receipt) {
            // Neither to be stored nor to be acknowledged.
            (None, None) => return Ok(()),
            (_, Some(_)) => self.owed < owed && self.bytes + bytes <= room,
            (Some(_), None) => self.bytes + bytes <= room / 2,
        };
        // One delivery there is always room for, or it would be refused for ever.
        if !fits && !self.deliveries.is_empty() {
            return Err(Full);
        }
        self.bytes += bytes;
        self.owed += usize::from(receipt.is_some());
        self.deliveries.push_back(Delivery { event, receipt, bytes });
        Ok(())
    }

    /// The next events to send on this stream, if there are any.
    pub(crate) fn next_batch(&mut self, max_events: usize, max_bytes: usize) -> Option<Batch<'_>> {
        let mut bytes = 0;
        let mut events = Vec::new();
        for delivery in self.deliveries.range(self.offered..) {
            bytes += delivery.bytes;
            if !events.is_empty() && (bytes > max_bytes || events.len() == max_events) {
                break;
            }
            self.offered += 1;
            events.extend(&delivery.event);
        }
        let count = u64::try_from(events.len()).ok().filter(|count| *count > 0)?;
        let first_sequence = self.sent + 1;
        self.sent += count;
        let is_last = self.offered == self.deliveries.len();
        Some(Batch { first_sequence, events, is_last })
    }

    /// Takes off what is settled now that the store has acknowledged through a sequence number:
    /// the receipts to hand to the broker, in order.
    pub(crate) fn acked(&mut self, through: u64) -> Result<Vec<R>, NotSent> {
        if through > self.sent {
            return Err(NotSent);
        }
        let mut receipts = Vec::new();
        while let Some(front) = self.deliveries.front() {
            if front.event.is_some() {
                if self.acked >= through {
                    break;
                }
                self.acked += 1;
            }
            if let Some(delivery) = self.deliveries.pop_front() {
                self.offered = self.offered.saturating_sub(1);
                self.bytes -= delivery.bytes;
                self.owed -= usize::from(delivery.receipt.is_some());
                receipts.extend(delivery.receipt);
            }
        }
        Ok(receipts)
    }

    /// Takes off rejected deliveries at the front, which wait for nothing.
    pub(crate) fn settled(&mut self) -> Vec<R> {
        self.acked(self.acked).unwrap_or_default()
    }

    /// The event that has this sequence number, if it waits for its acknowledgement.
    pub(crate) fn sent_event(&self, sequence: u64) -> Option<&Event> {
        let ahead = sequence.checked_sub(self.acked + 1)?;
        let sent = self.deliveries.iter().take(self.offered);
        sent.filter_map(|delivery| delivery.event.as_ref()).nth(usize::try_from(ahead).ok()?)
    }

    /// Begins a new stream: everything is to be sent again.
    pub(crate) fn rewind(&mut self) {
        (self.offered, self.acked, self.sent) = (0, 0, 0);
    }

    /// Forgets the receipts, whose connection is gone, but not the events.
    pub(crate) fn void_receipts(&mut self) {
        self.deliveries.iter_mut().for_each(|delivery| delivery.receipt = None);
        self.owed = 0;
    }

    /// True if something was sent that is not acknowledged.
    pub(crate) fn awaits_ack(&self) -> bool {
        self.acked < self.sent
    }

    /// True if half of it is free and nothing in it would come again with the next connection.
    pub(crate) fn has_room(&self) -> bool {
        self.owed == 0 && self.bytes <= self.limits.bytes / 2
    }

    /// True if so many bytes more fit without a receipt.
    pub(crate) fn takes(&self, bytes: usize) -> bool {
        self.bytes + bytes <= self.limits.bytes / 2
    }

    /// How many acknowledgements are owed.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    /// True if nothing is owed.
    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }
}

/// What a delivery takes in memory, at most; and so more than it takes on the way to the store.
pub(crate) fn weight(event: Option<&Event>) -> usize {
    let text = |value: &Value| if let Value::Text(text) = value { text.len() } else { 0 };
    let samples = event.map(|event| event.samples.as_slice()).unwrap_or_default();
    let measurements = samples.iter().flat_map(|sample| &sample.measurements);
    let measurements = measurements.map(|m| 96 + m.metric.as_str().len() + text(&m.value));
    512 + 64 * samples.len() + measurements.sum::<usize>()
}

#[cfg(test)]
mod tests;
