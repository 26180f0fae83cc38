//! Certificates and tokens are replaced while messages flow, and not one of them fails.

use std::fs;

use anyhow::ensure;
use e2e::{
    Auditor, Authority, Mosquitto, PostgresDatabase, Process, System, audit, eventually,
    health_becomes, mint,
};

/// Waits until a process has logged something once more than before.
async fn once_more(
    process: &Process,
    text: &str,
    action: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let count = || process.log().iter().filter(|line| line.contains(text)).count();
    let before = count();
    action()?;
    eventually(text, async || {
        ensure!(count() > before, "not yet: {:#?}", process.log());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rotation_under_load_fails_no_message() -> anyhow::Result<()> {
    let postgres = PostgresDatabase::create().await?;
    let mut system = System::prepare(Mosquitto::start().await?, Some(postgres)).await?;
    let folder = system.file("");
    let path = |name: &str| folder.join(name).display().to_string();
    let authority = Authority::new()?;
    authority.sign(&folder, "server", "localhost")?;
    let (first, first_line) = mint("bridge", "ingest", "").await?;
    fs::write(path("ca.pem"), authority.pem())?;
    fs::write(path("tokens"), &first_line)?;
    fs::write(path("token"), &first)?;
    for (variable, file) in [
        ("STORE_TLS_CERT", "server.pem"),
        ("STORE_TLS_KEY", "server.key"),
        ("AUTH_TOKENS_FILE", "tokens"),
    ] {
        system.set_of_store(variable, &path(file));
    }
    system.set_bridge("STORE_URL", &format!("https://localhost:{}", system.store_port()));
    system.set_bridge("STORE_CA_CERT", &path("ca.pem"));
    system.set_bridge("STORE_TOKEN_FILE", &path("token"));
    system.launch_store()?;
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;

    let mut auditor = Auditor::start(system.broker.port(), 1000, 0);
    auditor.publishes(2000).await?;
    let store = system.store.as_ref().expect("it was started");
    let bridge = system.bridge()?;
    // A new token, and then not the old one any more.
    let (second, second_line) = mint("bridge", "ingest", "").await?;
    let both = format!("{first_line}\n{second_line}\n");
    once_more(store, "what=\"tokens\"", || Ok(fs::write(path("tokens"), both)?)).await?;
    fs::write(path("token"), &second)?;
    once_more(bridge, "streaming to telemetry store", || {
        Ok(fs::write(path("tokens"), &second_line)?)
    })
    .await?;
    auditor.publishes(2000).await?;
    // A new authority beside the old one, and a certificate that it signed; then a new connection.
    let other = Authority::new()?;
    fs::write(path("ca.pem"), authority.pem() + &other.pem())?;
    once_more(store, "what=\"certificates\"", || other.sign(&folder, "server", "localhost"))
        .await?;
    auditor.publishes(2000).await?;
    let (third, third_line) = mint("bridge", "ingest", "").await?;
    fs::write(path("token"), &third)?;
    once_more(bridge, "streaming to telemetry store", || {
        Ok(fs::write(path("tokens"), &third_line)?)
    })
    .await?;
    auditor.publishes(2000).await?;
    let tally = auditor.stop().await?;

    let postgres = system.postgres.as_ref().expect("it was given");
    let verdict = eventually("everything is stored", async || {
        let verdict = audit(&mut postgres.connect().await?, auditor.epoch_ms, &tally).await?;
        ensure!(verdict.missing == 0, "{verdict:#}");
        Ok(verdict)
    });
    verdict.await?.is_clean()?;
    for (process, secrets) in
        [(store, [&first, &second, &third]), (bridge, [&first, &second, &third])]
    {
        let log = process.log().join("\n");
        ensure!(!secrets.into_iter().any(|secret| log.contains(secret)), "a secret is in the log");
        ensure!(!log.contains("ERROR"), "{log}");
    }
    Ok(())
}
