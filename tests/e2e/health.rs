//! What a container's health check and an operator ask of the binaries themselves.

use anyhow::{Context, ensure};
use e2e::{Database, Mode, Mosquitto, PostgresDatabase, Process, Proxy, Secured, System};

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
    let (bridge, listen) = &asked[1];
    ensure!(code(bridge, "--health=liveness", std::slice::from_ref(listen)).await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn with_tls_it_must_be_the_process_that_has_the_certificate() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    store.authority.sign(&store.file(""), "other", "localhost")?;
    let ask = async |argument, certificate: Option<&str>| {
        let mut variables = vec![("STORE_LISTEN", store.address())];
        if let Some(name) = certificate {
            variables.push(("STORE_TLS_CERT", store.file(name).display().to_string()));
        }
        code("telemetry-store", argument, &variables).await
    };
    ensure!(ask("--health", Some("server.pem")).await? == Some(0));
    ensure!(ask("--health=liveness", Some("server.pem")).await? == Some(0));
    ensure!(ask("--health=nothing", Some("server.pem")).await? == Some(1));
    ensure!(ask("--health", Some("other.pem")).await? == Some(1));
    ensure!(ask("--health", None).await? == Some(1));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_still_starting_is_waited_for() -> anyhow::Result<()> {
    let database = PostgresDatabase::create().await?;
    let link = Proxy::to(database.port()?).await?;
    let url = ("DATABASE_URL", database.url_through(link.port())?);
    let mut system = System::prepare(Mosquitto::start().await?, Some(database)).await?;
    system.set_database(link.port());
    link.set(Mode::Cut);
    system.launch_store()?;
    let mut migrate =
        Process::start_with("telemetry-store", &["migrate"], std::slice::from_ref(&url))?;
    let mut stopped = Process::start("telemetry-store", std::slice::from_ref(&url))?;
    for waiting in [system.store.as_ref().context("no store")?, &migrate, &stopped] {
        waiting.logged("waiting for the database", 2).await?;
    }
    stopped.terminate()?;
    ensure!(stopped.ended().await?.code() == Some(0), "{:?}", stopped.log());
    link.set(Mode::Pass);
    ensure!(migrate.ended().await?.code() == Some(0), "{:?}", migrate.log());
    e2e::health_becomes(&system.store_address(), true).await
}
