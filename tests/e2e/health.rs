//! What a container's health check and an operator ask of the binaries themselves.

use anyhow::ensure;
use e2e::{Database, Process, System};

/// The exit code of a binary that ends by itself.
async fn code(
    binary: &str,
    argument: &str,
    variables: &[(&str, String)],
) -> anyhow::Result<Option<i32>> {
    Ok(Process::start_with(binary, &[argument], variables)?.ended().await?.code())
}

#[tokio::test]
async fn each_tells_whether_it_serves_by_its_exit_code() -> anyhow::Result<()> {
    let mut system = System::start(Database::Sqlite).await?;
    let asked = [
        ("telemetry-store", ("STORE_LISTEN", system.store_address())),
        ("mqtt-bridge", ("BRIDGE_LISTEN", system.bridge_address())),
    ];
    for (binary, listen) in &asked {
        ensure!(code(binary, "--health", std::slice::from_ref(listen)).await? == Some(0));
    }
    // The bridge does not serve without a store, though it runs.
    system.store = None;
    e2e::health_becomes(&system.bridge_address(), false).await?;
    for (binary, listen) in &asked {
        ensure!(code(binary, "--health", std::slice::from_ref(listen)).await? == Some(1));
    }
    Ok(())
}

#[tokio::test]
async fn each_tells_its_version_and_what_its_settings_lack() -> anyhow::Result<()> {
    for (binary, listen) in [("telemetry-store", "STORE_LISTEN"), ("mqtt-bridge", "BRIDGE_LISTEN")]
    {
        let mut version = Process::start_with(binary, &["--version"], &[])?;
        ensure!(version.ended().await?.code() == Some(0));
        version.logged(&format!("{binary} {}", env!("CARGO_PKG_VERSION")), 1).await?;
        ensure!(code(binary, "--health", &[(listen, "nowhere".to_owned())]).await? == Some(2));
    }
    Ok(())
}
