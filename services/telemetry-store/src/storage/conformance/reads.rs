//! What is asked of the history.

use std::{collections::BTreeMap, time::Duration};

use telemetry_model::{
    Bucket, DeviceQuery, Order, ReadingPosition, ReadingQuery, SummaryQuery, TimeRange, Timestamp,
    Value,
};

use super::{Fresh, at, device, metric, on_each_backend, telemetry};
use crate::storage::testing::AppendEvents;

on_each_backend!(
    pages_in_both_orders,
    ranges_and_metrics_limit,
    latest_of_each_metric,
    devices_in_order,
    summaries_equal_a_naive_one,
    summaries_bear_extreme_values,
    unknown_names_find_nothing,
);

fn query() -> ReadingQuery {
    ReadingQuery {
        device: device("fern-1"),
        metrics: vec![],
        range: TimeRange { start: Timestamp::MIN, end: Timestamp::MAX },
        order: Order::OldestFirst,
        after: None,
        limit: 1000,
    }
}

async fn fill(fresh: &Fresh, count: i64) {
    let values =
        |n| [("b", Value::Integer(n)), ("a", Value::Integer(-n)), ("B", Value::Flag(true))];
    let events: Vec<_> = (0..count).map(|n| telemetry("fern-1", n * 3600, &values(n))).collect();
    fresh.storage.append_events(&events).await.unwrap();
}

async fn pages_in_both_orders(fresh: &mut Fresh) {
    fill(fresh, 40).await;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mut page = ReadingQuery { order, limit: 7, ..query() };
        let mut seen = Vec::new();
        loop {
            let readings = fresh.storage.readings(&page).await.unwrap();
            let Some(last) = readings.last() else { break };
            page.after = Some(ReadingPosition { time: last.time, metric: last.metric.clone() });
            seen.extend(readings.into_iter().map(|r| (r.time, r.metric.as_str().to_owned())));
        }
        let mut expected: Vec<_> = (0..40)
            .flat_map(|n| ["B", "a", "b"].map(|name| (at(n * 3600), name.to_owned())))
            .collect();
        if order == Order::NewestFirst {
            expected.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        assert_eq!(seen, expected, "{order:?}");
    }
}

async fn ranges_and_metrics_limit(fresh: &mut Fresh) {
    fill(fresh, 10).await;
    let range = TimeRange::new(at(3600), at(3 * 3600)).unwrap();
    let limited = ReadingQuery { metrics: vec![metric("a")], range, ..query() };
    let readings = fresh.storage.readings(&limited).await.unwrap();
    let values: Vec<_> = readings.into_iter().map(|reading| reading.value).collect();
    assert_eq!(values, [Value::Integer(-1), Value::Integer(-2)], "from the start, before the end");
}

async fn latest_of_each_metric(fresh: &mut Fresh) {
    fill(fresh, 5).await;
    fresh
        .storage
        .append_events(&[telemetry("fern-1", -99, &[("c", Value::Integer(7))])])
        .await
        .unwrap();
    let latest = fresh.storage.latest(&device("fern-1"), &[]).await.unwrap();
    let latest: Vec<_> = latest.iter().map(|r| (r.metric.as_str(), r.time)).collect();
    let newest = at(4 * 3600);
    assert_eq!(latest, [("B", newest), ("a", newest), ("b", newest), ("c", at(-99))]);
    let some = [metric("b"), metric("none")];
    assert_eq!(fresh.storage.latest(&device("fern-1"), &some).await.unwrap().len(), 1);
}

async fn devices_in_order(fresh: &mut Fresh) {
    let ids = ["a", "B", "b", "ä", "z-10", "z-9"];
    let events: Vec<_> = ids.map(|id| telemetry(id, 0, &[("t", Value::Integer(1))])).into();
    fresh.storage.append_events(&events).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = fresh
            .storage
            .devices(&DeviceQuery { after: after.clone(), limit: 2, ..DeviceQuery::default() })
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        seen.extend(page.into_iter().map(|device| device.id.as_str().to_owned()));
    }
    assert_eq!(seen, ["B", "a", "b", "z-10", "z-9", "ä"]);
}

/// The summary, computed the obvious way.
fn naive(values: &[(i64, f64)], width: i64) -> Vec<Bucket> {
    let mut buckets: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (micros, value) in values {
        buckets.entry(micros.div_euclid(width) * width).or_default().push(*value);
    }
    let bucket = |(start, values): (i64, Vec<f64>)| Bucket {
        start: Timestamp::from_micros(start).unwrap(),
        count: values.len() as u64,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        avg: values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap()),
        first: values[0],
        last: *values.last().unwrap(),
    };
    buckets.into_iter().map(bucket).collect()
}

async fn summaries_equal_a_naive_one(fresh: &mut Fresh) {
    let mut random = fastrand::Rng::with_seed(7);
    let mut times: Vec<_> = (0..500).map(|_| random.i64(-40_000_000..40_000_000)).collect();
    times.sort_unstable();
    times.dedup();
    // Eighths are exact, so that sums do not depend on their order.
    let values: Vec<_> =
        times.iter().map(|s| ((s + 1_767_787_200) * 1_000_000, random.i32(-800..800))).collect();
    let as_value = |eighths: i32| {
        if eighths % 8 == 0 {
            Value::Integer(eighths.into())
        } else {
            Value::Number(f64::from(eighths))
        }
    };
    let event = |(seconds, (_, eighths)): (&i64, &(i64, i32))| {
        let mut values = vec![("t", as_value(*eighths)), ("other", Value::Number(1e9))];
        values.push(("t.flag", Value::Flag(true)));
        telemetry("fern-1", *seconds, &values)
    };
    let events: Vec<_> = times.iter().zip(&values).map(event).collect();
    fresh.storage.append_events(&events).await.unwrap();
    let text = telemetry("fern-1", 50_000_000, &[("t", Value::text("not a number").unwrap())]);
    fresh.storage.append_events(&[text]).await.unwrap();

    for (start, end, width) in [
        (-40_000_000, 40_000_000, 86_400 * 30),
        (-1_000_000, 9_999_999, 86_400),
        (0, 20_000_000, 12_345),
        (49_000_000, 51_000_000, 86_400),
    ] {
        let range = TimeRange::new(at(start), at(end)).unwrap();
        let width = Duration::from_secs(width);
        let query = SummaryQuery::new(device("fern-1"), metric("t"), range, width).unwrap();
        let within =
            |(micros, _): &&(i64, i32)| (range.start.micros()..range.end.micros()).contains(micros);
        let values: Vec<_> =
            values.iter().filter(within).map(|(micros, v)| (*micros, f64::from(*v))).collect();
        let expected = naive(&values, query.width_micros());
        assert_eq!(fresh.storage.summarize(&query).await.unwrap(), expected);
    }
}

/// Any finite number is a value: squares and sums of some are not.
async fn summaries_bear_extreme_values(fresh: &mut Fresh) {
    let cases: [(&[f64], f64); 5] = [
        (&[-1.5e300, 1.5e300], 0.0),
        (&[f64::MAX, f64::MAX, f64::MAX], f64::MAX),
        (&[f64::MIN, f64::MIN], f64::MIN),
        (&[5e-324, 5e-324], 5e-324),
        (&[1e-290, 3e-290], 2e-290),
    ];
    for (n, (values, avg)) in (0..).zip(cases) {
        let event = |(s, value): (i64, &f64)| {
            telemetry("fern-1", n * 60 + s, &[("t", Value::Number(*value))])
        };
        let events: Vec<_> = (0..).zip(values).map(event).collect();
        fresh.storage.append_events(&events).await.unwrap();
        let range = TimeRange::new(at(n * 60), at(n * 60 + 60)).unwrap();
        let width = Duration::from_mins(1);
        let query = SummaryQuery::new(device("fern-1"), metric("t"), range, width).unwrap();
        let buckets = fresh.storage.summarize(&query).await.unwrap();
        let [bucket] = buckets[..] else { panic!("{buckets:?}") };
        let bits = |value: f64| value.to_bits();
        assert_eq!((bucket.first, bucket.count), (values[0], values.len() as u64));
        assert_eq!(bits(bucket.avg), bits(avg), "{values:?} gives {}", bucket.avg);
    }
}

async fn unknown_names_find_nothing(fresh: &mut Fresh) {
    let id = device("fern-1");
    assert!(fresh.storage.readings(&query()).await.unwrap().is_empty());
    assert!(fresh.storage.latest(&id, &[]).await.unwrap().is_empty());
    assert!(fresh.storage.metrics(Some(&id)).await.unwrap().is_empty());
    assert!(fresh.storage.metrics(None).await.unwrap().is_empty());
    assert!(
        fresh
            .storage
            .devices(&DeviceQuery { limit: 10, ..DeviceQuery::default() })
            .await
            .unwrap()
            .is_empty()
    );
    let range = TimeRange::new(at(0), at(10)).unwrap();
    let query = SummaryQuery::new(id, metric("t"), range, Duration::from_secs(1)).unwrap();
    assert!(fresh.storage.summarize(&query).await.unwrap().is_empty());
}
