//! Two bridges share a subscription, two stores share a database, and each is replaced in its turn
//! while a client follows a device at one store, and at the other when that ends.

use std::sync::{Arc, Mutex};

use anyhow::ensure;
use e2e::{Bed, Client, Setup, device_name, eventually, free_port, health_becomes};
use telemetry_proto::v1::reading::Value;
use tokio::task::JoinSet;
use tonic::Code;

use super::shutdown::stop;

/// The numbers of the messages that a follower was shown, in its order.
type Seen = Arc<Mutex<Vec<u64>>>;

/// Follows a device from its first message on, at whichever of these stores answers.
async fn follow(device: String, stores: [String; 2], seen: Seen) -> anyhow::Result<()> {
    let mut cursor = "0".to_owned();
    for address in stores.iter().cycle() {
        let Ok(client) = Client::connect(address).await else { continue };
        let Ok((mut response, mut stream)) = client.watch(&device, &cursor).await else { continue };
        let ended = loop {
            let readings = response.events.iter().flat_map(|event| &event.readings);
            let numbers = readings.filter(|reading| reading.metric == "n");
            let numbers = numbers.filter_map(|reading| match reading.value {
                Some(Value::Integer(n)) => Some(n.cast_unsigned()),
                _ => None,
            });
            seen.lock().unwrap().extend(numbers);
            cursor = response.cursor;
            match stream.message().await {
                Ok(Some(next)) => response = next,
                other => break other,
            }
        };
        ensure!(ended.is_err_and(|status| status.code() == Code::Unavailable), "not resumable");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bridges_and_two_stores() -> anyhow::Result<()> {
    let bridge = vec![("MQTT_SHARED_GROUP", "bridges".to_owned())];
    let mut bed = Bed::start_with(Setup { bridge, ..Setup::default() }).await?;
    let [store, health] = [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
    let other = [
        ("MQTT_CLIENT_ID", "another".to_owned()),
        ("BRIDGE_LISTEN", health.clone()),
        ("STORE_URL", format!("http://{store}")),
    ];
    let mut other_store = bed.system.another_store(&store)?;
    health_becomes(&store, true).await?;
    let mut other_bridge = bed.system.another_bridge(&other)?;
    health_becomes(&health, true).await?;

    let (seen, mut following) = (Seen::default(), JoinSet::new());
    let stores = [bed.system.store_address(), store.clone()];
    following.spawn(follow(device_name(0), stores, Arc::clone(&seen)));

    for _ in 0..2 {
        stop(bed.system.bridge.take()).await?;
        bed.system.start_bridge()?;
        health_becomes(&bed.system.bridge_address(), true).await?;
        stop(Some(other_bridge)).await?;
        other_bridge = bed.system.another_bridge(&other)?;
        health_becomes(&health, true).await?;
        stop(bed.system.store.take()).await?;
        bed.system.restart_store().await?;
        health_becomes(&bed.system.bridge_address(), true).await?;
        stop(Some(other_store)).await?;
        other_store = bed.system.another_store(&store)?;
        health_becomes(&store, true).await?;
        health_becomes(&health, true).await?;
    }
    bed.audit().await?;

    let sent = bed.auditor.tally().through[0];
    eventually("the follower has seen everything", async || {
        let mut seen = seen.lock().unwrap().clone();
        ensure!(seen.len() as u64 >= sent, "{} of {sent}", seen.len());
        seen.sort_unstable();
        ensure!(seen == (0..sent).collect::<Vec<_>>(), "a gap, or something twice: {seen:?}");
        Ok(())
    })
    .await?;
    ensure!(following.try_join_next().is_none(), "the follower gave up");
    Ok(())
}
