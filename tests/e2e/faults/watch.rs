//! Clients follow all devices, and one, through restarts of both stores, the bridge and the database,
//! at whichever store answers. In the end their logs are the database's, event for event.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::{
    Bed, Client, Process, Setup, WatchResponse, device_name, eventually, eventually_within,
    free_port, health_becomes, is_long, is_serving,
};
use prost::Message;
use sqlx::{Executor, Row};
use telemetry_proto::v1::{Event, WatchDevicesRequest};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{Code, Status, Streaming};

use super::shutdown::stop;

/// Events by device, in their order.
type Log = BTreeMap<String, Vec<Event>>;

/// What a follower was shown.
type Seen = Arc<Mutex<Log>>;

/// Reads a stream until it breaks.
async fn read<R: WatchResponse>(
    mut stream: Streaming<R>,
    cursor: &mut String,
    seen: &Seen,
) -> Result<(), Status> {
    while let Some(response) = stream.message().await? {
        let (told, events) = response.into_parts();
        let mut seen = seen.lock().unwrap();
        for event in events {
            seen.entry(event.device_id.clone()).or_default().push(event);
        }
        *cursor = told;
    }
    Ok(())
}

/// Follows a device, or all, from the beginning.
async fn follow(device: Option<String>, stores: [String; 2], seen: Seen) -> anyhow::Result<()> {
    let mut cursor = "0".to_owned();
    for address in stores.iter().cycle() {
        // A client does not ask again at once.
        sleep(Duration::from_millis(50)).await;
        let Ok(client) = Client::connect(address).await else { continue };
        let mut watch = client.watch;
        let after_cursor = cursor.clone();
        let ended = match &device {
            Some(device) => {
                let device_id = device.clone();
                let request = telemetry_proto::v1::WatchDeviceRequest {
                    device_id,
                    after_cursor,
                    ..Default::default()
                };
                match watch.watch_device(request).await {
                    Ok(stream) => read(stream.into_inner(), &mut cursor, &seen).await,
                    Err(status) => Err(status),
                }
            }
            None => {
                let request = WatchDevicesRequest { after_cursor, ..Default::default() };
                match watch.watch_devices(request).await {
                    Ok(stream) => read(stream.into_inner(), &mut cursor, &seen).await,
                    Err(status) => Err(status),
                }
            }
        };
        let status = ended.err().context("a watch ended as if it were complete")?;
        let is_final = matches!(status.code(), Code::OutOfRange | Code::InvalidArgument);
        ensure!(!is_final, "{status:?}");
    }
    Ok(())
}

/// What the database has.
async fn logged(bed: &Bed) -> anyhow::Result<Log> {
    let mut database = bed.database().await?;
    let rows =
        database.fetch_all("SELECT event FROM device_log ORDER BY log_partition, position").await?;
    let mut log = Log::new();
    for row in rows {
        let event = Event::decode(row.try_get::<Vec<u8>, _>(0)?.as_slice())?;
        log.entry(event.device_id.clone()).or_default().push(event);
    }
    Ok(log)
}

/// Ends something, gently or not, and starts it again.
async fn something_restarts(
    bed: &mut Bed,
    other: &mut Option<Process>,
    address: &str,
) -> anyhow::Result<()> {
    let (what, gently) = (bed.chance.usize(0..4), bed.chance.bool());
    bed.say(&format!("restart {what}, gently: {gently}"));
    match what {
        0 => {
            if gently {
                stop(bed.system.store.take()).await?;
            }
            bed.system.restart_store().await?;
        }
        1 => {
            let process = other.take();
            if gently {
                stop(process).await?;
            } else {
                drop(process);
            }
            *other = Some(bed.system.another_store(address)?);
            health_becomes(address, true).await?;
        }
        2 => {
            if gently {
                stop(bed.system.bridge.take()).await?;
            }
            bed.system.start_bridge()?;
        }
        _ => {
            if gently {
                bed.cluster()?.stop().await?;
            }
            bed.cluster()?.restart().await?;
        }
    }
    bed.recovers().await?;
    eventually("the other store is well", async || {
        ensure!(is_serving(address).await?, "it is not serving");
        Ok(())
    })
    .await
}

/// Fails unless a follower has seen what is logged of the devices it follows.
fn compare(seen: &Seen, logged: &Log, device: Option<&str>) -> anyhow::Result<usize> {
    let seen = seen.lock().unwrap();
    let own = logged.iter().filter(|(id, _)| device.is_none_or(|device| device == *id));
    let mut count = 0;
    for (id, logged) in own {
        let seen = seen.get(id).map_or(&[][..], Vec::as_slice);
        let same = seen.iter().zip(logged).take_while(|(a, b)| a == b).count();
        ensure!(
            same == logged.len() && same == seen.len(),
            "{id}: {} seen, {} logged, the first {same} are the same",
            seen.len(),
            logged.len()
        );
        count += same;
    }
    ensure!(count > 0, "nothing is logged");
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_through_restarts() -> anyhow::Result<()> {
    let setup = Setup { own_cluster: true, rate: Some(1000), ..Setup::default() };
    let mut bed = Bed::start_with(setup).await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut other = Some(bed.system.another_store(&address)?);
    health_becomes(&address, true).await?;

    let mut following = JoinSet::new();
    let followers = [None, Some(device_name(0))].map(|device| {
        let (seen, stores) = (Seen::default(), [address.clone(), bed.system.store_address()]);
        following.spawn(follow(device.clone(), stores, Arc::clone(&seen)));
        (device, seen)
    });
    let (least, minutes) = if is_long() { (20, 10) } else { (6, 0) };
    let (end, mut restarts) = (Instant::now() + Duration::from_mins(minutes), 0);
    while restarts < least || Instant::now() < end {
        something_restarts(&mut bed, &mut other, &address).await?;
        restarts += 1;
    }
    bed.audit().await?;
    let logged = logged(&bed).await?;
    for (device, seen) in followers {
        let what = format!("{device:?} is followed to the end");
        let count = eventually_within(Duration::from_mins(1), &what, async || {
            compare(&seen, &logged, device.as_deref())
        })
        .await?;
        bed.say(&format!("{restarts} restarts, {count} events of {device:?} seen as logged"));
    }
    ensure!(following.try_join_next().is_none(), "a follower gave up");
    Ok(())
}
