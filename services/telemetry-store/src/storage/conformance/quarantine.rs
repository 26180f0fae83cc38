//! The quarantine: what is kept, how it is found, and how much fits.

use sqlx::{Connection, Executor, SqliteConnection};
use telemetry_model::{DeviceClock, EventKind, Message, Refusal, Submission, Tally, Value};

use super::{Fresh, all, at, device, on_each_backend, prune_before, sample, telemetry};
use crate::storage::{QuarantineQuery, Quarantined, testing::of_nobody};

on_each_backend!(
    what_was_refused_is_kept_as_it_came,
    the_good_part_of_a_message_is_stored,
    what_is_too_old_is_kept_aside,
    the_newest_come_first_and_filters_hold,
    a_full_quarantine_lets_go_and_counts,
    the_bad_part_without_room_is_counted_as_lost,
    age_makes_room,
);

fn refusal(payload: &[u8]) -> Refusal {
    Refusal {
        device: Some(device("fern-1")),
        kind: Some(EventKind::Telemetry),
        received: at(0),
        reason: "not_json".into(),
        field: "payload".into(),
        detail: "expected value at line 1".into(),
        payload: payload.to_vec(),
    }
}

fn refused(refusal: Refusal) -> Message {
    let topic = "devices/fern-1/telemetry".into();
    Message { topic, qos: 1, event: None, refusal: Some(refusal) }
}

fn batch(messages: Vec<Message>) -> [Submission; 1] {
    [Submission { messages, ..Submission::default() }]
}

fn query() -> QuarantineQuery {
    QuarantineQuery { limit: 100, ..QuarantineQuery::default() }
}

async fn kept(fresh: &Fresh) -> Vec<Quarantined> {
    fresh.storage.quarantine(&query()).await.unwrap()
}

async fn what_was_refused_is_kept_as_it_came(fresh: &mut Fresh) {
    let bytes = [0_u8, 255, 10, 39];
    let odd = Refusal { device: None, kind: None, ..refusal(&bytes) };
    let messages = vec![refused(refusal(b"not json")), refused(odd.clone())];
    let tally = Tally { quarantined: 2, ..Tally::default() };
    assert_eq!(fresh.storage.append(&batch(messages)).await.unwrap(), [Some(tally)]);
    let kept = kept(fresh).await;
    let refusals: Vec<_> = kept.iter().map(|kept| kept.refusal.clone()).collect();
    assert_eq!(refusals, [odd, refusal(b"not json")]);
    let first = &kept[0];
    assert_eq!((&*first.topic, first.qos, first.partial), ("devices/fern-1/telemetry", 1, false));
    fresh.storage.release(&[first.id]).await.unwrap();
    assert_eq!(self::kept(fresh).await.len(), 1);
}

async fn the_good_part_of_a_message_is_stored(fresh: &mut Fresh) {
    let event = Some(telemetry("fern-1", 0, &[("t", Value::Integer(1))]));
    let message = Message { event, ..refused(refusal(b"{\"t\":1,\"x\":1e999}")) };
    let tally = Tally { stored: 1, partial: 1, readings_stored: 1, ..Tally::default() };
    assert_eq!(fresh.storage.append(&batch(vec![message])).await.unwrap(), [Some(tally)]);
    assert!(kept(fresh).await[0].partial);
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 1);
}

async fn what_is_too_old_is_kept_aside(fresh: &mut Fresh) {
    let day = 24 * 60 * 60;
    let value = [("t", Value::Number(1.5))];
    let mut mixed = telemetry("fern-1", 0, &value);
    mixed.samples.push(sample(DeviceClock::Wall(at(-11 * day)), &value));
    let mut old = telemetry("moss-1", -11 * day, &value);
    old.received = at(0);
    let mut late = telemetry("moss-1", -9 * day, &value);
    late.received = at(0);
    let tally =
        Tally { stored: 2, partial: 1, quarantined: 1, readings_stored: 2, ..Tally::default() };
    let outcome = fresh.storage.append(&[of_nobody(vec![mixed, old, late])]).await.unwrap();
    assert_eq!(outcome, [Some(tally)]);
    let kept = kept(fresh).await;
    let reasons: Vec<_> = kept.iter().map(|kept| (&*kept.refusal.reason, kept.partial)).collect();
    assert_eq!(reasons, [("too_old", false), ("too_old", true)]);
    let payload = str::from_utf8(&kept[0].refusal.payload).unwrap();
    assert_eq!(payload, r#"{"t":1.5,"timestamp":"2025-12-27T12:00:00Z"}"#);
    assert_eq!(all(&fresh.storage, "moss-1").await[0].time, at(-9 * day));
}

async fn the_newest_come_first_and_filters_hold(fresh: &mut Fresh) {
    for n in 0..9_u8 {
        let device = Some(device(["fern-1", "moss-1", "ivy-1"][usize::from(n % 3)]));
        let reason = if n < 6 { "not_json" } else { "not_utf8" }.into();
        let refusal = Refusal { device, reason, ..refusal(&[n]) };
        fresh.storage.append(&batch(vec![refused(refusal)])).await.unwrap();
    }
    let found = async |query: QuarantineQuery| -> Vec<u8> {
        let kept = fresh.storage.quarantine(&query).await.unwrap();
        kept.iter().map(|kept| kept.refusal.payload[0]).collect()
    };
    let moss = QuarantineQuery { device: Some(device("moss-1")), ..query() };
    assert_eq!(found(query()).await, [8, 7, 6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(found(moss.clone()).await, [7, 4, 1]);
    assert_eq!(found(QuarantineQuery { reason: Some("not_utf8".into()), ..moss }).await, [7]);
    let first = fresh.storage.quarantine(&QuarantineQuery { limit: 2, ..query() }).await.unwrap();
    let before = Some(first[1].id);
    assert_eq!(found(QuarantineQuery { before, limit: 3, ..query() }).await, [6, 5, 4]);
    let ids = vec![first[0].id, first[1].id, -1];
    assert_eq!(found(QuarantineQuery { ids, ..query() }).await, [8, 7]);
}

async fn a_full_quarantine_lets_go_and_counts(fresh: &mut Fresh) {
    let messages = (0..5).map(|_| refused(refusal("x".repeat(30_000).as_bytes()))).collect();
    let tally = Tally { quarantined: 3, quarantine_full: 2, ..Tally::default() };
    assert_eq!(fresh.storage.append(&batch(messages)).await.unwrap(), [Some(tally)]);
    assert_eq!(kept(fresh).await.len(), 3);
    // It is as full after a restart, and has room again after one has left.
    fresh.reopen().await;
    let more = || batch(vec![refused(refusal("x".repeat(30_000).as_bytes()))]);
    assert_eq!(fresh.storage.append(&more()).await.unwrap()[0].unwrap().quarantine_full, 1);
    fresh.storage.release(&[kept(fresh).await[0].id]).await.unwrap();
    fresh.storage.measure_quarantine().await.unwrap();
    assert_eq!(fresh.storage.append(&more()).await.unwrap()[0].unwrap().quarantined, 1);
}

async fn the_bad_part_without_room_is_counted_as_lost(fresh: &mut Fresh) {
    fresh
        .storage
        .append(&batch(vec![refused(refusal("x".repeat(99_000).as_bytes()))]))
        .await
        .unwrap();
    let event = Some(telemetry("fern-1", 0, &[("t", Value::Integer(1))]));
    let message = Message { event, ..refused(refusal("x".repeat(9000).as_bytes())) };
    let tally = Tally { stored: 1, partial_lost: 1, readings_stored: 1, ..Tally::default() };
    assert_eq!(fresh.storage.append(&batch(vec![message])).await.unwrap(), [Some(tally)]);
}

async fn age_makes_room(fresh: &mut Fresh) {
    let old = Refusal { received: at(-60), ..refusal("x".repeat(90_000).as_bytes()) };
    fresh.storage.append(&batch(vec![refused(old)])).await.unwrap();
    let more = || batch(vec![refused(refusal("y".repeat(90_000).as_bytes()))]);
    assert_eq!(fresh.storage.append(&more()).await.unwrap()[0].unwrap().quarantine_full, 1);
    prune_before(&fresh.storage, at(-1)).await.unwrap();
    assert_eq!(fresh.storage.append(&more()).await.unwrap()[0].unwrap().quarantined, 1);
    assert_eq!(kept(fresh).await[0].refusal.payload[0], b'y');
}

#[tokio::test]
async fn an_append_that_fails_takes_no_room() {
    let fresh = Fresh::sqlite().await;
    let mut session = SqliteConnection::connect(fresh.database_url()).await.unwrap();
    let refuse =
        "CREATE TRIGGER no BEFORE INSERT ON quarantine BEGIN SELECT RAISE(ABORT, 'no'); END";
    session.execute(refuse).await.unwrap();
    let large = || batch(vec![refused(refusal("x".repeat(60_000).as_bytes()))]);
    for _ in 0..3 {
        fresh.storage.append(&large()).await.unwrap_err();
    }
    session.execute("DROP TRIGGER no").await.unwrap();
    assert_eq!(fresh.storage.append(&large()).await.unwrap()[0].unwrap().quarantined, 1);
    session.close().await.unwrap();
    fresh.close().await;
}
