//! The window against a naive model: order, no loss, bound.

use std::collections::BTreeSet;

use proptest::prelude::*;
use telemetry_model::{DeviceId, EventKind, Timestamp};

use super::*;

fn event(n: i64) -> Event {
    let device = DeviceId::parse("fern-1").unwrap();
    let received = Timestamp::from_micros(n).unwrap();
    Event { device, kind: EventKind::Heartbeat, received, samples: vec![] }
}

const ROOMY: Limits = Limits { owed: 1000, bytes: 1 << 20 };

#[test]
fn a_rejected_delivery_is_acknowledged_in_its_turn() {
    let mut window = Window::new(ROOMY);
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
fn is_bounded_but_takes_one_delivery_of_any_size() {
    let mut window = Window::new(Limits { owed: 2, bytes: 100 });
    window.push(Some(event(1)), None::<u8>, 500).unwrap();
    assert_eq!(window.push(Some(event(2)), None, 1), Err(Full));
    assert_eq!(window.push(Some(event(2)), Some(2), 1), Err(Full));
    assert!(!window.has_room());
    window.next_batch(1, 1).unwrap();
    window.acked(1).unwrap();
    window.push(Some(event(3)), None, 50).unwrap();
    assert_eq!(window.push(Some(event(4)), None, 1), Err(Full), "half is for those with a receipt");
    window.push(Some(event(5)), Some(5), 25).unwrap();
    window.push(None, Some(6), 25).unwrap();
    assert_eq!(window.push(None, Some(7), 0), Err(Full), "more than the broker was to send");
    window.push(None, None, 1).unwrap();
    assert_eq!(window.deliveries.len(), 3, "nothing is owed for what was rejected at QoS 0");
}

#[test]
fn a_lost_connection_voids_its_receipts_and_keeps_its_events() {
    let mut window = Window::new(ROOMY);
    window.push(Some(event(1)), Some("old"), 1).unwrap();
    window.void_receipts();
    window.push(Some(event(1)), Some("new"), 1).unwrap();
    assert_eq!(window.owed, 1);
    assert_eq!(window.next_batch(10, 10).unwrap().events.len(), 2);
    assert!(window.awaits_ack());
    assert_eq!(window.acked(2).unwrap(), ["new"]);
    assert!(!window.awaits_ack());
}

#[test]
fn knows_the_event_of_a_sequence() {
    let mut window = Window::new(ROOMY);
    for n in 1..=4 {
        window.push((n != 2).then(|| event(n)), Some(n), 1).unwrap();
    }
    window.next_batch(2, 10).unwrap();
    let micros = |window: &Window<i64>, sequence| {
        window.sent_event(sequence).map(|event| event.received.micros())
    };
    assert_eq!([0, 1, 2, 3].map(|n| micros(&window, n)), [None, Some(1), Some(3), None]);
    window.acked(1).unwrap();
    assert_eq!([1, 2].map(|n| micros(&window, n)), [None, Some(3)]);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_refused() {
    let mut window = Window::new(ROOMY);
    window.push(Some(event(1)), Some(1), 1).unwrap();
    assert_eq!(window.acked(1), Err(NotSent));
}

#[derive(Clone, Debug)]
enum Step {
    Push { rejected: bool, qos1: bool },
    Send(usize),
    Ack(u64),
    Rewind,
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (prop::bool::weighted(0.2), any::<bool>());
    let step = prop_oneof![
        4 => push.prop_map(|(rejected, qos1)| Step::Push { rejected, qos1 }),
        2 => (1..5_usize).prop_map(Step::Send),
        2 => (0..6_u64).prop_map(Step::Ack),
        1 => Just(Step::Rewind),
        1 => Just(Step::Reconnect),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Every receipt comes once, in order, and only when all events before it are acknowledged.
    #[test]
    fn receipts_come_in_order_and_only_for_what_is_stored(steps in steps()) {
        let mut window = Window::new(ROOMY);
        let (mut pushed, mut stored) = (Vec::new(), 0_usize);
        let (mut on_stream, mut acked) = (Vec::<usize>::new(), 0_u64);
        let (mut receipts, mut void) = (Vec::new(), BTreeSet::new());
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
                Step::Reconnect => {
                    window.void_receipts();
                    void.extend((0..pushed.len()).filter(|n| !receipts.contains(n)));
                }
            }
            // Everything before the first event that is not stored.
            let settled = (0..pushed.len()).take_while(|n| pushed[*n].0 || *n < stored);
            let expected: Vec<_> = settled.filter(|n| pushed[*n].1 && !void.contains(n)).collect();
            prop_assert_eq!(&receipts, &expected);
        }
        window.rewind();
        while window.next_batch(7, 1000).is_some() {}
        receipts.extend(window.acked(window.sent).unwrap());
        receipts.extend(window.settled());
        let owed = (0..pushed.len()).filter(|n| pushed[*n].1 && !void.contains(n)).count();
        prop_assert_eq!(receipts.len(), owed);
        prop_assert!(window.is_empty() && window.bytes == 0 && window.owed == 0);
    }
}
