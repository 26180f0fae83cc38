//! Any course of events at the window, as the source and the uplink cause them: no receipt comes
//! twice, out of order or too early, whatever breaks; what comes again is known unless it was
//! acknowledged, and every message is accounted for.
//!
//! ```sh
//! cargo install cargo-fuzz && cd services/mqtt-bridge
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none window -- -max_len=4096 -max_total_time=600
//! ```
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use telemetry_decode::Reason;
use telemetry_model::{DeviceId, Event, EventKind, Message, Timestamp};

#[expect(dead_code, reason = "what only the bridge needs of it")]
#[path = "../../src/window.rs"]
mod window;

use window::{Identity, Limits, Owed, Window};

const LIMITS: Limits = Limits { owed: 8, bytes: 64 };

/// What is in the window: whether it is sent to the store, and the receipt, if it is good.
struct Held {
    is_message: bool,
    receipt: Option<u32>,
}

/// The window as it should be, the broker, and the store as it may be.
#[derive(Default)]
struct Model {
    held: VecDeque<Held>,
    next: u32,
    /// Receipts of this connection: those that are to come, and those that have.
    owed: VecDeque<u32>,
    acknowledged: Vec<u32>,
    /// What has no receipt any more and was never acknowledged: it comes again.
    unacked: VecDeque<u32>,
    received: u64,
    dropped: u64,
    acked: u64,
    sent: u64,
    /// The store may have settled what was ever sent, and we not have heard of it.
    ever_sent: u64,
}

impl Model {
    fn receipt(&mut self, is_owed: bool) -> Option<Owed<u32>> {
        self.next += 1;
        is_owed.then(|| owed(self.next))
    }

    /// Something is added to the window.
    fn hold(&mut self, is_message: bool, receipt: Option<u32>) {
        self.owed.extend(receipt);
        self.held.push_back(Held { is_message, receipt });
    }

    /// What must come out now that the store has settled through a number.
    fn settle(&mut self, through: u64) -> Vec<u32> {
        let mut receipts = Vec::new();
        while let Some(front) = self.held.front() {
            if front.is_message {
                if self.acked >= through {
                    break;
                }
                self.acked += 1;
            }
            receipts.extend(self.held.pop_front().and_then(|held| held.receipt));
        }
        self.owed.drain(..receipts.len());
        self.acknowledged.extend(&receipts);
        receipts
    }
}

/// What is owed for a delivery, which says what they all say.
fn owed(receipt: u32) -> Owed<u32> {
    let packet_id = (receipt % 60_000) as u16;
    Owed { identity: Identity { packet_id, fingerprint: 0 }, receipt }
}

fuzz_target!(|steps: &[u8]| {
    let mut window = Window::new(LIMITS);
    let mut model = Model::default();
    for step in steps {
        let (step, how) = (step % 6, u64::from(step / 6));
        match step {
            0 => {
                let owed = model.receipt(how.is_multiple_of(2));
                assert!(!owed.is_some_and(|owed| knows(&mut window, &mut model, owed, false)));
                push(&mut window, &mut model, owed, how);
            }
            1 => {
                let owed = model.receipt(how.is_multiple_of(2));
                assert!(!owed.is_some_and(|owed| knows(&mut window, &mut model, owed, false)));
                let_go(&mut window, &mut model, owed);
            }
            2 => {
                if let Some(batch) = window.next_batch(1 + how as usize, 16) {
                    assert_eq!(batch.first_sequence, model.sent + 1);
                    model.sent += batch.messages.len() as u64;
                    model.ever_sent = model.ever_sent.max(model.sent);
                }
            }
            3 => {
                let through = model.acked + how;
                let receipts = window.acked(through);
                assert_eq!(receipts.is_ok(), through <= model.sent);
                if let Ok(receipts) = receipts {
                    assert_eq!(receipts, model.settle(through));
                }
            }
            4 => {
                let through = model.acked.saturating_sub(3) + how;
                if through <= model.ever_sent {
                    let settled = through.max(model.acked);
                    assert_eq!(window.resume(through), Ok(model.settle(settled)));
                    model.sent = model.acked;
                }
            }
            _ => reconnect(&mut window, &mut model, how as usize),
        }
        let in_flight = model.held.iter().filter(|held| held.is_message).count() as u64;
        assert_eq!(window.counts().received, model.received);
        assert_eq!(model.received, model.acked + model.dropped + in_flight);
        assert_eq!(window.owed(), model.owed.len());
        assert_eq!(window.is_empty(), model.held.is_empty());
        assert_eq!(window.awaits_ack(), model.acked < model.sent);
        assert_eq!(window.first_held(), model.acked + 1);
    }
});

/// The connection is lost, and the last acknowledgements with it; if the broker keeps the session,
/// what it has no acknowledgement for comes again, as far as there is room.
fn reconnect(window: &mut Window<u32>, model: &mut Model, how: usize) {
    window.void_receipts();
    model.held.retain(|held| held.is_message);
    model.held.iter_mut().for_each(|held| held.receipt = None);
    let came_to = model.acknowledged.len().saturating_sub(how / 4);
    let lost: Vec<_> = model.acknowledged.drain(..).skip(came_to).collect();
    model.unacked.extend(model.owed.drain(..));
    if how.is_multiple_of(4) {
        model.unacked.clear();
        return window.session_lost();
    }
    let mut again: VecDeque<_> = lost.into_iter().chain(model.unacked.iter().copied()).collect();
    while let Some(receipt) = again.pop_front() {
        let is_certain = model.unacked.contains(&receipt);
        let is_known = knows(window, model, owed(receipt), true);
        assert_eq!(is_known, is_certain || !model.unacked.is_empty());
        if is_known {
            let_go(window, model, Some(owed(receipt)));
        } else {
            push(window, model, Some(owed(receipt)), 0);
        }
        model.unacked.retain(|unacked| *unacked != receipt);
    }
}

fn knows(window: &mut Window<u32>, model: &mut Model, owed: Owed<u32>, is_marked: bool) -> bool {
    if !is_marked {
        model.unacked.clear();
    }
    window.knows(owed.identity, is_marked)
}

fn let_go(window: &mut Window<u32>, model: &mut Model, owed: Option<Owed<u32>>) {
    window.let_go(Reason::Retained, owed);
    (model.received, model.dropped) = (model.received + 1, model.dropped + 1);
    if let Some(owed) = owed {
        model.hold(false, Some(owed.receipt));
    }
    let acked = model.acked;
    assert_eq!(window.settled(), model.settle(acked));
}

fn push(window: &mut Window<u32>, model: &mut Model, owed: Option<Owed<u32>>, how: u64) {
    let event = Event {
        device: DeviceId::parse("fern-1").expect("is an id"),
        kind: EventKind::Heartbeat,
        received: Timestamp::EPOCH,
        samples: vec![],
        trace: None,
    };
    let message = Message { topic: "".into(), qos: 1, event: Some(event), refusal: None };
    match window.push(message, owed, 1 + how as usize) {
        Ok(()) => {
            model.received += 1;
            model.hold(true, owed.map(|owed| owed.receipt));
        }
        Err(_) => assert!(!model.held.is_empty(), "one there is always room for"),
    }
}
