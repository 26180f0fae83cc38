//! Who gets what, as watchers come, go and fall behind.

use futures::FutureExt;
use telemetry_model::{Cursor, EventKind, TimeSource, Timestamp};

use super::*;

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

fn one(id: &str) -> Arc<Selection> {
    Arc::new(Selection::one(device(id)))
}

fn event(id: &str, position: i64) -> StoredEvent {
    let (device, time) = (device(id), Timestamp::EPOCH);
    StoredEvent {
        cursor: Cursor { partition: device.partition(), position },
        device,
        kind: EventKind::Heartbeat,
        time,
        time_source: TimeSource::Received,
        received: time,
        readings: vec![],
        presence: None,
        trace: None,
    }
}

fn all_at(position: i64) -> Positions {
    Partition::all().map(|partition| (partition, position)).collect()
}

/// As if these had been read, up to this position everywhere.
fn grows(hub: &Hub, events: &[(&str, i64)], upto: i64) {
    let (partitions, _) = hub.lock().stands();
    let events = events.iter().map(|(id, position)| event(id, *position)).collect();
    hub.lock().hand_out(events, &partitions, &all_at(upto));
}

fn taken(subscription: &Subscription, after: &mut Positions) -> Option<Vec<i64>> {
    let events = subscription.take(after)?;
    Some(events.iter().map(|event| event.cursor.position).collect())
}

#[tokio::test]
async fn each_gets_its_own_and_those_gone_are_forgotten() {
    let hub = Hub::default();
    let (fern, all) = (
        hub.subscribe(&one("fern-1")),
        hub.subscribe(&Arc::new(Selection::prefixes(vec![String::new()]))),
    );
    hub.lock().begin(&all_at(4));
    assert!(fern.news().now_or_never().is_some() && all.news().now_or_never().is_some());
    let (mut at_fern, mut at_all) = (all_at(4), all_at(4));
    grows(&hub, &[("moss-1", 5)], 5);
    assert!(fern.news().now_or_never().is_none(), "not its device");
    assert_eq!(taken(&all, &mut at_all), Some(vec![5]));
    grows(&hub, &[("fern-1", 6), ("fern-1", 7)], 7);
    assert!(fern.news().now_or_never().is_some());
    assert_eq!(taken(&fern, &mut at_fern), Some(vec![6, 7]));
    assert_eq!(at_fern.get(device("fern-1").partition()), 7);
    assert_eq!(taken(&fern, &mut at_fern), Some(vec![]));
    drop((fern, all));
    let watchers = hub.lock();
    assert!(watchers.mailboxes.is_empty() && watchers.by_device.is_empty());
    assert!(watchers.by_prefix.is_empty() && watchers.partitions.is_empty());
}

#[tokio::test]
async fn nothing_is_given_to_who_has_not_read_up_to_where_it_begins() {
    let hub = Hub::default();
    let fern = hub.subscribe(&one("fern-1"));
    let mut at = all_at(2);
    assert_eq!(taken(&fern, &mut at), None, "nothing is read yet");
    hub.lock().begin(&all_at(4));
    grows(&hub, &[("fern-1", 5)], 5);
    assert_eq!(taken(&fern, &mut at), None, "3 and 4 may be its own");
    let mut at = all_at(5);
    grows(&hub, &[("fern-1", 6)], 6);
    assert_eq!(taken(&fern, &mut at), Some(vec![6]), "5 is known already");
    hub.lock().forget();
    assert_eq!(taken(&fern, &mut at), None);
}

#[tokio::test]
async fn who_falls_behind_reads_the_log_and_holds_up_nobody() {
    let hub = Hub::default();
    let (slow, quick) = (hub.subscribe(&one("fern-1")), hub.subscribe(&one("fern-1")));
    hub.lock().begin(&all_at(0));
    let (mut at_slow, mut at_quick) = (all_at(0), all_at(0));
    for position in 1..=3000 {
        grows(&hub, &[("fern-1", position)], position);
        assert_eq!(taken(&quick, &mut at_quick), Some(vec![position]));
    }
    assert!(hub.lock().mailboxes.values().all(Mailbox::is_empty), "it is not kept for");
    assert_eq!(taken(&slow, &mut at_slow), None);
    grows(&hub, &[("fern-1", 3001)], 3001);
    assert_eq!(taken(&slow, &mut at_slow), None, "it has not read 3000 yet");
    let mut at_slow = all_at(3000);
    assert_eq!(taken(&slow, &mut at_slow), Some(vec![3001]));
}
