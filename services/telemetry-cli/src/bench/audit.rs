//! Whether each device has as many readings of each metric in the store as its publisher says.

use std::{collections::BTreeMap, time::Duration};

use telemetry_model::Timestamp;
use telemetry_proto::{v1, wire_duration, wire_timestamp};

use super::{
    load::{Load, as_u64},
    now_us,
};
use crate::store::Store;

/// Devices in a request: answered well within a second.
const DEVICES: usize = 50;

/// What is there, and what should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) expected: u64,
    pub(super) stored: u64,
    /// Devices of which it is not the same.
    pub(super) wrong_devices: u64,
}

/// Counts all readings of a run that published so many messages by each voice.
pub(super) async fn audit(
    store: &Store,
    load: &Load,
    said: &[u64],
    began_us: i64,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    let numbers: Vec<_> = (0..load.devices).collect();
    for numbers in numbers.chunks(DEVICES) {
        let devices = numbers.iter().map(|number| load.device(*number)).collect();
        let counts = counts(store, devices, began_us).await?;
        for number in numbers {
            let counts = counts.get(&load.device(*number)).map_or(&[][..], Vec::as_slice);
            verdict.add(load.said_by(*number, said), load.readings, counts);
        }
    }
    Ok(verdict)
}

impl Verdict {
    pub(super) fn is_right(self) -> bool {
        self.wrong_devices == 0
    }

    /// Adds a device that has published so many messages, and has so many readings of each metric.
    fn add(&mut self, messages: u64, readings: usize, counts: &[u64]) {
        self.expected += messages * as_u64(readings);
        self.stored += counts.iter().sum::<u64>();
        let metrics = if messages == 0 { 0 } else { readings };
        let is_right = counts.len() == metrics && counts.iter().all(|count| *count == messages);
        self.wrong_devices += u64::from(!is_right);
    }
}

/// How many readings there are of each metric of each device.
async fn counts(
    store: &Store,
    devices: Vec<String>,
    began_us: i64,
) -> anyhow::Result<BTreeMap<String, Vec<u64>>> {
    let time = |us| Timestamp::from_micros(us).unwrap_or(Timestamp::EPOCH);
    let mut request = v1::SummarizeReadingsRequest {
        device_ids: devices,
        start_time: Some(wire_timestamp(time(began_us).minus(Duration::from_secs(1)))),
        end_time: Some(wire_timestamp(time(now_us()).plus(Duration::from_mins(1)))),
        bucket_width: Some(wire_duration(Duration::from_hours(24))),
        aggregates: vec![v1::Aggregate::Max.into()],
        page_size: 1000,
        ..v1::SummarizeReadingsRequest::default()
    };
    let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    loop {
        let answer = store.query().summarize_readings(request.clone()).await;
        let page = answer.map_err(|status| store.explain(&status))?.into_inner();
        for series in page.series {
            let count = series.buckets.iter().map(|bucket| bucket.count).sum();
            counts.entry(series.device_id).or_default().push(count);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_too_few_or_too_many_is_wrong() {
        let mut verdict = Verdict::default();
        verdict.add(3, 2, &[3, 3]);
        verdict.add(0, 2, &[]);
        assert!(verdict.is_right());
        assert_eq!((verdict.expected, verdict.stored), (6, 6));
        for counts in [&[3, 2][..], &[3, 4], &[3], &[3, 3, 3], &[2, 4]] {
            let mut verdict = Verdict::default();
            verdict.add(3, 2, counts);
            assert!(!verdict.is_right(), "{counts:?}");
        }
    }
}
