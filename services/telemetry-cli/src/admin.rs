//! The command that deletes a device.

use telemetry_proto::v1;

use crate::{output::Output, store::Store};

pub(crate) async fn delete(
    store: &Store,
    device: String,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let request = v1::DeleteDeviceRequest { device_id: device.clone() };
    let answer = store.admin().delete_device(request).await;
    let answer = answer.map_err(|status| store.explain(&status))?.into_inner();
    output.rows(vec![vec![
        ("deleted", device.into()),
        ("readings", answer.readings.into()),
        ("events", answer.events.into()),
        ("quarantined", answer.quarantined.into()),
    ]])
}
