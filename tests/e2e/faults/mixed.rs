//! Whatever fails, in any order: each fault is drawn by lot and mended before the next, for a
//! minute, or for ten with `FAULTS_LONG`.

use std::time::Duration;

use e2e::{Bed, Mode, Setup, is_long, lasts};
use tokio::time::Instant;

/// Does one thing that may happen, and mends it.
async fn something_fails(bed: &mut Bed) -> anyhow::Result<()> {
    let fault = bed.chance.usize(0..9);
    let mode = [Mode::Cut, Mode::Reset, Mode::Stall, Mode::Swallow][bed.chance.usize(0..4)];
    bed.say(&format!("fault {fault} {mode:?}"));
    match fault {
        0 => bed.system.start_bridge()?,
        1 => bed.system.launch_store()?,
        2 => {
            bed.system.start_bridge()?;
            bed.system.launch_store()?;
        }
        3 => bed.broker_dies().await?,
        4 => bed.cluster()?.restart().await?,
        _ => {
            let links = [&bed.device_link, &bed.broker_link, &bed.store_link, &bed.database_link];
            let link = links[fault - 5];
            link.set(mode);
            lasts(3, 20).await;
            // What was swallowed is missing from the stream: it cannot go on.
            link.set(Mode::Cut);
            link.set(Mode::Pass);
        }
    }
    bed.recovers().await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_any_order() -> anyhow::Result<()> {
    let mut bed = Bed::start_with(Setup { own_cluster: true, ..Setup::default() }).await?;
    let minutes = if is_long() { 10 } else { 1 };
    let end = Instant::now() + Duration::from_mins(minutes);
    while Instant::now() < end {
        something_fails(&mut bed).await?;
    }
    bed.audit().await
}
