//! What a watcher tells, and when, as the log grows, fails and is cut.

use futures::FutureExt;
use proptest::prelude::*;
use telemetry_model::{DeviceId, Event, EventKind, ManualClock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::fake::FakeStorage;
use crate::storage::testing::AppendEvents;

const HORIZON: Duration = Duration::from_hours(1);

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

fn micros(n: i64) -> Timestamp {
    Timestamp::from_micros(n).unwrap()
}

fn heartbeat(id: &str, n: i64) -> Event {
    let received = micros(n);
    Event { device: device(id), kind: EventKind::Heartbeat, received, samples: vec![], trace: None }
}

fn after(position: i64) -> Start {
    Start::After([(device("fern-1").partition(), position)].into_iter().collect())
}

/// A log, and a hub that follows it as long as this lives.
struct Bed {
    storage: Arc<FakeStorage>,
    sources: Arc<Sources>,
    tasks: JoinSet<Result<()>>,
}

impl Bed {
    fn new(horizon: i64) -> Self {
        let mut bed = Self::without_hub(horizon);
        let storage = Arc::clone(&bed.sources.storage);
        let hub = bed.sources.hub.clone();
        bed.tasks.spawn(hub.run(storage, bed.storage.commits(), CancellationToken::new()));
        bed
    }

    /// One in which no hint is ever heard.
    fn without_hub(horizon: i64) -> Self {
        let storage = Arc::new(FakeStorage::new(horizon));
        let shared = Arc::clone(&storage) as Arc<dyn Storage>;
        let clock = Arc::new(ManualClock::new(micros(0).plus(HORIZON)));
        let sources = Sources::new(shared, Hub::default(), clock, HORIZON);
        Self { storage, sources: Arc::new(sources), tasks: JoinSet::new() }
    }

    async fn open_at(&self, selection: Selection, start: Start) -> Result<Watcher> {
        let request = Request { selection, start, filter: Filter::default(), with_state: false };
        Watcher::open(Arc::clone(&self.sources), request).await
    }

    async fn open(&self, start: Start) -> Result<Watcher> {
        self.open_at(Selection::one(device("fern-1")), start).await
    }

    async fn beats(&self, beats: &[(&str, i64)]) {
        let events: Vec<_> = beats.iter().map(|(id, n)| heartbeat(id, *n)).collect();
        // A failure may be waiting for whoever comes first.
        while self.storage.append_events(&events).await.is_err() {}
    }
}

fn told(update: &Update) -> Vec<i64> {
    update.events.iter().map(|event| event.received.micros()).collect()
}

#[tokio::test(start_paused = true)]
async fn from_now_on_means_only_what_is_committed_later() {
    let bed = Bed::new(0);
    bed.beats(&[("fern-1", 1)]).await;
    let mut watcher = bed.open(Start::Now).await.unwrap();
    let first = watcher.next().await.unwrap();
    assert_eq!((first.events.len(), first.caught_up), (0, true));
    bed.beats(&[("fern-1", 2)]).await;
    assert_eq!(told(&watcher.next().await.unwrap()), [2]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_tells_progress_past_other_devices() {
    let bed = Bed::new(0);
    let mut watcher = bed.open(Start::Now).await.unwrap();
    watcher.next().await.unwrap();
    bed.beats(&[("moss-1", 1), ("moss-1", 2)]).await;
    let began = Instant::now();
    let progress = watcher.next().await.unwrap();
    assert_eq!(began.elapsed(), PROGRESS_EVERY);
    assert_eq!((progress.cursor.as_str(), progress.events.len()), ("19-2", 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_delays_but_loses_nothing() {
    let bed = Bed::without_hub(0);
    let mut watcher = bed.open(Start::Now).await.unwrap();
    watcher.next().await.unwrap();
    bed.beats(&[("fern-1", 1)]).await;
    assert_eq!(told(&watcher.next().await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_is_waited_for() {
    let bed = Bed::new(0);
    let mut watcher = bed.open(Start::Now).await.unwrap();
    watcher.next().await.unwrap();
    bed.beats(&[("fern-1", 1)]).await;
    for _ in 0..3 {
        bed.storage.fail_next(Error::Unavailable("on purpose".into()));
    }
    assert_eq!(told(&watcher.next().await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn what_lies_outside_the_log_is_refused() {
    let bed = Bed::new(10);
    for start in [after(9), after(11), Start::At(micros(-1))] {
        let error = bed.open(start).await.unwrap_err();
        let Error::OutsideLog { oldest, newest, horizon } = error else { panic!("{error}") };
        assert_eq!((oldest.as_str(), newest.as_str(), horizon), ("19-10", "19-10", micros(0)));
    }
    for start in [after(10), Start::Oldest, Start::At(micros(0))] {
        assert!(bed.open(start).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn begins_with_the_first_event_received_at_a_time() {
    let bed = Bed::new(0);
    bed.beats(&[("fern-1", 1), ("fern-1", 2), ("fern-1", 3)]).await;
    for (time, expected) in [(0, vec![1, 2, 3]), (2, vec![2, 3]), (4, vec![])] {
        let mut watcher = bed.open(Start::At(micros(time))).await.unwrap();
        assert_eq!(told(&watcher.next().await.unwrap()), expected, "{time}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_watchers_do_not_read_the_log() {
    let bed = Bed::new(0);
    let mut watchers = Vec::new();
    for n in 0..50 {
        let selection = Selection::one(device(&format!("device-{n}")));
        let mut watcher = bed.open_at(selection, Start::Now).await.unwrap();
        watcher.next().await.unwrap();
        watchers.push(watcher);
    }
    for watcher in &mut watchers {
        watcher.next().await.unwrap();
    }
    let before = bed.storage.reads();
    let began = Instant::now();
    for watcher in &mut watchers {
        watcher.next().await.unwrap();
    }
    let looks = began.elapsed().as_secs() / 5 + 1;
    let reads = bed.storage.reads() - before;
    assert!(reads as u64 <= looks, "{reads} reads in {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn large_updates_are_cut_and_each_piece_has_its_cursor() {
    let bed = Bed::new(0);
    let beats: Vec<_> = (0..2500).map(|n| ("fern-1", n)).collect();
    bed.beats(&beats).await;
    let mut cursor = after(0);
    let mut seen = Vec::new();
    for count in [1000, 1000, 500] {
        let mut watcher = bed.open(cursor).await.unwrap();
        let update = watcher.next().await.unwrap();
        assert_eq!(update.events.len(), count);
        seen.extend(told(&update));
        cursor = after(update.cursor.strip_prefix("19-").unwrap().parse().unwrap());
    }
    assert_eq!(seen, (0..2500).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn that_it_has_caught_up_is_told_at_once_though_nothing_is_to_be_shown() {
    let bed = Bed::new(0);
    let beats: Vec<_> = (0..2500).map(|n| ("moss-1", n)).collect();
    bed.beats(&beats).await;
    let began = Instant::now();
    let mut watcher =
        bed.open_at(Selection::prefixes(vec!["fern".into()]), Start::Oldest).await.unwrap();
    let mut update = watcher.next().await.unwrap();
    assert!(!update.caught_up);
    while !update.caught_up {
        update = watcher.next().await.unwrap();
    }
    assert!(began.elapsed() < PROGRESS_EVERY);
}

proptest! {
    /// However appends, failures, reads and reconnects interleave, a watcher tells each event once,
    /// those of a device in their order.
    #[test]
    fn ordered_unique_and_without_gap(
        steps in prop::collection::vec(0..6_u8, 1..60),
        many in any::<bool>(),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(async {
            let bed = Bed::new(0);
            let selection = || if many {
                Selection::prefixes(vec![String::new()])
            } else {
                Selection::some([device("fern-1"), device("abc123")].into())
            };
            let mut watcher = bed.open_at(selection(), Start::Now).await.unwrap();
            let (mut sent, mut seen) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
            let mut note = |update: Update| for event in update.events {
                let device = usize::from(event.device.as_str() != "fern-1");
                if event.device.as_str() != "moss-1" {
                    seen[device].push(event.received.micros());
                }
            };
            let mut n = 0;
            for step in steps.into_iter().chain([3; 6]) {
                n += 1;
                match step {
                    0 | 1 => {
                        let id = ["fern-1", "abc123"][usize::from(step)];
                        sent[usize::from(step)].push(n);
                        bed.beats(&[(id, n)]).await;
                    }
                    2 => bed.beats(&[("moss-1", n)]).await,
                    3 => note(watcher.next().await.unwrap()),
                    4 => bed.storage.fail_next(Error::Unavailable("on purpose".into())),
                    _ => {
                        // A reconnect in the middle of a wait, resumed by cursor.
                        if let Some(update) = watcher.next().now_or_never() {
                            note(update.unwrap());
                        }
                        let start = Start::After(watcher.told.clone());
                        watcher = match bed.open_at(selection(), start).await {
                            Ok(watcher) => watcher,
                            Err(error) => panic!("{error}"),
                        };
                    }
                }
            }
            assert_eq!(seen, sent);
        });
    }
}
