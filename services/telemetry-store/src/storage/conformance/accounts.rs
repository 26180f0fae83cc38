//! The ledger: each message of a sender is settled once, whatever comes again, and all are counted.

use telemetry_model::{
    ClientId, Clock, Event, Message, ProcessId, Sender, SenderReport, Submission, SystemClock,
    Tally, Value,
};

use super::{Fresh, all, at, heartbeat, on_each_backend, telemetry};
use crate::storage::testing::{message, of_nobody};

on_each_backend!(
    what_is_settled_is_not_settled_again,
    what_came_before_is_not_passed_over,
    an_append_that_fails_leaves_the_account_as_it_was,
    a_message_without_a_clock_is_stored_once_too,
    messages_are_counted_by_what_became_of_them,
    a_successor_ends_its_predecessor,
    a_process_that_another_database_knew,
    what_ended_long_ago_becomes_one_account,
);

fn sender(process: &str) -> Sender {
    let (process, client) =
        (ProcessId::parse(process).unwrap(), ClientId::parse("bridge").unwrap());
    Sender { process, client, started: at(0) }
}

fn submission(process: &str, first_sequence: u64, events: Vec<Event>) -> Submission {
    let sender = Some(ProcessId::parse(process).unwrap());
    let messages: Vec<Message> = events.into_iter().map(message).collect();
    let received = first_sequence + messages.len() as u64 - 1;
    let report = Some(SenderReport { received, ..SenderReport::default() });
    Submission { sender, first_sequence, messages, report }
}

fn readings(range: std::ops::Range<i64>) -> Vec<Event> {
    range.map(|n| telemetry("fern-1", n, &[("t", Value::Integer(n))])).collect()
}

fn stored(messages: u64) -> Tally {
    Tally { stored: messages, readings_stored: messages, ..Tally::default() }
}

async fn what_is_settled_is_not_settled_again(fresh: &mut Fresh) {
    assert_eq!(fresh.storage.introduce(&sender("a"), 1).await.unwrap(), 0);
    let first = submission("a", 1, readings(0..5));
    assert_eq!(fresh.storage.append(&[first]).await.unwrap(), [Some(stored(5))]);
    assert_eq!(fresh.storage.introduce(&sender("a"), 3).await.unwrap(), 5);
    // From 3 on once more, with news; and all of that again within one batch.
    let again = submission("a", 3, readings(2..8));
    let twice = [again.clone(), again.clone()];
    assert_eq!(fresh.storage.append(&twice).await.unwrap(), [stored(3), stored(0)].map(Some));
    fresh.reopen().await;
    assert_eq!(fresh.storage.append(&[again]).await.unwrap(), [Some(stored(0))]);
    assert_eq!(fresh.storage.introduce(&sender("a"), 1).await.unwrap(), 8);
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 8);
    let accounts = fresh.storage.accounts().await.unwrap();
    let [account] = &accounts[..] else { panic!("{accounts:?}") };
    assert_eq!(account.tally, stored(8));
    let balance = account.balance();
    assert_eq!((balance.received, balance.in_flight, balance.ended), (8, 0, 0));
}

/// The batch between was lost, and the stream had more under way.
async fn what_came_before_is_not_passed_over(fresh: &mut Fresh) {
    let unknown = [submission("a", 1, readings(0..1))];
    assert_eq!(fresh.storage.append(&unknown).await.unwrap(), [None], "was not introduced");
    fresh.storage.introduce(&sender("a"), 1).await.unwrap();
    let batch = |first: u64| {
        let from = i64::try_from(first).unwrap();
        submission("a", first, readings(from..from + 5))
    };
    let outcome = fresh.storage.append(&[batch(1), batch(11), batch(6)]).await.unwrap();
    assert_eq!(outcome, [Some(stored(5)), None, Some(stored(5))]);
    assert_eq!(fresh.storage.introduce(&sender("a"), 1).await.unwrap(), 10);
    assert_eq!(fresh.storage.append(&[batch(11)]).await.unwrap(), [Some(stored(5))]);
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 15);
}

async fn an_append_that_fails_leaves_the_account_as_it_was(fresh: &mut Fresh) {
    fresh.storage.introduce(&sender("a"), 1).await.unwrap();
    let batch = [submission("a", 1, readings(0..500))];
    for micros in [0, 300, 1000, 2000, 4000] {
        let append = fresh.storage.append(&batch);
        drop(tokio::time::timeout(std::time::Duration::from_micros(micros), append).await);
        let settled = fresh.storage.introduce(&sender("a"), 1).await.unwrap();
        let there = all(&fresh.storage, "fern-1").await.len();
        assert_eq!(usize::try_from(settled).unwrap(), there, "all or nothing");
    }
    fresh.storage.append(&batch).await.unwrap();
    assert_eq!(fresh.storage.accounts().await.unwrap()[0].tally, stored(500));
}

async fn a_message_without_a_clock_is_stored_once_too(fresh: &mut Fresh) {
    fresh.storage.introduce(&sender("a"), 1).await.unwrap();
    let mut event = telemetry("fern-1", 0, &[("t", Value::Integer(1))]);
    event.samples[0].clock = telemetry_model::DeviceClock::None;
    let batch = [submission("a", 1, vec![event])];
    fresh.storage.append(&batch).await.unwrap();
    fresh.storage.append(&batch).await.unwrap();
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 1);
}

async fn messages_are_counted_by_what_became_of_them(fresh: &mut Fresh) {
    let value = |n| [("t", Value::Integer(n))];
    let events = vec![
        telemetry("fern-1", 0, &value(1)),
        telemetry("fern-1", 0, &value(1)),
        telemetry("fern-1", 0, &value(2)),
        telemetry("fern-1", 0, &[("t", Value::Integer(1)), ("u", Value::Integer(1))]),
        heartbeat("fern-1", 9, vec![]),
    ];
    let tally = Tally {
        stored: 3,
        duplicate: 2,
        readings_stored: 2,
        readings_duplicate: 2,
        readings_conflicting: 1,
        ..Tally::default()
    };
    let batch = [of_nobody(events), submission("a", 1, readings(9..10))];
    fresh.storage.introduce(&sender("a"), 1).await.unwrap();
    assert_eq!(fresh.storage.append(&batch).await.unwrap(), [tally, stored(1)].map(Some));
    let accounts = fresh.storage.accounts().await.unwrap();
    assert_eq!(accounts.iter().map(|account| account.tally.messages()).sum::<u64>(), 6);
    let nobody = accounts.iter().find(|account| account.process.is_empty()).unwrap();
    assert_eq!((nobody.tally, nobody.balance().received), (tally, 5));
}

async fn a_successor_ends_its_predecessor(fresh: &mut Fresh) {
    fresh.storage.introduce(&sender("a"), 1).await.unwrap();
    let mut held = submission("a", 1, readings(0..3));
    held.report.as_mut().unwrap().received = 7;
    fresh.storage.append(&[held]).await.unwrap();
    let ended = async |process: &str| {
        let accounts = fresh.storage.accounts().await.unwrap();
        let account = accounts.iter().find(|account| account.process == process).unwrap();
        let balance = account.balance();
        (account.ended, balance.received, balance.in_flight, balance.ended)
    };
    assert_eq!(ended("a").await, (false, 7, 4, 0));
    fresh.storage.introduce(&sender("b"), 1).await.unwrap();
    assert_eq!(ended("a").await, (true, 7, 0, 4));
    assert_eq!(ended("b").await, (false, 0, 0, 0));
    // Its last messages are still stored; a sign of life they are not.
    fresh.storage.append(&[submission("a", 4, readings(3..7))]).await.unwrap();
    assert_eq!(ended("a").await, (true, 7, 0, 0));
    fresh.storage.introduce(&sender("a"), 8).await.unwrap();
    assert_eq!(ended("a").await, (false, 7, 0, 0), "it was not dead after all");
    assert!(ended("b").await.0);
}

async fn a_process_that_another_database_knew(fresh: &mut Fresh) {
    assert_eq!(fresh.storage.introduce(&sender("a"), 101).await.unwrap(), 100);
    fresh.storage.append(&[submission("a", 101, readings(0..2))]).await.unwrap();
    let balance = fresh.storage.accounts().await.unwrap()[0].balance();
    assert_eq!((balance.received, balance.in_flight), (2, 0));
}

async fn what_ended_long_ago_becomes_one_account(fresh: &mut Fresh) {
    for (n, process) in ["a", "b", "c", "d"].into_iter().enumerate() {
        fresh.storage.introduce(&sender(process), 1).await.unwrap();
        let from = i64::try_from(n).unwrap() * 10;
        let mut held = submission(process, 1, readings(from..from + 3));
        let report = held.report.as_mut().unwrap();
        (report.received, report.dropped) = (7, 1);
        fresh.storage.append(&[held]).await.unwrap();
    }
    let sums = async || {
        let accounts = fresh.storage.accounts().await.unwrap();
        let sum = |count: fn(&telemetry_model::Account) -> u64| -> u64 {
            accounts.iter().map(count).sum()
        };
        let ended = sum(|account| account.balance().ended);
        (accounts.len(), sum(|a| a.tally.stored), sum(|a| a.balance().received), ended)
    };
    assert_eq!(sums().await, (4, 12, 28, 9), "all but the last have ended");
    let hour = std::time::Duration::from_hours(1);
    let long_after = SystemClock.now().plus(super::KEPT).plus(hour);
    for _ in 0..2 {
        fresh.storage.prune(long_after).await.unwrap();
        assert_eq!(sums().await, (1, 12, 28, 12), "none was heard of since");
    }
}
