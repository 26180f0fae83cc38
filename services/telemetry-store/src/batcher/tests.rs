//! When a batch is written, and who is told.

use telemetry_model::{DeviceId, EventKind, Timestamp};

use super::*;
use crate::storage::fake::FakeStorage;

fn events(count: usize) -> Vec<Event> {
    let device = DeviceId::parse("fern-1").unwrap();
    let (kind, received) = (EventKind::Heartbeat, Timestamp::EPOCH);
    vec![Event { device, kind, received, samples: vec![] }; count]
}

fn start(storage: &Arc<FakeStorage>) -> (Batcher, tokio::task::JoinSet<Result<()>>) {
    let (batcher, task) = Batcher::new(Arc::clone(storage) as Arc<dyn Storage>);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(task);
    (batcher, tasks)
}

#[tokio::test(start_paused = true)]
async fn submissions_that_come_together_are_one_batch() {
    let storage = Arc::new(FakeStorage::new(0));
    let (batcher, _tasks) = start(&storage);
    let began = Instant::now();
    let first = batcher.submit(events(2), false).await.unwrap();
    let second = batcher.submit(events(3), false).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap().stored, 2);
    assert_eq!(second.await.unwrap().unwrap().stored, 3);
    assert_eq!(storage.batches(), [5]);
    assert_eq!(began.elapsed(), MAX_DELAY);
}

#[tokio::test(start_paused = true)]
async fn a_flush_or_a_full_batch_does_not_wait() {
    let storage = Arc::new(FakeStorage::new(0));
    let (batcher, _tasks) = start(&storage);
    let began = Instant::now();
    batcher.submit(events(1), true).await.unwrap().await.unwrap().unwrap();
    batcher.submit(events(MAX_EVENTS), false).await.unwrap().await.unwrap().unwrap();
    assert_eq!(storage.batches(), [1, MAX_EVENTS]);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_batch_is_written_is_the_next_batch() {
    let storage = Arc::new(FakeStorage::new(0));
    storage.hold();
    let (batcher, _tasks) = start(&storage);
    let mut outcomes = vec![batcher.submit(events(1), true).await.unwrap()];
    tokio::task::yield_now().await;
    for _ in 0..3 {
        outcomes.push(batcher.submit(events(1), true).await.unwrap());
    }
    storage.release(2);
    for outcome in outcomes {
        outcome.await.unwrap().unwrap();
    }
    assert_eq!(storage.batches(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_everyone_in_the_batch_and_nobody_else() {
    let storage = Arc::new(FakeStorage::new(0));
    storage.fail_next(Error::Unavailable("on purpose".into()));
    let (batcher, _tasks) = start(&storage);
    let first = batcher.submit(events(1), false).await.unwrap();
    let second = batcher.submit(events(1), true).await.unwrap();
    for outcome in [first, second] {
        assert!(matches!(*outcome.await.unwrap().unwrap_err(), Error::Unavailable(_)));
    }
    batcher.submit(events(1), true).await.unwrap().await.unwrap().unwrap();
    assert_eq!(storage.batches(), [1]);
}

#[tokio::test(start_paused = true)]
async fn closing_writes_what_is_there() {
    let storage = Arc::new(FakeStorage::new(0));
    let (batcher, mut tasks) = start(&storage);
    let outcome = batcher.submit(events(1), false).await.unwrap();
    drop(batcher);
    outcome.await.unwrap().unwrap();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_holds_submitters_up() {
    let storage = Arc::new(FakeStorage::new(0));
    storage.hold();
    let (batcher, _tasks) = start(&storage);
    drop(batcher.submit(events(1), true).await.unwrap());
    tokio::task::yield_now().await;
    for _ in 0..QUEUE {
        drop(batcher.submit(events(1), true).await.unwrap());
    }
    let waits = tokio::time::timeout(Duration::from_mins(1), batcher.submit(events(1), true));
    assert!(waits.await.is_err());
    storage.release(1);
    batcher.submit(events(1), true).await.unwrap();
}
