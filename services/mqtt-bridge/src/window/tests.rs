//! The window against a naive model: order, no loss, bound.

use proptest::prelude::*;
use telemetry_model::{DeviceId, EventKind, Timestamp};

use super::*;

fn event(n: i64) -> Event {
    let device = DeviceId::parse("fern-1").unwrap();
    let received = Timestamp::from_micros(n).unwrap();
    Event { device, kind: EventKind::Heartbeat, received, samples: vec![] }
}

#[test]
fn a_rejected_delivery_is_acknowledged_in_its_turn() {
    let mut window = Window::default();
    window.push(None, Some(1), 1).unwrap();
    assert_eq!(window.settled(), [1]);
    window.push(Some(event(2)), Some(2), 1).unwrap();
    window.push(None, Some(3), 1).unwrap();
    assert!(window.settled().is_empty(), "not before the event ahead of it");
    assert!(window.next_batch(10, 10).unwrap().is_last);
    assert_eq!(window.acked(1).unwrap(), [2, 3]);
    assert!(window.is_empty());
}

#[test]
fn qos_0_is_bounded_and_qos_1_is_not() {
    let mut window = Window::default();
    window.push(Some(event(1)), None::<u8>, MAX_BYTES).unwrap();
    assert_eq!(window.push(Some(event(2)), None, 1), Err(Full));
    window.push(Some(event(3)), Some(3), 1).unwrap();
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_refused() {
    let mut window = Window::default();
    window.push(Some(event(1)), Some(1), 1).unwrap();
    assert_eq!(window.acked(1), Err(NotSent));
}

#[derive(Clone, Debug)]
enum Step {
    Push { rejected: bool, qos1: bool },
    Send(usize),
    Ack(u64),
    Rewind,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (prop::bool::weighted(0.2), any::<bool>());
    let step = prop_oneof![
        4 => push.prop_map(|(rejected, qos1)| Step::Push { rejected, qos1 }),
        2 => (1..5_usize).prop_map(Step::Send),
        2 => (0..6_u64).prop_map(Step::Ack),
        1 => Just(Step::Rewind),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Every receipt comes once, in order, and only when all events before it are acknowledged.
    #[test]
    fn receipts_come_in_order_and_only_for_what_is_stored(steps in steps()) {
        let mut window = Window::default();
        let (mut pushed, mut stored) = (Vec::new(), 0_usize);
        let (mut on_stream, mut acked) = (Vec::<usize>::new(), 0_u64);
        let mut receipts = Vec::new();
        for step in steps {
            match step {
                Step::Push { rejected, qos1 } => {
                    let n = pushed.len();
                    let carried = (!rejected).then(|| event(i64::try_from(n).unwrap()));
                    window.push(carried, qos1.then_some(n), 1).unwrap();
                    pushed.push((rejected, qos1));
                    receipts.extend(window.settled());
                }
                Step::Send(max) => if let Some(batch) = window.next_batch(max, 1000) {
                    prop_assert_eq!(batch.first_sequence, on_stream.len() as u64 + 1);
                    prop_assert!(batch.events.len() <= max);
                    let sent = batch.events.iter().map(|e| usize::try_from(e.received.micros()).unwrap());
                    on_stream.extend(sent);
                },
                Step::Ack(more) => {
                    acked = (acked + more).min(on_stream.len() as u64);
                    receipts.extend(window.acked(acked).unwrap());
                    if let Some(last) = on_stream.get(usize::try_from(acked).unwrap().wrapping_sub(1)) {
                        stored = stored.max(last + 1);
                    }
                }
                Step::Rewind => {
                    window.rewind();
                    (on_stream, acked) = (Vec::new(), 0);
                }
            }
            // Everything before the first event that is not stored.
            let settled = (0..pushed.len()).take_while(|n| pushed[*n].0 || *n < stored);
            let expected: Vec<_> = settled.filter(|n| pushed[*n].1).collect();
            prop_assert_eq!(&receipts, &expected);
        }
        window.rewind();
        while window.next_batch(7, 1000).is_some() {}
        receipts.extend(window.acked(window.sent).unwrap());
        receipts.extend(window.settled());
        prop_assert_eq!(receipts.len(), pushed.iter().filter(|(_, qos1)| *qos1).count());
        prop_assert!(window.is_empty() && window.bytes == 0);
    }
}
