//! The window: order, bound, and every message counted.

mod model;

use telemetry_model::{DeviceId, EventKind, Timestamp};

use super::*;

fn message(n: i64) -> Message {
    let device = DeviceId::parse("fern-1").unwrap();
    let received = Timestamp::from_micros(n).unwrap();
    let event =
        Event { device, kind: EventKind::Heartbeat, received, samples: vec![], trace: None };
    Message { topic: "devices/fern-1/heartbeat".into(), qos: 1, event: Some(event), refusal: None }
}

fn number(message: &Message) -> i64 {
    message.event.as_ref().unwrap().received.micros()
}

/// A receipt that is the packet id as well, of a delivery that says always the same.
fn owed(packet_id: u16) -> Owed<u16> {
    Owed { identity: identity(packet_id), receipt: packet_id }
}

fn identity(packet_id: u16) -> Identity {
    Identity { packet_id, fingerprint: 7 }
}

const ROOMY: Limits = Limits { owed: 1000, bytes: 1 << 20 };

#[test]
fn what_was_let_go_is_acknowledged_in_its_turn() {
    let mut window = Window::new(ROOMY);
    window.let_go(Reason::Retained, Some(owed(1)));
    assert_eq!(window.settled(), [1]);
    window.push(message(2), Some(owed(2)), 1).unwrap();
    window.let_go(Reason::Retained, Some(owed(3)));
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
    window.push(message(1), None, 500).unwrap();
    assert_eq!(window.push(message(2), None, 1), Err(Full));
    assert_eq!(window.push(message(2), Some(owed(2)), 1), Err(Full));
    assert!(!window.has_room());
    window.next_batch(1, 1).unwrap();
    window.acked(1).unwrap();
    window.push(message(3), None, 50).unwrap();
    assert_eq!(window.push(message(4), None, 1), Err(Full), "half is for those with a receipt");
    window.push(message(5), Some(owed(5)), 25).unwrap();
    window.push(message(6), Some(owed(6)), 25).unwrap();
    assert_eq!(
        window.push(message(7), Some(owed(7)), 0),
        Err(Full),
        "more than the broker was to send"
    );
    assert!(!window.takes(1));
    window.let_go(Reason::WindowFull, None);
    assert_eq!(window.deliveries.len(), 3, "nothing is owed for what was let go at QoS 0");
    assert_eq!(window.counts().received, 5, "what did not fit did not come");
}

#[test]
fn what_comes_with_a_receipt_may_take_all_of_the_memory() {
    let mut window = Window::new(Limits { owed: 10, bytes: 100 });
    window.push(message(1), Some(owed(1)), 60).unwrap();
    assert!(window.takes(40) && !window.takes(41));
    window.push(message(2), None, 10).unwrap();
    window.push(message(3), Some(owed(3)), 20).unwrap();
    window.void_receipts();
    assert!(window.takes(10) && !window.takes(11), "what has lost its receipt is what it was");
    window.next_batch(1, 100).unwrap();
    window.acked(1).unwrap();
    assert!(window.takes(40) && !window.takes(41), "half, but for what is there");
    window.push(message(4), Some(owed(4)), 70).unwrap();
    assert_eq!(window.push(message(5), Some(owed(5)), 1), Err(Full));
}

#[test]
fn what_comes_again_is_acknowledged_on_the_new_connection_and_not_taken_twice() {
    let mut window = Window::new(ROOMY);
    for n in [1, 2, 3] {
        assert!(!window.knows(identity(n), false));
        window.push(message(n.into()), Some(owed(n)), 1).unwrap();
    }
    window.next_batch(2, 10).unwrap();
    window.void_receipts();
    assert_eq!((window.owed(), window.in_flight(), window.first_held()), (0, 3, 1));
    assert!(window.acked(1).unwrap().is_empty(), "settled while there was no connection");
    for n in [1, 2] {
        assert!(window.knows(identity(n), true), "{n}");
        window.let_go(Reason::Redelivered, Some(owed(n)));
    }
    assert!(window.settled().is_empty(), "not before what is ahead of it");
    // The connection is lost amid all this: what was not sent yet is sent once.
    window.void_receipts();
    for n in [1, 2, 3] {
        assert!(window.knows(identity(n), true), "{n}");
        window.let_go(Reason::Redelivered, Some(owed(n)));
    }
    let batch = window.next_batch(10, 10).unwrap();
    assert_eq!((batch.first_sequence, number(batch.messages[0]), batch.messages.len()), (3, 3, 1));
    assert_eq!(window.acked(3).unwrap(), [1, 2, 3]);
    assert!(window.is_empty());
    let dropped = [(Reason::Redelivered, 5)].into();
    assert_eq!(*window.counts(), Counts { received: 8, dropped });
}

#[test]
fn what_is_not_the_same_delivery_is_new() {
    let held = || {
        let mut window = Window::new(ROOMY);
        window.push(message(1), Some(owed(1)), 1).unwrap();
        window.void_receipts();
        window
    };
    assert!(held().knows(identity(1), true));
    assert!(!held().knows(identity(1), false), "not marked");
    assert!(!held().knows(identity(2), true), "another id");
    assert!(!held().knows(Identity { fingerprint: 8, ..identity(1) }, true), "another text");
    let mut window = held();
    window.session_lost();
    assert!(!window.knows(identity(1), true), "another session");
}

#[test]
fn a_lost_acknowledgement_is_sent_again_if_it_is_certain_that_it_was_lost() {
    let settled = |held: bool| {
        let mut window = Window::new(ROOMY);
        window.push(message(1), Some(owed(1)), 1).unwrap();
        window.next_batch(10, 10).unwrap();
        assert_eq!(window.acked(1).unwrap(), [1]);
        if held {
            window.push(message(2), Some(owed(2)), 1).unwrap();
        }
        window.void_receipts();
        window
    };
    assert!(settled(true).knows(identity(1), true), "it comes before what is held");
    assert!(!settled(false).knows(identity(1), true), "it may be new");
    let mut window = settled(true);
    assert!(window.knows(identity(2), true));
    assert!(!window.knows(identity(1), true), "it comes after what was held, so it is new");
}

#[test]
fn knows_the_message_of_a_sequence() {
    let mut window = Window::new(ROOMY);
    for n in [1, 3, 4] {
        window.push(message(n.into()), Some(owed(n)), 1).unwrap();
    }
    window.next_batch(2, 10).unwrap();
    let sent = |window: &Window<u16>, sequence| window.sent_message(sequence).map(number);
    assert_eq!([0, 1, 2, 3].map(|n| sent(&window, n)), [None, Some(1), Some(3), None]);
    window.acked(1).unwrap();
    assert_eq!([1, 2].map(|n| sent(&window, n)), [None, Some(3)]);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_refused() {
    let mut window = Window::new(ROOMY);
    window.push(message(1), Some(owed(1)), 1).unwrap();
    assert_eq!(window.acked(1), Err(NotSent));
    assert_eq!(window.resume(2), Err(NotSent));
    assert_eq!(window.resume(1).unwrap(), [1], "what an earlier stream carried was sent");
}
