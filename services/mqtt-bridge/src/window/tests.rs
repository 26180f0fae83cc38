//! The window against a naive model: order, no loss, bound, and every message counted.

use std::collections::BTreeSet;

use proptest::prelude::*;
use telemetry_model::{DeviceId, EventKind, Timestamp};

use super::*;

fn message(n: i64) -> Message {
    let device = DeviceId::parse("fern-1").unwrap();
    let received = Timestamp::from_micros(n).unwrap();
    let event = Event { device, kind: EventKind::Heartbeat, received, samples: vec![] };
    Message { topic: "devices/fern-1/heartbeat".into(), qos: 1, event: Some(event), refusal: None }
}

fn number(message: &Message) -> i64 {
    message.event.as_ref().unwrap().received.micros()
}

const ROOMY: Limits = Limits { owed: 1000, bytes: 1 << 20 };

#[test]
fn what_was_let_go_is_acknowledged_in_its_turn() {
    let mut window = Window::new(ROOMY);
    window.let_go(Reason::Retained, Some(1));
    assert_eq!(window.settled(), [1]);
    window.push(message(2), Some(2), 1).unwrap();
    window.let_go(Reason::Retained, Some(3));
    assert!(window.settled().is_empty(), "not before the message ahead of it");
    assert!(window.next_batch(10, 10).unwrap().is_last);
    assert_eq!(window.acked(1).unwrap(), [2, 3]);
    assert!(window.is_empty());
    let dropped = [(Reason::Retained, 2)].into();
    assert_eq!(*window.counts(), Counts { received: 3, dropped });
}

#[test]
fn is_bounded_but_takes_one_delivery_of_any_size() {
    let mut window = Window::new(Limits { owed: 2, bytes: 100 });
    window.push(message(1), None::<u8>, 500).unwrap();
    assert_eq!(window.push(message(2), None, 1), Err(Full));
    assert_eq!(window.push(message(2), Some(2), 1), Err(Full));
    assert!(!window.has_room());
    window.next_batch(1, 1).unwrap();
    window.acked(1).unwrap();
    window.push(message(3), None, 50).unwrap();
    assert_eq!(window.push(message(4), None, 1), Err(Full), "half is for those with a receipt");
    window.push(message(5), Some(5), 25).unwrap();
    window.push(message(6), Some(6), 25).unwrap();
    assert_eq!(window.push(message(7), Some(7), 0), Err(Full), "more than the broker was to send");
    window.let_go(Reason::WindowFull, None);
    assert_eq!(window.deliveries.len(), 3, "nothing is owed for what was let go at QoS 0");
    assert_eq!(window.counts().received, 5, "what did not fit did not come");
}

#[test]
fn a_lost_connection_voids_its_receipts_and_keeps_its_messages() {
    let mut window = Window::new(ROOMY);
    window.push(message(1), Some("old"), 1).unwrap();
    window.void_receipts();
    window.push(message(1), Some("new"), 1).unwrap();
    assert_eq!(window.owed, 1);
    assert_eq!(window.next_batch(10, 10).unwrap().messages.len(), 2);
    assert!(window.awaits_ack());
    assert_eq!(window.acked(2).unwrap(), ["new"]);
    assert!(!window.awaits_ack());
}

#[test]
fn knows_the_message_of_a_sequence() {
    let mut window = Window::new(ROOMY);
    for n in [1, 3, 4] {
        window.push(message(n), Some(n), 1).unwrap();
    }
    window.next_batch(2, 10).unwrap();
    let sent = |window: &Window<i64>, sequence| window.sent_message(sequence).map(number);
    assert_eq!([0, 1, 2, 3].map(|n| sent(&window, n)), [None, Some(1), Some(3), None]);
    window.acked(1).unwrap();
    assert_eq!([1, 2].map(|n| sent(&window, n)), [None, Some(3)]);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_refused() {
    let mut window = Window::new(ROOMY);
    window.push(message(1), Some(1), 1).unwrap();
    assert_eq!(window.acked(1), Err(NotSent));
    assert_eq!(window.resume(2), Err(NotSent));
    assert_eq!(window.resume(1).unwrap(), [1], "what an earlier stream carried was sent");
}

#[derive(Clone, Debug)]
enum Step {
    Push { let_go: bool, qos1: bool },
    Send(usize),
    Ack(u64),
    Resume(u64),
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (prop::bool::weighted(0.2), any::<bool>());
    let step = prop_oneof![
        4 => push.prop_map(|(let_go, qos1)| Step::Push { let_go, qos1 }),
        2 => (1..5_usize).prop_map(Step::Send),
        2 => (0..6_u64).prop_map(Step::Ack),
        1 => (0..6_u64).prop_map(Step::Resume),
        1 => Just(Step::Reconnect),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Every receipt comes once, in order, and only when all messages before it are settled. The
    /// store settles what it was ever sent, whether or not its answer arrives.
    #[test]
    fn receipts_come_in_order_and_only_for_what_is_settled(steps in steps()) {
        let mut window = Window::new(ROOMY);
        let mut pushed = Vec::new();
        // Which of them have numbers, and through which these were sent, acknowledged.
        let (mut numbered, mut sent, mut acked) = (Vec::<usize>::new(), 0_u64, 0_u64);
        let (mut ever_sent, mut receipts, mut void) = (0_u64, Vec::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Push { let_go, qos1 } => {
                    let n = pushed.len();
                    if let_go {
                        window.let_go(Reason::Retained, qos1.then_some(n));
                    } else {
                        window.push(message(i64::try_from(n).unwrap()), qos1.then_some(n), 1).unwrap();
                        numbered.push(n);
                    }
                    pushed.push((let_go, qos1));
                    receipts.extend(window.settled());
                }
                Step::Send(max) => if let Some(batch) = window.next_batch(max, 1000) {
                    prop_assert_eq!(batch.first_sequence, sent + 1);
                    prop_assert!(batch.messages.len() <= max);
                    for message in batch.messages {
                        let n = usize::try_from(number(message)).unwrap();
                        prop_assert_eq!(n, numbered[usize::try_from(sent).unwrap()]);
                        sent += 1;
                    }
                    ever_sent = ever_sent.max(sent);
                },
                Step::Ack(more) => {
                    acked = (acked + more).min(sent);
                    receipts.extend(window.acked(acked).unwrap());
                }
                Step::Resume(more) => {
                    acked = (acked + more).min(ever_sent);
                    sent = acked;
                    receipts.extend(window.resume(acked).unwrap());
                    prop_assert_eq!(window.first_held(), acked + 1);
                }
                Step::Reconnect => {
                    window.void_receipts();
                    void.extend((0..pushed.len()).filter(|n| !receipts.contains(n)));
                }
            }
            // Everything before the first message that is not settled.
            let held = numbered.get(usize::try_from(acked).unwrap()).copied();
            let settled = 0..held.unwrap_or(pushed.len());
            let expected: Vec<_> = settled.filter(|n| pushed[*n].1 && !void.contains(n)).collect();
            prop_assert_eq!(&receipts, &expected);
            let Counts { received, dropped } = window.counts();
            let in_flight = numbered.len() as u64 - acked;
            prop_assert_eq!(*received, acked + in_flight + dropped.values().sum::<u64>());
        }
        receipts.extend(window.resume(numbered.len() as u64).unwrap());
        receipts.extend(window.settled());
        let owed = (0..pushed.len()).filter(|n| pushed[*n].1 && !void.contains(n)).count();
        prop_assert_eq!(receipts.len(), owed);
        prop_assert!(window.is_empty() && window.bytes == 0 && window.owed == 0);
    }
}
