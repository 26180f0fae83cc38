//! What a watcher tells, and when, as the log grows, fails and is cut.

use futures::FutureExt;
use proptest::prelude::*;
use telemetry_model::{Event, EventKind, Timestamp};

use super::*;
use crate::storage::fake::FakeStorage;
use crate::storage::testing::AppendEvents;

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

fn heartbeat(id: &str, n: i64) -> Event {
    let received = Timestamp::from_micros(n).unwrap();
    Event { device: device(id), kind: EventKind::Heartbeat, received, samples: vec![] }
}

fn position(id: &str, position: i64) -> Start {
    Start::After(Cursor { partition: device(id).partition(), position })
}

async fn open(storage: &Arc<FakeStorage>, hub: &Hub, start: Start) -> Result<Watcher> {
    let storage = Arc::clone(storage) as Arc<dyn Storage>;
    Watcher::open(storage, hub, device("fern-1"), start).await
}

/// A hub that follows the storage, as long as the set lives.
fn follow(storage: &FakeStorage) -> (Hub, tokio::task::JoinSet<Result<()>>) {
    let hub = Hub::default();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(hub.clone().run(storage.commits(), tokio_util::sync::CancellationToken::new()));
    (hub, tasks)
}

#[tokio::test(start_paused = true)]
async fn from_now_on_means_only_what_is_committed_later() {
    let storage = Arc::new(FakeStorage::new(0));
    let (hub, _tasks) = follow(&storage);
    storage.append_events(&[heartbeat("fern-1", 1)]).await.unwrap();
    let mut watcher = open(&storage, &hub, Start::Now).await.unwrap();
    let first = watcher.next().await.unwrap();
    assert_eq!((first.events.len(), first.caught_up), (0, true));
    storage.append_events(&[heartbeat("fern-1", 2)]).await.unwrap();
    let second = watcher.next().await.unwrap();
    assert_eq!(second.events[0].received.micros(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_tells_progress_past_other_devices() {
    let storage = Arc::new(FakeStorage::new(0));
    let (hub, _tasks) = follow(&storage);
    let mut watcher = open(&storage, &hub, Start::Now).await.unwrap();
    watcher.next().await.unwrap();
    storage.append_events(&[heartbeat("moss-1", 1), heartbeat("moss-1", 2)]).await.unwrap();
    let began = Instant::now();
    let progress = watcher.next().await.unwrap();
    assert_eq!(began.elapsed(), PROGRESS_EVERY);
    assert_eq!((progress.cursor.position, progress.events.len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_delays_but_loses_nothing() {
    let storage = Arc::new(FakeStorage::new(0));
    let mut watcher = open(&storage, &Hub::default(), Start::Now).await.unwrap();
    watcher.next().await.unwrap();
    storage.append_events(&[heartbeat("fern-1", 1)]).await.unwrap();
    assert_eq!(watcher.next().await.unwrap().events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_is_waited_for() {
    let storage = Arc::new(FakeStorage::new(0));
    let (hub, _tasks) = follow(&storage);
    let mut watcher = open(&storage, &hub, Start::Now).await.unwrap();
    watcher.next().await.unwrap();
    storage.append_events(&[heartbeat("fern-1", 1)]).await.unwrap();
    storage.fail_next(Error::Unavailable("on purpose".into()));
    assert_eq!(watcher.next().await.unwrap().events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_outside_the_log_is_refused() {
    let storage = Arc::new(FakeStorage::new(10));
    for outside in [9, 11] {
        let error = open(&storage, &Hub::default(), position("fern-1", outside)).await.unwrap_err();
        let Error::CursorExpired { oldest, newest, .. } = error else { panic!("{error}") };
        assert_eq!((oldest.position, newest.position), (10, 10));
    }
    assert!(open(&storage, &Hub::default(), position("fern-1", 10)).await.is_ok());
    assert!(open(&storage, &Hub::default(), Start::Oldest).await.is_ok());
}

proptest! {
    /// However appends, reads and reconnects interleave, the watcher tells each event once and in order.
    #[test]
    fn ordered_unique_and_without_gap(steps in prop::collection::vec(0..4_u8, 1..60)) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(async {
            let storage = Arc::new(FakeStorage::new(0));
            let (hub, _tasks) = follow(&storage);
            let mut watcher = open(&storage, &hub, Start::Now).await.unwrap();
            let (mut sent, mut told) = (0, Vec::new());
            for step in steps.into_iter().chain([2, 2, 2]) {
                match step {
                    0 => {
                        sent += 1;
                        storage.append_events(&[heartbeat("fern-1", sent)]).await.unwrap();
                    }
                    1 => _ = storage.append_events(&[heartbeat("moss-1", 0)]).await.unwrap(),
                    2 => told.extend(watcher.next().await.unwrap().events),
                    _ => {
                        // A reconnect in the middle of a wait, resumed by cursor.
                        assert!(watcher.next().now_or_never().is_none_or(|update| {
                            told.extend(update.unwrap().events);
                            true
                        }));
                        watcher = open(&storage, &hub, Start::After(watcher.cursor)).await.unwrap();
                    }
                }
            }
            let told: Vec<_> = told.iter().map(|event| event.received.micros()).collect();
            assert_eq!(told, (1..=sent).collect::<Vec<_>>());
        });
    }
}
