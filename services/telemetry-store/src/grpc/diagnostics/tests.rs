//! Replay: in batches, and nothing leaves the quarantine that is not stored.

use std::time::Duration;

use secrecy::SecretString;
use service_kit::{health::Health, lifecycle::Lifecycle, metrics::Source};
use telemetry_model::{Clock, Refusal, SystemClock, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::{
    metrics::Metrics,
    storage::{Fleet, Policy, open},
};

/// What the quarantine may hold.
const ROOM: u64 = 100_000;

struct Bed {
    diagnostics: Diagnostics,
    tasks: Lifecycle,
    _folder: TempDir,
}

impl Bed {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/telemetry.db", folder.path().display());
        let day = Duration::from_hours(24);
        let policy = Policy {
            readings: day,
            compress_after: day,
            rollups: day,
            log: day,
            quarantine: day,
            quarantine_bytes: ROOM,
            offline_after: day,
            fleet: Fleet { devices: 1000, metrics: 1000 },
        };
        let tasks = Lifecycle::new();
        let storage = open(&SecretString::from(url), policy, &tasks).await.unwrap();
        let (batcher, work, _) = Batcher::new(Arc::clone(&storage));
        tasks.spawn("batcher", work);
        let diagnostics = Diagnostics::new(storage, batcher, Arc::new(SystemClock));
        Self { diagnostics, tasks, _folder: folder }
    }

    /// Puts messages with these payloads into the quarantine, as of an unknown topic.
    async fn refuse(&self, payloads: impl Iterator<Item = String>) {
        let now = SystemClock.now();
        let messages = payloads.enumerate().map(|(n, payload)| {
            let received = now.plus(Duration::from_micros(n as u64));
            let refusal = Refusal {
                device: None,
                kind: None,
                received,
                reason: "unknown_topic".to_owned(),
                field: "topic".to_owned(),
                detail: String::new(),
                payload: payload.into_bytes(),
            };
            let topic = "devices/fern-1/telemetry".into();
            Message { topic, qos: 1, event: None, refusal: Some(refusal) }
        });
        let submission = Submission { messages: messages.collect(), ..Submission::default() };
        let tally = self.diagnostics.storage.append(&[submission]).await.unwrap()[0].unwrap();
        assert_eq!(tally.quarantine_full, 0);
    }

    async fn kept(&self) -> Vec<Quarantined> {
        let query = QuarantineQuery { limit: 1000, ..QuarantineQuery::default() };
        self.diagnostics.storage.quarantine(&query).await.unwrap()
    }

    async fn replay(&self) -> v1::ReplayQuarantineResponse {
        self.diagnostics.replay(QuarantineQuery::default(), false).await.unwrap()
    }

    /// How many batches were appended.
    async fn batches(&self) -> String {
        let (health, _service) = Health::new(&[]).await;
        let Diagnostics { storage, batcher, .. } = &self.diagnostics;
        let appends = Arc::clone(batcher.appends());
        let metrics = Metrics::alone(Arc::clone(storage), health, appends);
        let text = metrics.page().await.into_text();
        let count =
            text.lines().find_map(|l| l.strip_prefix("telemetry_store_batch_messages_count "));
        count.unwrap().to_owned()
    }

    async fn close(self) {
        let Self { diagnostics, tasks, _folder } = self;
        let storage = diagnostics.storage;
        drop(diagnostics.batcher);
        tasks.stop();
        assert!(tasks.drained().await);
        storage.close().await;
    }
}

/// A message that is understood, but by now past retention.
fn old(n: usize, bytes: usize) -> String {
    let time = Timestamp::from_micros(1_767_787_200_000_000).unwrap();
    format!(r#"{{"time":"{time}","t":{n},"note":"{}"}}"#, "x".repeat(bytes))
}

#[tokio::test]
async fn many_are_stored_in_few_transactions() {
    let bed = Bed::start().await;
    bed.refuse((0..40).map(|n| format!(r#"{{"t":{n}}}"#))).await;
    bed.refuse(std::iter::once("not json".to_owned())).await;
    let answer = bed.replay().await;
    assert_eq!((answer.examined, answer.replayed, answer.still_refused), (41, 40, 1));
    assert_eq!(answer.readings_stored, 40);
    assert_eq!(bed.batches().await, "3", "16 at a time");
    let kept = bed.kept().await;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].refusal.payload, b"not json");
    bed.close().await;
}

#[tokio::test]
async fn what_is_refused_again_stays_if_there_is_no_room_for_it_anew() {
    let bed = Bed::start().await;
    let good = r#"{"t":1}"#.to_owned();
    bed.refuse([old(1, 500), good].into_iter().chain((2..4).map(|n| old(n, 500)))).await;
    bed.refuse(std::iter::once("x".repeat(96_700))).await;
    let before = bed.kept().await;
    let answer = bed.replay().await;
    assert_eq!((answer.examined, answer.replayed, answer.still_refused), (5, 1, 4));
    let kept = bed.kept().await;
    let expected: Vec<_> =
        before.iter().filter(|message| message.refusal.payload != br#"{"t":1}"#).collect();
    assert_eq!(kept.iter().collect::<Vec<_>>(), expected, "as it was");
    bed.close().await;
}

#[tokio::test]
async fn what_is_refused_again_is_kept_anew_with_its_reason() {
    let bed = Bed::start().await;
    bed.refuse((0..20).map(|n| old(n, 10))).await;
    let answer = bed.replay().await;
    assert_eq!((answer.examined, answer.replayed, answer.still_refused), (20, 0, 20));
    let kept = bed.kept().await;
    assert_eq!(kept.len(), 20);
    assert!(kept.iter().all(|message| message.refusal.reason == "too_old"));
    bed.close().await;
}
