//! The accounts of senders as the ledger that clients see.

use std::collections::BTreeMap;

use prost::Message as _;
use telemetry_model::{Account, Balance};
use telemetry_proto::{v1, wire_timestamp};

use super::hints::hints;

/// The account of a sender, with what it told and what that falls short of.
pub(super) fn of_sender(account: &Account) -> v1::SenderLedger {
    let report = account.report.as_ref();
    // A report that a later version wrote may not be readable; the numbers do not depend on it.
    let report = report.and_then(|r| v1::BridgeReport::decode(r.record.as_slice()).ok());
    v1::SenderLedger {
        process_id: account.process.clone(),
        client_id: account.client.clone(),
        started: Some(wire_timestamp(account.started)),
        updated: Some(wire_timestamp(account.updated)),
        ended: account.ended,
        ledger: Some(ledger(account, report.as_ref())),
        hints: report.as_ref().filter(|_| !account.ended).map(hints).unwrap_or_default(),
        report,
    }
}

/// The sum of all accounts.
pub(crate) fn of_all(accounts: &[Account]) -> v1::Ledger {
    let senders: Vec<_> = accounts.iter().map(of_sender).collect();
    total(senders.iter().filter_map(|sender| sender.ledger.as_ref()))
}

fn ledger(account: &Account, report: Option<&v1::BridgeReport>) -> v1::Ledger {
    let Balance { received, in_flight, ended } = account.balance();
    let tally = &account.tally;
    let mut dropped = report.map(|report| report.dropped.clone()).unwrap_or_default();
    let told = account.report.as_ref().map_or(0, |report| report.dropped);
    // What ended long ago has only numbers left.
    let earlier = told.saturating_sub(dropped.iter().map(|dropped| dropped.count).sum());
    for (reason, count) in
        [("ended", ended), ("quarantine_full", tally.quarantine_full), ("earlier", earlier)]
    {
        if count > 0 {
            dropped.push(v1::ReasonCount { reason: reason.to_owned(), count });
        }
    }
    v1::Ledger {
        received,
        stored: tally.stored,
        duplicate: tally.duplicate,
        quarantined: tally.quarantined,
        dropped,
        in_flight,
        partial: tally.partial,
        partial_lost: tally.partial_lost,
        readings_stored: tally.readings_stored,
        readings_duplicate: tally.readings_duplicate,
        readings_conflicting: tally.readings_conflicting,
    }
}

/// The sum over all senders.
pub(super) fn total<'a>(ledgers: impl Iterator<Item = &'a v1::Ledger>) -> v1::Ledger {
    let mut total = v1::Ledger::default();
    let mut dropped = BTreeMap::<_, u64>::new();
    for ledger in ledgers {
        total.received += ledger.received;
        total.stored += ledger.stored;
        total.duplicate += ledger.duplicate;
        total.quarantined += ledger.quarantined;
        total.in_flight += ledger.in_flight;
        total.partial += ledger.partial;
        total.partial_lost += ledger.partial_lost;
        total.readings_stored += ledger.readings_stored;
        total.readings_duplicate += ledger.readings_duplicate;
        total.readings_conflicting += ledger.readings_conflicting;
        for v1::ReasonCount { reason, count } in &ledger.dropped {
            *dropped.entry(reason.clone()).or_default() += count;
        }
    }
    total.dropped =
        dropped.into_iter().map(|(reason, count)| v1::ReasonCount { reason, count }).collect();
    total
}
