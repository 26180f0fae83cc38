//! When a batch is written, and who is told.

use telemetry_model::{DeviceId, Event, EventKind, Timestamp};

use super::*;
use crate::storage::{
    fake::{FakeStorage, POISON},
    testing::of_nobody,
};

fn of(device: &str, count: usize) -> Submission {
    let device = DeviceId::parse(device).unwrap();
    let (kind, received) = (EventKind::Heartbeat, Timestamp::EPOCH);
    of_nobody(vec![Event { device, kind, received, samples: vec![], trace: None }; count])
}

fn events(count: usize) -> Submission {
    of("fern-1", count)
}

fn start(storage: &Arc<FakeStorage>) -> (Batcher, tokio::task::JoinSet<Result<()>>) {
    let (batcher, task, _) = Batcher::new(Arc::clone(storage) as Arc<dyn Storage>);
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
    batcher.submit(events(MAX_MESSAGES), false).await.unwrap().await.unwrap().unwrap();
    assert_eq!(storage.batches(), [1, MAX_MESSAGES]);
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
    storage.fail_next(Error::Internal("on purpose".into()));
    let (batcher, _tasks) = start(&storage);
    let first = batcher.submit(events(1), false).await.unwrap();
    let second = batcher.submit(events(1), true).await.unwrap();
    for outcome in [first, second] {
        assert!(matches!(*outcome.await.unwrap().unwrap_err(), Error::Internal(_)));
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
    let mut outcomes = vec![batcher.submit(events(1), true).await.unwrap()];
    tokio::task::yield_now().await;
    for _ in 0..QUEUE {
        outcomes.push(batcher.submit(events(1), true).await.unwrap());
    }
    let waits = tokio::time::timeout(Duration::from_mins(1), batcher.submit(events(1), true));
    assert!(waits.await.is_err());
    storage.release(1);
    batcher.submit(events(1), true).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_for_a_moment_is_waited_for() {
    let storage = Arc::new(FakeStorage::new(0));
    let (batcher, task, failed_at) = Batcher::new(Arc::clone(&storage) as Arc<dyn Storage>);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(task);
    for _ in 0..3 {
        storage.fail_next(Error::Unavailable("on purpose".into()));
    }
    let outcome = batcher.submit(events(1), true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(failed_at.borrow().is_some());
    outcome.await.unwrap().unwrap();
    assert!(failed_at.borrow().is_none());
    for _ in 0..20 {
        storage.fail_next(Error::Unavailable("on purpose".into()));
    }
    let outcome = batcher.submit(events(1), true).await.unwrap();
    assert!(matches!(*outcome.await.unwrap().unwrap_err(), Error::Unavailable(_)), "at last");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_database_refuses_costs_nobody_elses() {
    let storage = Arc::new(FakeStorage::new(0));
    storage.hold();
    let (batcher, _tasks) = start(&storage);
    let busy = batcher.submit(events(1), true).await.unwrap();
    tokio::task::yield_now().await;
    let mut mixed = events(20);
    mixed.messages.extend(of(POISON, 1).messages);
    mixed.messages.extend(events(20).messages);
    let before = batcher.submit(events(3), false).await.unwrap();
    let mixed = batcher.submit(mixed, false).await.unwrap();
    let after = batcher.submit(events(5), true).await.unwrap();
    storage.release(1000);
    busy.await.unwrap().unwrap();
    let tally = |outcome: Outcome| outcome.map(|tally| (tally.stored, tally.quarantined)).unwrap();
    assert_eq!(tally(before.await.unwrap()), (3, 0));
    assert_eq!(tally(mixed.await.unwrap()), (40, 1));
    assert_eq!(tally(after.await.unwrap()), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_left_to_its_sender() {
    let storage = Arc::new(FakeStorage::new(0));
    let (batcher, _tasks) = start(&storage);
    drop(batcher.submit(events(2), false).await.unwrap());
    batcher.submit(events(3), true).await.unwrap().await.unwrap().unwrap();
    drop(batcher.submit(events(4), true).await.unwrap());
    batcher.submit(events(5), true).await.unwrap().await.unwrap().unwrap();
    assert_eq!(storage.batches(), [3, 5]);
}
