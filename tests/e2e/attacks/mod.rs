//! Those who should not get in, and what they try once they are.

mod devices;
mod floods;
mod identities;
mod injection;
mod jwt;
mod rotation;

use e2e::Client;
use telemetry_proto::v1::ListDevicesRequest;
use tonic::{Code, Status};

/// Whether somebody is let in, tried with the cheapest of calls.
async fn list(client: &Client) -> Result<(), Status> {
    client.query.clone().list_devices(ListDevicesRequest::default()).await.map(drop)
}

/// Fails unless a call was refused so.
fn refused(outcome: Result<(), Status>, code: Code) -> anyhow::Result<()> {
    let Err(status) = outcome else { anyhow::bail!("it was let in") };
    anyhow::ensure!(status.code() == code, "{status:?}");
    Ok(())
}
