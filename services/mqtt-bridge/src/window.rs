//! The deliveries that we owe the broker an acknowledgement for, in the order of receipt. Pure.
//!
//! Each delivery either carries a message, which must be settled first, or was let go and is only
//! waiting for its turn. Messages are numbered for as long as this process lives; the store's
//! cumulative acknowledgement takes them off the front together with those let go that follow.
//!
//! A receipt is good for the connection that brought it. When that is lost the messages stay: a
//! broker that lost the session, or came back from an older copy of it, does not send them again. One
//! that kept it does, and what is known again is let go in its turn: its receipt waits behind the
//! message that it is for, so that acknowledgements go out in the order of the new connection.
//!
//! Whatever comes in is counted here, so that at any moment what was received is what was settled,
//! what was let go, and what is here.

#[path = "window/redelivery.rs"] // said outright, as the fuzz target takes this file in by its path
mod redelivery;

use std::collections::{BTreeMap, VecDeque};

use telemetry_decode::Reason;
use telemetry_model::{Event, Message, Value};

pub(crate) use self::redelivery::Identity;
use self::redelivery::Redelivery;

/// How much the window holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Deliveries with a receipt: as many as the broker was told to send unacknowledged.
    pub(crate) owed: usize,
    /// Memory, at least twice what any delivery takes; deliveries that come without a receipt get
    /// half of it, so that they cannot keep others out.
    pub(crate) bytes: usize,
}

/// The window. `R` is what it takes to acknowledge one delivery.
#[derive(Debug)]
pub(crate) struct Window<R> {
    limits: Limits,
    deliveries: VecDeque<Delivery<R>>,
    bytes: usize,
    /// What of that came without a receipt.
    bytes_once: usize,
    /// How many of the deliveries have a receipt.
    owed: usize,
    /// How many of the deliveries, from the front, were looked at for sending on this stream.
    offered: usize,
    /// The numbers of the last message acknowledged, and of the last one sent on this stream.
    acked: u64,
    sent: u64,
    redelivery: Redelivery,
    counts: Counts,
}

/// What we owe the broker for a delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed<R> {
    pub(crate) identity: Identity,
    pub(crate) receipt: R,
}

/// What has come in so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All messages taken or let go.
    pub(crate) received: u64,
    /// Those let go, by reason.
    pub(crate) dropped: BTreeMap<Reason, u64>,
}

#[derive(Debug)]
struct Delivery<R> {
    message: Option<Message>,
    owed: Option<Owed<R>>,
    bytes: usize,
    /// Whether it came without a receipt, and so comes only once.
    is_once: bool,
}

/// Messages to send, with consecutive sequence numbers.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) first_sequence: u64,
    pub(crate) messages: Vec<&'a Message>,
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
        Self {
            limits,
            deliveries: VecDeque::new(),
            bytes: 0,
            bytes_once: 0,
            owed: 0,
            offered: 0,
            acked: 0,
            sent: 0,
            redelivery: Redelivery::default(),
            counts: Counts::default(),
        }
    }

    /// Whether a delivery that comes, marked as sent again or not, is known from an earlier
    /// connection: what it says is here, or settled.
    pub(crate) fn knows(&mut self, identity: Identity, is_marked: bool) -> bool {
        self.redelivery.knows(identity, is_marked)
    }

    /// Adds a message that takes so much memory.
    pub(crate) fn push(
        &mut self,
        message: Message,
        owed: Option<Owed<R>>,
        bytes: usize,
    ) -> Result<(), Full> {
        let fits = match &owed {
            Some(_) => self.owed < self.limits.owed && self.bytes + bytes <= self.limits.bytes,
            None => self.takes(bytes),
        };
        // One delivery there is always room for, or it would be refused for ever.
        if !fits && !self.deliveries.is_empty() {
            return Err(Full);
        }
        self.counts.received += 1;
        self.add(Some(message), owed, bytes);
        Ok(())
    }

    /// Lets a message go. If it must be acknowledged, that waits for its turn.
    pub(crate) fn let_go(&mut self, reason: Reason, owed: Option<Owed<R>>) {
        self.counts.received += 1;
        *self.counts.dropped.entry(reason).or_default() += 1;
        if owed.is_some() {
            self.add(None, owed, 0);
        }
    }

    fn add(&mut self, message: Option<Message>, owed: Option<Owed<R>>, bytes: usize) {
        self.bytes += bytes;
        let is_once = owed.is_none();
        match &owed {
            Some(owed) => {
                self.owed += 1;
                self.redelivery.taken(owed.identity);
            }
            None => self.bytes_once += bytes,
        }
        self.deliveries.push_back(Delivery { message, owed, bytes, is_once });
    }

    /// The next messages to send on this stream, if there are any.
    pub(crate) fn next_batch(
        &mut self,
        max_messages: usize,
        max_bytes: usize,
    ) -> Option<Batch<'_>> {
        let mut bytes = 0;
        let mut messages = Vec::new();
        for delivery in self.deliveries.range(self.offered..) {
            bytes += delivery.bytes;
            if !messages.is_empty() && (bytes > max_bytes || messages.len() == max_messages) {
                break;
            }
            self.offered += 1;
            messages.extend(&delivery.message);
        }
        let count = u64::try_from(messages.len()).ok().filter(|count| *count > 0)?;
        let first_sequence = self.sent + 1;
        self.sent += count;
        let is_last = self.offered == self.deliveries.len();
        Some(Batch { first_sequence, messages, is_last })
    }

    /// Takes off what is settled now that the store has acknowledged through a sequence number:
    /// the receipts to hand to the broker, in order.
    pub(crate) fn acked(&mut self, through: u64) -> Result<Vec<R>, NotSent> {
        if through > self.sent {
            return Err(NotSent);
        }
        let mut receipts = Vec::new();
        while let Some(front) = self.deliveries.front() {
            if front.message.is_some() {
                if self.acked >= through {
                    break;
                }
                self.acked += 1;
            }
            if let Some(delivery) = self.deliveries.pop_front() {
                self.offered = self.offered.saturating_sub(1);
                self.bytes -= delivery.bytes;
                self.bytes_once -= if delivery.is_once { delivery.bytes } else { 0 };
                if let Some(Owed { identity, receipt }) = delivery.owed {
                    self.owed -= 1;
                    self.redelivery.acknowledged(identity.packet_id);
                    receipts.push(receipt);
                }
            }
        }
        Ok(receipts)
    }

    /// Takes off deliveries at the front that were let go, which wait for nothing.
    pub(crate) fn settled(&mut self) -> Vec<R> {
        self.acked(self.acked).unwrap_or_default()
    }

    /// The message that has this sequence number, if it waits for its acknowledgement.
    pub(crate) fn sent_message(&self, sequence: u64) -> Option<&Message> {
        let ahead = sequence.checked_sub(self.acked + 1)?;
        let sent = self.deliveries.iter().take(self.offered);
        sent.filter_map(|delivery| delivery.message.as_ref()).nth(usize::try_from(ahead).ok()?)
    }

    /// The number of the first message that is not acknowledged.
    pub(crate) fn first_held(&self) -> u64 {
        self.acked + 1
    }

    /// Begins a new stream, on which the store has said through which number we are settled: what
    /// is taken off by that, as in [`Window::acked`]; the rest is to be sent again.
    pub(crate) fn resume(&mut self, through: u64) -> Result<Vec<R>, NotSent> {
        (self.offered, self.sent) = (0, self.acked);
        for delivery in &self.deliveries {
            if self.sent >= through {
                break;
            }
            self.offered += 1;
            self.sent += u64::from(delivery.message.is_some());
        }
        self.acked(through.max(self.acked))
    }

    /// What has come in so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Forgets the receipts, whose connection is gone, but not the messages.
    pub(crate) fn void_receipts(&mut self) {
        let offered = self.deliveries.iter().take(self.offered);
        self.offered = offered.filter(|delivery| delivery.message.is_some()).count();
        self.deliveries.retain(|delivery| delivery.message.is_some());
        self.deliveries.iter_mut().for_each(|delivery| delivery.owed = None);
        self.owed = 0;
        self.redelivery.connection_lost();
    }

    /// Notes that the broker has lost the session, and sends nothing of it again.
    pub(crate) fn session_lost(&mut self) {
        self.redelivery.forget();
    }

    /// True if nothing is left to send.
    pub(crate) fn is_sent(&self) -> bool {
        self.offered == self.deliveries.len()
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
        let Limits { bytes: room, .. } = self.limits;
        self.bytes_once + bytes <= room / 2 && self.bytes + bytes <= room
    }

    /// How many messages wait for the store.
    pub(crate) fn in_flight(&self) -> usize {
        self.deliveries.iter().filter(|delivery| delivery.message.is_some()).count()
    }

    /// The memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
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

/// What a message takes in memory, at most; and so more than it takes on the way to the store.
pub(crate) fn weight(message: &Message) -> usize {
    let event = message.event.as_ref().map(weight_of_event).unwrap_or_default();
    let refusal = message
        .refusal
        .as_ref()
        .map(|refusal| 512 + refusal.payload.len() + refusal.detail.len() + refusal.field.len());
    256 + message.topic.len() + event + refusal.unwrap_or_default()
}

/// What of that its event takes.
pub(crate) fn weight_of_event(event: &Event) -> usize {
    let text = |value: &Value| if let Value::Text(text) = value { text.len() } else { 0 };
    let measurements = event.samples.iter().flat_map(|sample| &sample.measurements);
    let measurements = measurements.map(|m| 96 + m.metric.as_str().len() + text(&m.value));
    256 + 64 * event.samples.len() + measurements.sum::<usize>()
}

#[cfg(test)]
#[path = "window/tests.rs"] // said outright, as the fuzz target takes this file in by its path
mod tests;
