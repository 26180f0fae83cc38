//! What other processes of this machine cost, as Linux counts it under `/proc`.

use std::{fs, str::FromStr};

use anyhow::Context;
use serde_json::{Value as Json, json};

/// What Linux counts CPU time in, whatever its own clock (`USER_HZ`).
const TICK_US: f64 = 10_000.0;

/// A process by name and number: `store=1234`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pid: u32,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').ok_or("must be NAME=PID, such as store=1234")?;
        let pid = pid.parse().map_err(|_| "must end with the number of a process")?;
        Ok(Self { name: name.to_owned(), pid })
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    cpu_us: f64,
    resident_bytes: u64,
    peak_bytes: u64,
}

impl Named {
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.pid));
        let gone = || format!("{}: there is no process {}", self.name, self.pid);
        let (stat, status) = (read("stat").with_context(gone)?, read("status").with_context(gone)?);
        usage(&stat, &status).with_context(|| format!("/proc/{} is not understood", self.pid))
    }
}

fn usage(stat: &str, status: &str) -> Option<Usage> {
    // The name in parentheses may hold anything; the state follows it, and is field 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    let (user, system) = (ticks.next()??, ticks.next()??);
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Usage {
        cpu_us: (f64::from(user) + f64::from(system)) * TICK_US,
        resident_bytes: bytes("VmRSS:")?,
        peak_bytes: bytes("VmHWM:")?,
    })
}

/// What each of them has used.
pub(super) fn usages(processes: &[Named]) -> anyhow::Result<Vec<Usage>> {
    processes.iter().map(Named::usage).collect()
}

/// What each has used since `before`, by name. A peak is of the whole life of the process.
pub(super) fn costs(processes: &[Named], before: &[Usage], messages: u64) -> anyhow::Result<Json> {
    let after = usages(processes)?;
    let costs =
        processes.iter().zip(before.iter().zip(&after)).map(|(process, (before, after))| {
            let cost = json!({
                "cpu_us_per_message": (after.cpu_us - before.cpu_us) / as_f64(messages.max(1)),
                "cpu_s": (after.cpu_us - before.cpu_us) / 1e6,
                "rss_mb": megabytes(after.resident_bytes),
                "peak_rss_mb": megabytes(after.peak_bytes),
            });
            (process.name.clone(), cost)
        });
    Ok(Json::Object(costs.collect()))
}

/// By how much the memory of each has grown for each of `count` things, in KB, by name.
pub(super) fn growth_kb(
    processes: &[Named],
    before: &[Usage],
    after: &[Usage],
    count: u64,
) -> Json {
    let growths =
        processes.iter().zip(before.iter().zip(after)).map(|(process, (before, after))| {
            let grown = as_f64(after.resident_bytes) - as_f64(before.resident_bytes);
            (process.name.clone(), Json::from(grown / 1000.0 / as_f64(count.max(1))))
        });
    Json::Object(growths.collect())
}

fn megabytes(bytes: u64) -> f64 {
    as_f64(bytes) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "people read it")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_name_and_a_number() {
        let named: Named = "store=12".parse().unwrap();
        assert_eq!(named, Named { name: "store".to_owned(), pid: 12 });
        assert!("store".parse::<Named>().is_err() && "store=x".parse::<Named>().is_err());
    }

    #[test]
    fn usage_is_read_whatever_the_process_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 99 8 9";
        let status = "Name:\ta\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n";
        let expected =
            Usage { cpu_us: 2_000_000.0, resident_bytes: 1_024_000, peak_bytes: 2_048_000 };
        assert_eq!(usage(stat, status), Some(expected));
        assert_eq!(usage("", ""), None);
    }

    #[test]
    fn our_own_usage_is_there() {
        let own = Named { name: "own".to_owned(), pid: std::process::id() };
        let usage = own.usage().unwrap();
        assert!(usage.peak_bytes >= usage.resident_bytes && usage.resident_bytes > 0);
    }
}
