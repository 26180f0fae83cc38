//! Why a device is silent or wrong, in plain words: what follows from what is known. Pure.

use std::time::Duration;

use telemetry_model::{
    Device, DeviceId, Presence, PresenceReason, Standing, TimeSource, Timestamp,
};
use telemetry_proto::v1::{Finding, SenderLedger, Severity};

use crate::{clock_repair::MAX_AHEAD, presence::GONE_AFTER, storage::Quarantined};

/// A bridge that lives tells something every few seconds.
const BRIDGE_SILENCE: Duration = Duration::from_secs(15);
/// A clock that is further behind is wrong, or the message came late.
const MAX_BEHIND: Duration = MAX_AHEAD;

/// What is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) id: &'a DeviceId,
    pub(super) device: Option<&'a Device>,
    /// Its newest message in the quarantine.
    pub(super) rejection: Option<&'a Quarantined>,
    /// The bridges that serve a session.
    pub(super) bridges: &'a [SenderLedger],
    pub(super) now: Timestamp,
}

impl Case<'_> {
    /// What follows, the most severe first.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = self.path();
        match self.device {
            Some(device) => self.known(device, &mut findings),
            None => findings.push(self.never_heard_of()),
        }
        findings.extend(self.rejected());
        let is_well = findings.iter().all(|finding| finding.severity() == Severity::Info);
        if is_well && self.device.is_some() {
            findings.push(finding(Severity::Info, "nothing is wrong with it".to_owned(), ""));
        }
        // What is equally severe stays in order.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    /// What is wrong between the broker and us.
    fn path(&self) -> Vec<Finding> {
        if self.bridges.is_empty() {
            let text = "no bridge has ever reported, so that nothing can be heard of any device";
            let fix = "start mqtt-bridge with STORE_URL set to this store";
            return vec![finding(Severity::Error, text.to_owned(), fix)];
        }
        let mut findings = Vec::new();
        let silence = |bridge: &SenderLedger| {
            let updated = bridge.updated.and_then(|t| telemetry_proto::timestamp("", t).ok());
            Duration::from_secs(updated.map_or(0, |updated| seconds_between(updated, self.now)))
        };
        let is_any_live = self.bridges.iter().any(|bridge| silence(bridge) <= BRIDGE_SILENCE);
        let severity = if is_any_live { Severity::Warning } else { Severity::Error };
        for bridge in self.bridges {
            let (client, silence) = (&bridge.client_id, silence(bridge));
            if silence > BRIDGE_SILENCE {
                // Some were taken away for good.
                if silence < GONE_AFTER || (!is_any_live && findings.is_empty()) {
                    let text =
                        format!("bridge {client} has not reported for {}", span(silence.as_secs()));
                    let fix = "see whether it runs and reaches this store; if it was taken away \
                               for good, this passes";
                    findings.push(finding(severity, text, fix));
                }
                continue;
            }
            // That messages come without a promise is no reason for silence.
            let report = bridge.report.as_ref();
            let is_deaf = report.is_some_and(|r| {
                !r.connected || r.subscriptions.iter().any(|subscription| !subscription.granted)
            });
            for hint in bridge.hints.iter().filter(|_| is_deaf) {
                let severity = match report {
                    Some(report) if report.connected => Severity::Warning,
                    _ => Severity::Error,
                };
                let text = format!("bridge {client}: {}", hint.finding);
                findings.push(finding(severity, text, &hint.fix));
            }
        }
        findings
    }

    fn never_heard_of(&self) -> Finding {
        let id = self.id;
        let text = format!("no message of {id} that could be understood was ever received");
        let fix = match self.rejection {
            Some(_) => "mend what it sends: see the last rejection".to_owned(),
            None => format!(
                "see that it publishes to devices/{id}/telemetry, spelled exactly so, at the \
                 broker that the bridge reads, and that the broker's ACL lets it"
            ),
        };
        finding(Severity::Error, text, &fix)
    }

    fn known(&self, device: &Device, findings: &mut Vec<Finding>) {
        let heard = span(seconds_between(device.last_seen, self.now));
        let Standing { state, decided } = device.presence;
        let since = decided.map(|(since, _)| format!(" since {since}")).unwrap_or_default();
        let reason = decided.map(|(_, reason)| reason);
        findings.push(match (state, reason) {
            (Presence::Online, _) => {
                let text = format!("online{since}; last heard of {heard} ago");
                finding(Severity::Info, text, "")
            }
            (Presence::Offline, Some(PresenceReason::LastWill)) => {
                let text =
                    format!("offline{since}: its status topic says so; last heard of {heard} ago");
                let fix = "see whether it has power and network: its broker lost it, or it left";
                finding(Severity::Error, text, fix)
            }
            (Presence::Offline, _) => {
                let text =
                    format!("offline{since}: silent while we listened; last heard of {heard} ago");
                let fix =
                    "see whether it has power and network, and still publishes to the same topic";
                finding(Severity::Error, text, fix)
            }
            (Presence::Unknown, _) => {
                let text = format!(
                    "nobody can say whether it is there{since}: last heard of {heard} ago, but we \
                     did not listen all that time"
                );
                let fix = "wait for OFFLINE_AFTER once bridge and broker are well again";
                finding(Severity::Warning, text, fix)
            }
        });
        findings.extend(clock(device));
        let counts = device.counts;
        if counts.duplicates > counts.readings {
            let text = format!(
                "it sends more readings again ({}) than new ones ({})",
                counts.duplicates, counts.readings
            );
            let fix = "see that its clock advances: readings of one time are one and the same";
            findings.push(finding(Severity::Warning, text, fix));
        }
    }

    fn rejected(&self) -> Option<Finding> {
        let Quarantined { refusal, partial, topic, .. } = self.rejection?;
        let ago = span(seconds_between(refusal.received, self.now));
        let is_newest = self.device.is_none_or(|device| device.last_seen <= refusal.received);
        let (severity, which) = match (is_newest, partial) {
            (true, false) => (Severity::Error, "its newest message was refused"),
            (true, true) => (Severity::Warning, "a part of its newest message was refused"),
            (false, false) => (Severity::Warning, "an earlier message was refused"),
            (false, true) => (Severity::Warning, "a part of an earlier message was refused"),
        };
        let (reason, field, detail) = (&refusal.reason, &refusal.field, &refusal.detail);
        let text = format!("{which}, {ago} ago on {topic}: {reason}: {field} {detail}");
        let fix = "mend what the device sends; ListQuarantine shows the message as it came";
        Some(finding(severity, text, fix))
    }
}

/// What is wrong with a device's clock.
fn clock(device: &Device) -> Option<Finding> {
    let skew_us = device.clock_skew_us?;
    let skew = Duration::from_micros(skew_us.unsigned_abs());
    let by = span(skew.as_secs());
    let fix = "set the device's clock, as by NTP";
    if skew_us > 0 && skew > MAX_AHEAD {
        let text = format!("its clock is {by} ahead and not believed: the time of receipt counts");
        return Some(finding(Severity::Warning, text, fix));
    }
    let is_used = device.facts.time_source == Some(TimeSource::Device);
    if skew_us < 0 && skew > MAX_BEHIND && is_used {
        let text = format!(
            "its newest time was {by} old on receipt: its clock is behind, or its \
                            messages come late"
        );
        return Some(finding(Severity::Warning, text, fix));
    }
    None
}

fn finding(severity: Severity, text: String, fix: &str) -> Finding {
    Finding { severity: severity.into(), text, fix: fix.to_owned() }
}

fn seconds_between(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from((now.micros() - then.micros()) / 1_000_000).unwrap_or(0)
}

/// A length of time for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
