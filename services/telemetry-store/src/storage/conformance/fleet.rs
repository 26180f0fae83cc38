//! How many devices and metrics there may be.

use telemetry_model::{Event, Submission, Tally, Value};

use super::{Fresh, all, on_each_backend, telemetry};
use crate::storage::{Fleet, QuarantineQuery, testing::message};

on_each_backend!(what_is_new_beyond_the_limits_is_kept_aside);

async fn append(fresh: &Fresh, events: Vec<Event>) -> Tally {
    let messages = events.into_iter().map(message).collect();
    let batch = [Submission { messages, ..Submission::default() }];
    fresh.storage.append(&batch).await.unwrap().remove(0).unwrap()
}

async fn reasons(fresh: &Fresh) -> Vec<String> {
    let query = QuarantineQuery { limit: 100, ..QuarantineQuery::default() };
    let kept = fresh.storage.quarantine(&query).await.unwrap();
    kept.into_iter().rev().map(|kept| kept.refusal.reason).collect()
}

async fn what_is_new_beyond_the_limits_is_kept_aside(fresh: &mut Fresh) {
    fresh.reopen_with(Fleet { devices: 2, metrics: 2 }).await;
    let one =
        |id: &str, seconds, metric: &str| telemetry(id, seconds, &[(metric, Value::Number(1.0))]);
    let tally = append(fresh, vec![one("a", 0, "t"), one("b", 0, "u")]).await;
    assert_eq!((tally.stored, tally.quarantined), (2, 0));
    // Two more devices, and a metric more; those there are go on in the same batch.
    let half = telemetry("b", 1, &[("t", Value::Number(1.0)), ("v", Value::Number(2.0))]);
    let batch = vec![one("a", 1, "t"), one("c", 1, "t"), half, one("d", 1, "v"), one("a", 2, "v")];
    let tally = append(fresh, batch).await;
    assert_eq!((tally.stored, tally.quarantined, tally.partial), (2, 3, 1));
    let refused = ["too_many_devices", "too_many_metrics", "too_many_devices", "too_many_metrics"];
    assert_eq!(reasons(fresh).await, refused);
    assert_eq!(
        (all(&fresh.storage, "a").await.len(), all(&fresh.storage, "b").await.len()),
        (2, 2)
    );
    assert!(fresh.storage.device(&super::device("c")).await.unwrap().is_none());

    // Another process knows who was there, and a higher limit lets more in.
    fresh.reopen_with(Fleet { devices: 3, metrics: 2 }).await;
    let tally = append(fresh, vec![one("b", 3, "u"), one("e", 3, "t"), one("f", 3, "t")]).await;
    assert_eq!((tally.stored, tally.quarantined), (2, 1));
}
