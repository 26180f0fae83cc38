//! The bench measures the real pair, and fails when something is not as it was acknowledged.

use anyhow::{Context, ensure};
use e2e::{Database, Mosquitto, Process, System, health_becomes};
use serde_json::Value as Json;

/// Starts a bench of a system, with what it prints as JSON.
fn bench(system: &System, name: &str, more: &[&str]) -> anyhow::Result<Process> {
    let variables = [
        ("STORE_URL", format!("http://{}", system.store_address())),
        ("MQTT_DEVICE_PASSWORD", Mosquitto::PASSWORD.to_owned()),
    ];
    Process::start_with("telemetry", &[&["--json", "bench", name], more].concat(), &variables)
}

/// The options that say where to publish.
fn broker(system: &System) -> [String; 4] {
    let url = format!("mqtt://127.0.0.1:{}", system.broker.port());
    ["--broker", &url, "--username", Mosquitto::DEVICE].map(str::to_owned)
}

/// Runs a bench that publishes; answers what it printed.
async fn publishes(system: &System, name: &str, more: &[&str]) -> anyhow::Result<Json> {
    let broker = broker(system);
    let broker: Vec<_> = broker.iter().map(String::as_str).collect();
    let mut process = bench(system, name, &[&broker, more].concat())?;
    let ended = process.ended().await?;
    ensure!(ended.success(), "{:?}", process.log());
    first_line(&process).await
}

async fn first_line(process: &Process) -> anyhow::Result<Json> {
    process.logged("{", 1).await?;
    Ok(serde_json::from_str(process.log().first().context("nothing was printed")?)?)
}

#[tokio::test]
async fn ingest_accounts_for_every_message() -> anyhow::Result<()> {
    let system = System::start(Database::Timescale).await?;
    let store = format!("store={}", system.store.as_ref().context("no store")?.pid());
    let common = ["--devices", "7", "--connections", "3", "--readings", "5", "--pid", &store];
    let flat_out = [&common[..], &["--messages", "500", "--in-flight", "20"]].concat();
    let paced = [&common[..], &["--messages", "200", "--rate", "500"]].concat();
    for (more, messages) in [(flat_out, 500), (paced, 200)] {
        let figures = publishes(&system, "ingest", &more).await?;
        assert_eq!(figures["messages"], messages, "{figures}");
        assert_eq!(figures["watched"], messages, "{figures}");
        assert_eq!(figures["audit"]["messages_stored"], messages, "{figures}");
        assert_eq!(figures["audit"]["readings_stored"], messages * 5, "{figures}");
        assert!(figures["publish_to_puback_ms"]["p99"].as_f64() > Some(0.0), "{figures}");
        assert!(figures["publish_to_watch_ms"]["p99"].as_f64() > Some(0.0), "{figures}");
        assert!(figures["processes"]["store"]["peak_rss_mb"].as_f64() > Some(1.0), "{figures}");
    }
    Ok(())
}

#[tokio::test]
async fn ingest_fails_when_a_reading_is_missing() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    // The fourth metric has no room.
    system.set_of_store("MAX_METRICS", "3");
    system.restart_store().await?;
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let mut more = broker(&system).to_vec();
    more.extend(["--messages", "50", "--devices", "2", "--connections", "1"].map(str::to_owned));
    let more: Vec<_> = more.iter().map(String::as_str).collect();
    let mut process = bench(&system, "ingest", &more)?;
    ensure!(!process.ended().await?.success(), "{:?}", process.log());
    process.logged("200 readings were acknowledged and 150 are stored", 1).await
}

#[tokio::test]
async fn the_broker_alone_can_be_measured() -> anyhow::Result<()> {
    let system = System::start_store(Database::Sqlite).await?;
    let more = ["--messages", "300", "--devices", "5", "--reader", Mosquitto::BRIDGE];
    let figures = publishes(&system, "broker", &more).await?;
    assert_eq!(figures["messages"], 300);
    Ok(())
}

#[tokio::test]
async fn watchers_see_everything_beside_one_that_does_not_read() -> anyhow::Result<()> {
    let system = System::start(Database::Sqlite).await?;
    let more = ["--watchers", "30", "--connections", "3", "--rate", "100", "--duration", "2s"];
    let figures = publishes(&system, "watchers", &more).await?;
    for alone_or_not in ["publish_to_watch_ms", "publish_to_watch_beside_stalled_ms"] {
        assert!(figures[alone_or_not]["p99"].as_f64() > Some(0.0), "{figures}");
    }
    assert_eq!(figures["stalled_read_at_last"], 100, "2 s of 50 a second");
    Ok(())
}

#[tokio::test]
async fn queries_ask_about_history_that_the_repository_can_make() -> anyhow::Result<()> {
    let system = System::start_store(Database::Timescale).await?;
    let url = system.database_url()?;
    // Twice: the second time finds all of it there.
    for _ in 0..2 {
        let mut psql = std::process::Command::new("psql");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/history.sql");
        psql.args(["-qX", "-v", "devices=3", "-v", "days=2", "-f", file, &url]);
        let mut psql = Process::spawn("psql", psql)?;
        ensure!(psql.ended().await?.success(), "{:?}", psql.log());
    }
    let more = ["--prefix", "history-", "--times", "3", "--days", "3"];
    let mut process = bench(&system, "queries", &more)?;
    ensure!(process.ended().await?.success(), "{:?}", process.log());
    process.logged("p99_ms", 4).await?;
    let answered =
        |line: &String| serde_json::from_str::<Json>(line).map(|row| row["rows"].clone());
    let rows: Result<Vec<_>, _> = process.log().iter().map(answered).collect();
    let rows = rows?;
    assert_eq!(rows[0], 4, "the latest of each metric");
    assert!(rows[2].as_u64() <= Some(500), "{rows:?}");
    Ok(())
}
