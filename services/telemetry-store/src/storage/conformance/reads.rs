//! What is asked of the history.

use telemetry_model::{
    DeviceQuery, Order, ReadingPosition, ReadingQuery, TimeRange, Timestamp, Value,
};

use super::{Fresh, at, device, metric, on_each_backend, telemetry};
use crate::storage::testing::AppendEvents;

on_each_backend!(
    pages_in_both_orders,
    ranges_and_metrics_limit,
    latest_of_each_metric,
    devices_in_order,
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
        let query = DeviceQuery { after: after.clone(), limit: 2, ..DeviceQuery::default() };
        let page = fresh.storage.devices(&query).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        seen.extend(page.into_iter().map(|device| device.id.as_str().to_owned()));
    }
    assert_eq!(seen, ["B", "a", "b", "z-10", "z-9", "ä"]);
}

async fn unknown_names_find_nothing(fresh: &mut Fresh) {
    let id = device("fern-1");
    assert!(fresh.storage.readings(&query()).await.unwrap().is_empty());
    assert!(fresh.storage.latest(&id, &[]).await.unwrap().is_empty());
    assert!(fresh.storage.metrics(Some(&id)).await.unwrap().is_empty());
    assert!(fresh.storage.metrics(None).await.unwrap().is_empty());
    let query = DeviceQuery { limit: 10, ..DeviceQuery::default() };
    assert!(fresh.storage.devices(&query).await.unwrap().is_empty());
}
