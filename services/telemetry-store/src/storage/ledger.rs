//! The books of an append: which messages are due, and what became of them.
//!
//! A sender numbers its messages for as long as it lives, and the transaction that stores them
//! moves its account on. So what was settled once is left out when it comes again, whether or not
//! its readings could be recognised, and every message is counted exactly once.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::FromRow;
use telemetry_model::{Account, Listening, Message, ProcessId, SenderReport, Submission, Tally};

use super::{append::AppendTx, rows};
use crate::error::{Error, Result};

/// Names the account that stands for all that ended long ago. No process takes such a name.
pub(super) const EARLIER: &str = "(earlier)";

/// The columns that add up what became of messages, in the order of [`Entry::numbers`].
const TALLY: [&str; 9] = [
    "stored",
    "duplicate",
    "quarantined",
    "quarantine_full",
    "partial",
    "partial_lost",
    "readings_stored",
    "readings_duplicate",
    "readings_conflicting",
];

/// A part of a backend's statement: the same for each of these columns, separated by commas.
pub(super) fn for_each_tally(part: impl Fn(&str) -> String) -> String {
    TALLY.map(part).join(", ")
}

/// A message that is to be settled now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due<'a> {
    pub(super) message: &'a Message,
    /// Which of the submissions it belongs to.
    pub(super) submission: usize,
}

/// What is added to an account.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry<'a> {
    /// The new end of what is settled; 0 for clients that did not introduce themselves.
    pub(super) settled_through: u64,
    pub(super) tally: Tally,
    pub(super) report: Option<&'a SenderReport>,
}

/// What of a batch is to be done.
#[derive(Debug, Default)]
pub(super) struct Work<'a> {
    /// The messages that are not settled yet, in order.
    pub(super) due: Vec<Due<'a>>,
    /// Through which numbers the accounts are then settled.
    pub(super) settled: BTreeMap<ProcessId, u64>,
    /// For each submission, whether it follows on what its sender has settled. One that does not is
    /// not done: what came before it has failed, and would be passed over.
    pub(super) follows: Vec<bool>,
}

/// Locks the accounts of a batch, and finds out what is to be done.
pub(super) async fn work<'a, T: AppendTx>(tx: &mut T, batch: &'a [Submission]) -> Result<Work<'a>> {
    let mut work = Work::default();
    let senders: BTreeSet<_> =
        batch.iter().filter_map(|submission| submission.sender.clone()).collect();
    if !senders.is_empty() {
        let accounts = tx.lock_accounts(&senders.into_iter().collect::<Vec<_>>()).await?;
        work.settled.extend(accounts);
    }
    work.due.reserve(batch.iter().map(|submission| submission.messages.len()).sum());
    for (index, submission) in batch.iter().enumerate() {
        let Submission { sender, first_sequence, messages, .. } = submission;
        let mut come_again = 0;
        // One without messages has nothing that could be passed over.
        if let Some(sender) = sender.as_ref().filter(|_| !messages.is_empty()) {
            let through = work.settled.get_mut(sender);
            let Some(through) = through.filter(|through| *first_sequence <= **through + 1) else {
                work.follows.push(false);
                continue;
            };
            come_again = *through + 1 - first_sequence;
            *through = (first_sequence + messages.len() as u64 - 1).max(*through);
        }
        work.follows.push(true);
        let come_again = usize::try_from(come_again).unwrap_or(usize::MAX);
        let messages = messages.iter().skip(come_again);
        work.due.extend(messages.map(|message| Due { message, submission: index }));
    }
    Ok(work)
}

/// For how long the senders of a batch have listened, as they told with what is done of it.
pub(super) fn listening<'a>(
    batch: &'a [Submission],
    work: &'a Work<'a>,
) -> impl Iterator<Item = (ProcessId, Listening)> + 'a {
    let done = batch.iter().zip(&work.follows).filter(|(_, follows)| **follows);
    done.filter_map(|(submission, _)| {
        let listening = submission.report.as_ref()?.listening?;
        Some((submission.sender.clone()?, listening))
    })
}

/// What to add to each account.
pub(super) fn entries<'a>(
    batch: &'a [Submission],
    work: &Work<'a>,
    tallies: &[Tally],
) -> BTreeMap<&'a str, Entry<'a>> {
    let mut entries = BTreeMap::<_, Entry<'_>>::new();
    for ((submission, tally), follows) in batch.iter().zip(tallies).zip(&work.follows) {
        if !follows {
            continue;
        }
        let process = submission.sender.as_ref();
        let entry = entries.entry(process.map_or("", ProcessId::as_str)).or_default();
        entry.settled_through =
            process.and_then(|id| work.settled.get(id)).copied().unwrap_or_default();
        entry.tally += *tally;
        // Reports count up, so the one that counts more is the newer one.
        let reports = entry.report.into_iter().chain(&submission.report);
        entry.report = reports.max_by_key(|report| report.received);
    }
    entries
}

impl Entry<'_> {
    /// What is written to columns, in their order in the backends' statements: last, and in its
    /// order, [`TALLY`].
    pub(super) fn numbers(&self) -> [i64; 12] {
        let Self { settled_through, tally, report } = self;
        [
            *settled_through,
            report.map_or(0, |report| report.received),
            report.map_or(0, |report| report.dropped),
            tally.stored,
            tally.duplicate,
            tally.quarantined,
            tally.quarantine_full,
            tally.partial,
            tally.partial_lost,
            tally.readings_stored,
            tally.readings_duplicate,
            tally.readings_conflicting,
        ]
        .map(rows::number)
    }
}

/// An account as the backends read it, with times in microseconds.
#[derive(FromRow)]
pub(super) struct AccountRow {
    process_id: String,
    client_id: String,
    started_us: i64,
    updated_us: i64,
    ended: bool,
    settled_before: i64,
    stored: i64,
    duplicate: i64,
    quarantined: i64,
    quarantine_full: i64,
    partial: i64,
    partial_lost: i64,
    readings_stored: i64,
    readings_duplicate: i64,
    readings_conflicting: i64,
    received: i64,
    dropped: i64,
    report: Option<Vec<u8>>,
}

impl TryFrom<AccountRow> for Account {
    type Error = Error;

    fn try_from(row: AccountRow) -> Result<Self> {
        let (received, dropped) = (row.received.unsigned_abs(), row.dropped.unsigned_abs());
        Ok(Self {
            started: rows::timestamp(row.started_us)?,
            updated: rows::timestamp(row.updated_us)?,
            process: row.process_id,
            client: row.client_id,
            ended: row.ended,
            settled_before: row.settled_before.unsigned_abs(),
            tally: Tally {
                stored: row.stored.unsigned_abs(),
                duplicate: row.duplicate.unsigned_abs(),
                quarantined: row.quarantined.unsigned_abs(),
                quarantine_full: row.quarantine_full.unsigned_abs(),
                partial: row.partial.unsigned_abs(),
                partial_lost: row.partial_lost.unsigned_abs(),
                readings_stored: row.readings_stored.unsigned_abs(),
                readings_duplicate: row.readings_duplicate.unsigned_abs(),
                readings_conflicting: row.readings_conflicting.unsigned_abs(),
            },
            report: (received > 0 || row.report.is_some()).then(|| SenderReport {
                received,
                dropped,
                record: row.report.unwrap_or_default(),
                listening: None,
            }),
        })
    }
}
