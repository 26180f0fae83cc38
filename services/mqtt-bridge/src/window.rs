//! The deliveries that we owe the broker an acknowledgement for, in the order of receipt. Pure.
//!
//! Each delivery either carries an event, which must be stored first, or was rejected and is only
//! waiting for its turn. Events are numbered per Ingest stream as they are sent; the store's
//! cumulative acknowledgement takes them off the front together with the rejected ones that follow.

use std::collections::VecDeque;

use telemetry_model::Event;

/// Deliveries without a receipt (`QoS` 0) are refused beyond this many bytes. Those with one are
/// bounded by the broker, which sends no more than we announced to take.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The window. `R` is what it takes to acknowledge one delivery.
#[derive(Debug)]
pub(crate) struct Window<R> {
    deliveries: VecDeque<Delivery<R>>,
    bytes: usize,
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

/// The window has no room for a delivery without a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The store acknowledged what it was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotSent;

impl<R> Default for Window<R> {
    fn default() -> Self {
        Self { deliveries: VecDeque::new(), bytes: 0, offered: 0, acked: 0, sent: 0 }
    }
}

impl<R> Window<R> {
    /// Adds a delivery; without an event if it was rejected.
    pub(crate) fn push(
        &mut self,
        event: Option<Event>,
        receipt: Option<R>,
        bytes: usize,
    ) -> Result<(), Full> {
        if receipt.is_none() && self.bytes + bytes > MAX_BYTES {
            return Err(Full);
        }
        self.bytes += bytes;
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
                receipts.extend(delivery.receipt);
            }
        }
        Ok(receipts)
    }

    /// Takes off rejected deliveries at the front, which wait for nothing.
    pub(crate) fn settled(&mut self) -> Vec<R> {
        self.acked(self.acked).unwrap_or_default()
    }

    /// Begins a new stream: everything is to be sent again.
    pub(crate) fn rewind(&mut self) {
        (self.offered, self.acked, self.sent) = (0, 0, 0);
    }

    /// True if nothing is owed.
    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }
}

#[cfg(test)]
mod tests;
