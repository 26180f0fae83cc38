//! The `telemetry` command says what its output does not.

use e2e::{Database, Process, System};

fn telemetry(system: &System, arguments: &[&str]) -> anyhow::Result<Process> {
    let store = ("STORE_URL", format!("http://{}", system.store_address()));
    Process::start_with("telemetry", arguments, &[store])
}

#[tokio::test]
async fn readings_left_out_are_mentioned() -> anyhow::Result<()> {
    let system = System::start(Database::Sqlite).await?;
    system.device().publish_lines(
        "devices/fern-1/telemetry",
        1,
        "{\"t\":1}\n{\"t\":2}\n{\"t\":3}\n",
    )?;
    system.client().await?.readings_come("fern-1", 3).await?;
    let mut all = telemetry(&system, &["readings", "fern-1", "--limit", "3"])?;
    anyhow::ensure!(all.ended().await?.success());
    all.logged("received", 3).await?;
    anyhow::ensure!(!all.log().iter().any(|line| line.contains("more")), "{:?}", all.log());
    let some = telemetry(&system, &["readings", "fern-1", "--limit", "2"])?;
    some.logged("more than these 2 oldest readings: see --limit, --newest, --since", 1).await
}
