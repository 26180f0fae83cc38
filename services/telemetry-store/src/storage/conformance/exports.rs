//! Exports: everything, once, in order, from wherever they go on.

use telemetry_model::{Reading, Selection, Series, TimeRange, Timestamp, Value};

use super::{Fresh, at, device, metric, on_each_backend, telemetry};
use crate::{
    history::export::{Export, Position},
    storage::{Scan, testing::AppendEvents},
};

on_each_backend!(
    series_are_listed_in_order,
    scans_go_from_series_to_series,
    exports_are_complete_and_resumable,
    exports_of_unknown_devices_are_refused,
);

const DEVICES: [&str; 4] = ["B", "a", "b", "ä"];
const METRICS: [&str; 3] = ["M", "l", "m"];

async fn fill(fresh: &Fresh, count: i64) {
    let values = |n: i64| {
        METRICS.map(|name| match (name, n % 3) {
            ("l", 0) => (name, Value::Flag(true)),
            ("l", 1) => (name, Value::text("x").unwrap()),
            _ => (name, Value::Integer(n)),
        })
    };
    for id in DEVICES {
        let events: Vec<_> = (0..count).map(|n| telemetry(id, n * 7200, &values(n))).collect();
        fresh.storage.append_events(&events).await.unwrap();
    }
}

fn of(device_id: &str, name: &str) -> Series {
    Series { device: device(device_id), metric: metric(name) }
}

fn all() -> (Selection, TimeRange) {
    let range = TimeRange { start: Timestamp::MIN, end: Timestamp::MAX };
    (Selection::new(vec![], vec![]), range)
}

async fn series_are_listed_in_order(fresh: &mut Fresh) {
    fill(fresh, 1).await;
    let expected: Vec<_> = DEVICES.iter().flat_map(|id| METRICS.map(|name| of(id, name))).collect();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = fresh.storage.series(&all().0, after.as_ref(), 5).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page);
    }
    assert_eq!(seen, expected);
    let some = Selection::new(vec![device("b"), device("none")], vec![metric("m"), metric("l")]);
    let some = fresh.storage.series(&some, None, 10).await.unwrap();
    assert_eq!(some, [of("b", "l"), of("b", "m")]);
}

async fn scans_go_from_series_to_series(fresh: &mut Fresh) {
    fill(fresh, 3).await;
    let series = [of("b", "m"), of("none", "m"), of("a", "M"), of("a", "none"), of("B", "l")];
    let mut scan =
        Scan { series: &series, from: at(7200), start: at(0), end: at(2 * 7200), limit: 100 };
    let places = |found: &[(usize, Reading)]| -> Vec<_> {
        found.iter().map(|(place, reading)| (*place, reading.time)).collect()
    };
    let found = fresh.storage.scan(scan).await.unwrap();
    let times = [(0, at(7200)), (2, at(0)), (2, at(7200)), (4, at(0)), (4, at(7200))];
    assert_eq!(places(&found), times);
    assert_eq!(found[3].1.value, Value::Flag(true));
    assert_eq!(found[4].1.value, Value::text("x").unwrap());
    scan.limit = 2;
    assert_eq!(places(&fresh.storage.scan(scan).await.unwrap()), times[..2]);
}

/// Every chunk from a position on, as series and time of each reading.
async fn export(
    fresh: &Fresh,
    selection: &Selection,
    range: TimeRange,
    after: Option<Position>,
) -> (Vec<(Series, Timestamp)>, Vec<Position>) {
    let storage = fresh.storage.clone();
    let mut export = Export::open(storage, selection.clone(), range, after).await.unwrap();
    let (mut readings, mut positions) = (Vec::new(), Vec::new());
    while let Some(chunk) = export.next().await.unwrap() {
        assert!(!chunk.readings.is_empty());
        readings.extend(chunk.readings.into_iter().map(|reading| {
            let (device, metric) = (chunk.device.clone(), reading.metric);
            (Series { device, metric }, reading.time)
        }));
        positions.push(chunk.position);
    }
    (readings, positions)
}

async fn exports_are_complete_and_resumable(fresh: &mut Fresh) {
    // More than one read each device, so that reads end within series.
    fill(fresh, 2_000).await;
    let expected: Vec<_> = DEVICES
        .iter()
        .flat_map(|id| METRICS.map(|name| of(id, name)))
        .flat_map(|series| (0..2_000).map(move |n| (series.clone(), at(n * 7200))))
        .collect();
    let (selection, range) = all();
    let (readings, positions) = export(fresh, &selection, range, None).await;
    assert!(readings == expected, "complete and in order");
    for position in positions {
        let (rest, _) = export(fresh, &selection, range, Some(position.clone())).await;
        let Position { series, time } = position;
        let done = expected.iter().position(|(s, t)| *s == series && *t == time).unwrap() + 1;
        assert!(rest == expected[done..], "goes on after {series:?} {time}");
    }
    let some = Selection::new(vec![device("a")], vec![metric("m")]);
    let range = TimeRange::new(at(7200), at(3 * 7200)).unwrap();
    let (readings, _) = export(fresh, &some, range, None).await;
    assert_eq!(readings, [(of("a", "m"), at(7200)), (of("a", "m"), at(2 * 7200))]);
}

async fn exports_of_unknown_devices_are_refused(fresh: &mut Fresh) {
    let (selection, range) = all();
    assert_eq!(export(fresh, &selection, range, None).await.0, []);
    let unknown = Selection::new(vec![device("none")], vec![]);
    let refused = Export::open(fresh.storage.clone(), unknown, range, None).await;
    assert!(matches!(refused, Err(crate::Error::UnknownDevice(_))));
}
