//! The ledger: how many messages came, and what became of each.

use std::ops::AddAssign;

use crate::{SenderReport, Timestamp};

/// What became of some messages and their readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that added something.
    pub stored: u64,
    /// Messages all of whose readings were there already.
    pub duplicate: u64,
    /// Messages kept in the quarantine as a whole.
    pub quarantined: u64,
    /// Messages for which the quarantine had no room.
    pub quarantine_full: u64,
    /// Messages of which a part was stored and all is kept in the quarantine.
    pub partial: u64,
    /// Messages of which a part was stored, and for the whole of which the quarantine had no room.
    pub partial_lost: u64,
    /// Readings that are new.
    pub readings_stored: u64,
    /// Readings that were there already, with the same value.
    pub readings_duplicate: u64,
    /// Readings that were there already, with another value, which stays.
    pub readings_conflicting: u64,
}

impl Tally {
    /// How many messages it counts.
    pub fn messages(&self) -> u64 {
        self.stored + self.duplicate + self.quarantined + self.quarantine_full
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.quarantined += other.quarantined;
        self.quarantine_full += other.quarantine_full;
        self.partial += other.partial;
        self.partial_lost += other.partial_lost;
        self.readings_stored += other.readings_stored;
        self.readings_duplicate += other.readings_duplicate;
        self.readings_conflicting += other.readings_conflicting;
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            sum += tally;
            sum
        })
    }
}

/// The account of one sender, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The process; empty for clients that did not introduce themselves.
    pub process: String,
    /// The session at the broker.
    pub client: String,
    /// When the process began.
    pub started: Timestamp,
    /// When the store last heard of it.
    pub updated: Timestamp,
    /// Whether another process has taken over its session since.
    pub ended: bool,
    /// Messages it had settled before this database knew it.
    pub settled_before: u64,
    /// What it settled since.
    pub tally: Tally,
    /// What it last told of itself.
    pub report: Option<SenderReport>,
}

/// The two sides of an account that only balance together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Messages that the broker handed over.
    pub received: u64,
    /// Those that a living process holds.
    pub in_flight: u64,
    /// Those that a process held when it ended.
    pub ended: u64,
}

impl Account {
    /// How many messages came, and how many of them are not settled.
    pub fn balance(&self) -> Balance {
        let settled = self.tally.messages();
        let dropped = self.report.as_ref().map_or(0, |report| report.dropped);
        let told = self.report.as_ref().map_or(0, |report| report.received);
        let received = told.saturating_sub(self.settled_before).max(settled + dropped);
        let held = received - settled - dropped;
        let (in_flight, ended) = if self.ended { (0, held) } else { (held, 0) };
        Balance { received, in_flight, ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_balances_whatever_was_told() {
        let tally = Tally { stored: 5, duplicate: 2, quarantined: 1, ..Tally::default() };
        let report =
            |received| Some(SenderReport { received, dropped: 1, ..SenderReport::default() });
        let account = |report, ended| Account {
            process: "a".into(),
            client: "bridge".into(),
            started: Timestamp::EPOCH,
            updated: Timestamp::EPOCH,
            ended,
            settled_before: 10,
            tally,
            report,
        };
        let balance = |received, in_flight, ended| Balance { received, in_flight, ended };
        assert_eq!(account(report(30), false).balance(), balance(20, 11, 0));
        assert_eq!(account(report(30), true).balance(), balance(20, 0, 11));
        assert_eq!(account(report(19), false).balance(), balance(9, 0, 0));
        assert_eq!(account(report(0), false).balance(), balance(9, 0, 0), "told too early");
        assert_eq!(account(None, false).balance(), balance(8, 0, 0));
    }
}
