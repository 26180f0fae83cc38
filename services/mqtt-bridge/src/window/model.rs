//! The window between a broker that keeps a session and a store, over connections and streams that
//! break at any moment.
//!
//! The broker is as unhelpful as it may be: it gives a packet id away again as soon as it is free, and
//! most of what it carries reads alike.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Something is published.
    Publish {
        let_go: bool,
        qos1: bool,
    },
    /// Messages go to the store; it settles some; a new stream begins after it has settled some.
    Send(usize),
    Settle(u64),
    Resume(u64),
    /// So many acknowledgements arrive at the broker.
    Arrive(usize),
    /// The connection is lost, with all acknowledgements on their way and so many messages. On the
    /// next one, if the session is kept, so much of what comes again does, before that is lost too.
    Reconnect {
        lost: usize,
        kept: bool,
        again: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let publish = (prop::bool::weighted(0.2), prop::bool::weighted(0.8));
    let reconnect = (0..3_usize, prop::bool::weighted(0.8), 0..8_usize);
    let step = prop_oneof![
        4 => publish.prop_map(|(let_go, qos1)| Step::Publish { let_go, qos1 }),
        2 => (1..5_usize).prop_map(Step::Send),
        2 => (0..6_u64).prop_map(Step::Settle),
        1 => (0..6_u64).prop_map(Step::Resume),
        2 => (1..5_usize).prop_map(Step::Arrive),
        1 => reconnect.prop_map(|(lost, kept, again)| Step::Reconnect { lost, kept, again }),
    ];
    prop::collection::vec(step, 0..200)
}

type Checked = Result<(), TestCaseError>;

/// A message by its number, and on which connection it is acknowledged.
type Receipt = (usize, usize);

struct World {
    window: Window<Receipt>,
    published: usize,
    /// What the broker has no acknowledgement for, with packet ids.
    unacked: VecDeque<(u16, usize)>,
    connection: usize,
    /// Receipts of this connection that are still to come, in order, and acknowledgements that have
    /// not arrived.
    awaited: VecDeque<Receipt>,
    under_way: VecDeque<Receipt>,
    /// What was taken to be sent to the store, in order, and what was let go.
    numbered: Vec<usize>,
    let_go: BTreeSet<usize>,
    /// What was acknowledged at least once, if only on the way.
    acknowledged: BTreeSet<usize>,
    taken: BTreeMap<usize, u32>,
    came: u64,
    came_again: u64,
    sent: u64,
    ever_sent: u64,
    settled: u64,
}

impl World {
    fn new() -> Self {
        Self {
            window: Window::new(ROOMY),
            published: 0,
            unacked: VecDeque::new(),
            connection: 0,
            awaited: VecDeque::new(),
            under_way: VecDeque::new(),
            numbered: Vec::new(),
            let_go: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            taken: BTreeMap::new(),
            came: 0,
            came_again: 0,
            sent: 0,
            ever_sent: 0,
            settled: 0,
        }
    }

    /// The broker takes a message at `QoS` 1.
    fn publish(&mut self) -> (u16, usize) {
        let is_free = |id: &u16| self.unacked.iter().all(|(used, _)| used != id);
        let delivery = ((1..=u16::MAX).find(is_free).unwrap(), self.published);
        self.unacked.push_back(delivery);
        self.published += 1;
        delivery
    }

    /// A delivery comes.
    fn comes(&mut self, (packet_id, n): (u16, usize), is_marked: bool, let_go: bool) -> Checked {
        let identity = Identity { packet_id, fingerprint: (n % 5 / 4) as u64 };
        let receipt = (self.connection, n);
        let owed = Some(Owed { identity, receipt });
        self.came += 1;
        self.awaited.push_back(receipt);
        if self.window.knows(identity, is_marked) {
            prop_assert!(self.taken.contains_key(&n), "{n} is new, and lost");
            self.came_again += 1;
            self.window.let_go(Reason::Redelivered, owed);
        } else {
            let is_new = !self.taken.contains_key(&n) || self.acknowledged.contains(&n);
            prop_assert!(is_new, "{n} is here or settled, and taken twice");
            *self.taken.entry(n).or_default() += 1;
            if let_go {
                self.let_go.insert(n);
                self.window.let_go(Reason::Retained, owed);
            } else {
                self.numbered.push(n);
                self.window.push(message(i64::try_from(n).unwrap()), owed, 1).unwrap();
            }
        }
        let receipts = self.window.settled();
        self.acknowledge(receipts)
    }

    /// Acknowledgements go out: in the order of this connection, and of nothing that is not settled.
    fn acknowledge(&mut self, receipts: Vec<Receipt>) -> Checked {
        for receipt in receipts {
            let (_, n) = receipt;
            prop_assert_eq!(self.awaited.pop_front(), Some(receipt));
            let settled = self.numbered.iter().take(usize::try_from(self.settled).unwrap());
            let is_settled = self.let_go.contains(&n) || settled.into_iter().any(|m| *m == n);
            prop_assert!(is_settled, "{n} is acknowledged too early");
            self.acknowledged.insert(n);
            self.under_way.push_back(receipt);
        }
        Ok(())
    }

    fn arrive(&mut self, count: usize) {
        for _ in 0..count {
            let Some((_, n)) = self.under_way.pop_front() else { return };
            self.unacked.retain(|(_, unacked)| *unacked != n);
        }
    }

    fn reconnect(&mut self, lost: usize, kept: bool, again: usize) -> Checked {
        for _ in 0..lost {
            self.publish();
        }
        self.connection_lost();
        if !kept {
            self.unacked.clear();
            self.window.session_lost();
            return Ok(());
        }
        let unacked = self.unacked.clone();
        for delivery in unacked.iter().take(again) {
            self.comes(*delivery, true, false)?;
        }
        if again >= unacked.len() {
            return Ok(());
        }
        self.connection_lost();
        unacked.into_iter().try_for_each(|delivery| self.comes(delivery, true, false))
    }

    fn connection_lost(&mut self) {
        self.window.void_receipts();
        self.connection += 1;
        self.awaited.clear();
        self.under_way.clear();
    }

    fn step(&mut self, step: &Step) -> Checked {
        match *step {
            Step::Publish { let_go, qos1: true } => {
                let delivery = self.publish();
                self.comes(delivery, false, let_go)?;
            }
            Step::Publish { let_go, qos1: false } => {
                let n = self.published;
                (self.published, self.came) = (n + 1, self.came + 1);
                if let_go {
                    self.window.let_go(Reason::Retained, None);
                    self.let_go.insert(n);
                } else {
                    self.window.push(message(i64::try_from(n).unwrap()), None, 1).unwrap();
                    self.numbered.push(n);
                }
            }
            Step::Send(max) => {
                if let Some(batch) = self.window.next_batch(max, 1000) {
                    prop_assert_eq!(batch.first_sequence, self.sent + 1);
                    prop_assert!(batch.messages.len() <= max);
                    for message in batch.messages {
                        let expected = self.numbered[usize::try_from(self.sent).unwrap()];
                        prop_assert_eq!(usize::try_from(number(message)).unwrap(), expected);
                        self.sent += 1;
                    }
                    self.ever_sent = self.ever_sent.max(self.sent);
                }
            }
            Step::Settle(more) => {
                self.settled = (self.settled + more).min(self.sent);
                let receipts = self.window.acked(self.settled).unwrap();
                self.acknowledge(receipts)?;
            }
            Step::Resume(more) => {
                self.settled = (self.settled + more).min(self.ever_sent);
                self.sent = self.settled;
                let receipts = self.window.resume(self.settled).unwrap();
                self.acknowledge(receipts)?;
            }
            Step::Arrive(count) => self.arrive(count),
            Step::Reconnect { lost, kept, again } => self.reconnect(lost, kept, again)?,
        }
        self.balances()
    }

    fn balances(&self) -> Checked {
        let Counts { received, dropped } = self.window.counts();
        let in_flight = self.numbered.len() as u64 - self.settled;
        prop_assert_eq!(*received, self.came);
        prop_assert_eq!(*received, self.settled + in_flight + dropped.values().sum::<u64>());
        let again = dropped.get(&Reason::Redelivered).copied().unwrap_or_default();
        prop_assert_eq!(again, self.came_again);
        prop_assert_eq!(self.window.in_flight() as u64, in_flight);
        prop_assert_eq!(self.window.owed(), self.awaited.len());
        prop_assert_eq!(self.window.first_held(), self.settled + 1);
        Ok(())
    }
}

proptest! {
    /// Nothing is lost, nothing is taken twice that was not acknowledged, and acknowledgements go out
    /// in order and never too early.
    #[test]
    fn whatever_breaks(steps in steps()) {
        let mut world = World::new();
        steps.iter().try_for_each(|step| world.step(step))?;
        world.step(&Step::Resume(0))?;
        world.step(&Step::Send(1000))?;
        world.step(&Step::Settle(1000))?;
        prop_assert!(world.awaited.is_empty() && world.window.is_empty());
        prop_assert_eq!(world.window.bytes, 0);
    }
}
