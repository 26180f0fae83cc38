//! The store is away for long, while messages of both kinds keep coming.

use anyhow::{Context, ensure};
use e2e::{Bed, Process, Setup, health_becomes, lasts};

/// The window of 64 MiB, and the process itself.
const BRIDGE_BYTES: u64 = 256 * 1024 * 1024;

/// `QoS` 1 waits with the broker, `QoS` 0 in the bridge and then with the broker too: nothing is
/// lost of either, and the bridge stays small.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_of_either_kind() -> anyhow::Result<()> {
    let mut bed = Bed::start_with(Setup { qos0_every: 2, ..Setup::default() }).await?;
    drop(bed.system.store.take());
    health_becomes(&bed.system.bridge_address(), false).await?;
    lasts(8, 600).await;
    bed.system.launch_store()?;
    bed.audit().await?;
    let bytes = bed.system.bridge.as_ref().map(Process::peak_memory_bytes);
    let bytes = bytes.context("no bridge")??;
    ensure!(bytes < BRIDGE_BYTES, "the bridge held {bytes} bytes");
    Ok(())
}
