//! No secret is told: not by a log at its most talkative, not by `--help`, not in traces or metrics.

use std::fs;

use anyhow::{Context, ensure};
use e2e::{Client, Database, OtlpReceiver, Process, System, Token, free_port, mint};
use sqlx::{AssertSqlSafe, Executor};
use telemetry_proto::v1::ListDevicesRequest;
use tonic::transport::Channel;

const MQTT: &str = "sesame-mqtt-7f3a";
const DATABASE: &str = "sesame-database-91bc";
const OWN_DATABASE: &str = "sesame-working-database-3c4e";
const HEADER: &str = "sesame-header-55de";
const TOKEN: &str = "sesame-token-20ad";
/// `{"alg":"HS256"}`, `{"sub":"sesame"}` and a signature.
const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzZXNhbWUifQ.c2VzYW1lLXNpZ25hdHVyZQ";

#[tokio::test]
async fn no_secret_is_told() -> anyhow::Result<()> {
    let receiver = OtlpReceiver::start().await?;
    let mut system = System::start_store(Database::Timescale).await?;
    let (own_login, own_url) = login(&system).await?;
    system.set_of_store("DATABASE_URL", &own_url);
    let (token, line) = mint("bridge", "admin", "").await?;
    let tokens = system.file("tokens");
    fs::write(&tokens, format!("{line}\n"))?;
    system.set_of_store("AUTH_TOKENS_FILE", &tokens.display().to_string());
    for (variable, value) in [
        ("LOG_LEVEL", "trace"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint()),
        ("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{HEADER}")),
    ] {
        system.set_of_store(variable, value);
        system.set_bridge(variable, value);
    }
    system.set_bridge("STORE_TOKEN", &token);
    system.restart_store().await?;
    system.start_bridge()?;
    e2e::health_becomes(&system.bridge_address(), true).await?;
    system.device().publish("devices/fern-1/telemetry", 1, br#"{"temperature":21}"#)?;
    receiver.span_named("store append").await?;

    // What goes wrong is talked about most.
    let forged = Channel::from_shared(format!("http://{}", system.store_address()))?;
    let forged = Client::over(forged.connect().await?, Token::bearer(JWT)?);
    let answer = forged.query.clone().list_devices(ListDevicesRequest::default()).await;
    let answer = format!("{:?}", answer.map(drop));
    let listen = || Ok::<_, anyhow::Error>(format!("127.0.0.1:{}", free_port()?));
    let wrong = |variable, value: &str| {
        let listen = listen()?;
        system.another_bridge(&[
            ("MQTT_CLIENT_ID", listen.clone()),
            ("BRIDGE_LISTEN", listen),
            (variable, value.to_owned()),
        ])
    };
    let not_let_in = wrong("MQTT_BACKEND_PASSWORD", MQTT)?;
    not_let_in.logged("MQTT_BACKEND_PASSWORD", 1).await?;
    let refused = wrong("STORE_TOKEN", TOKEN)?;
    refused.logged("telemetry store refuses us", 1).await?;
    let port = free_port()?;
    let database = |address: &str| {
        let url = format!("postgres://telemetry:{DATABASE}@{address}/telemetry");
        let variables =
            [("DATABASE_URL", url), ("STORE_LISTEN", listen()?), ("LOG_LEVEL", "trace".into())];
        Process::start("telemetry-store", &variables)
    };
    let nobody = database(&format!("127.0.0.1:{port}"))?;
    nobody.logged("waiting for the database", 1).await?;
    let mut nonsense = database("127.0.0.1:none")?;
    ensure!(!nonsense.ended().await?.success());
    let port_of_ours = system.postgres.as_ref().context("no database")?.port()?;
    let mut locked_out = database(&format!("127.0.0.1:{port_of_ours}"))?;
    locked_out.logged("check the user and the password", 1).await?;
    ensure!(!locked_out.ended().await?.success());
    let help = |binary, variable: &str, value: &str| {
        Process::start_with(binary, &["--help"], &[(variable, value.to_owned())])
    };
    let mut helped = [
        help("mqtt-bridge", "MQTT_BACKEND_PASSWORD", MQTT)?,
        help("mqtt-bridge", "STORE_TOKEN", TOKEN)?,
        help("telemetry-store", "DATABASE_URL", &format!("postgres://x:{DATABASE}@x/x"))?,
    ];
    for process in &mut helped {
        ensure!(process.ended().await?.success());
    }
    for process in [&mut system.bridge, &mut system.store].into_iter().flatten() {
        process.terminate()?;
        ensure!(process.ended().await?.success(), "{:?}", process.log());
    }

    let processes =
        [&not_let_in, &refused, &nobody, &nonsense, &locked_out].into_iter().chain(&helped);
    let processes = processes.chain(&system.bridge).chain(&system.store);
    let told: Vec<_> = processes.flat_map(Process::log).chain([answer, receiver.text()]).collect();
    ensure!(told.iter().any(|line| line.contains("TRACE")) && !receiver.metrics().is_empty());
    let broker = e2e::Mosquitto::PASSWORD.to_owned();
    for secret in [MQTT, DATABASE, OWN_DATABASE, HEADER, TOKEN, JWT, &token, &broker] {
        // Nor as bytes, as a protocol's trace would show them.
        let bytes = format!("{:?}", secret.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        let leak = told.iter().find(|line| line.contains(secret) || line.contains(bytes));
        ensure!(leak.is_none(), "{secret:?} is in {leak:?}");
    }
    let mut session = system.postgres.as_ref().context("no database")?.connect().await?;
    session.execute(AssertSqlSafe(format!("DROP ROLE {own_login}"))).await?;
    Ok(())
}

/// A login with a password that is no everyday word, and the URL with it.
async fn login(system: &System) -> anyhow::Result<(String, String)> {
    let database = system.postgres.as_ref().context("no database")?;
    let url = database.url();
    let (_, rest) = url.rsplit_once('@').context("a URL without a login")?;
    let (_, name) = rest.rsplit_once('/').context("a URL without a database")?;
    let login = format!("login_{name}");
    let create = format!("CREATE ROLE {login} LOGIN SUPERUSER PASSWORD '{OWN_DATABASE}'");
    database.connect().await?.execute(AssertSqlSafe(create)).await?;
    let url = format!("postgres://{login}:{OWN_DATABASE}@{rest}");
    Ok((login, url))
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs() -> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    let file = system.file("level");
    fs::write(&file, "")?;
    system.set_of_store("LOG_LEVEL_FILE", &file.display().to_string());
    system.set_of_store("LOG_LEVEL", "info");
    system.restart_store().await?;
    let store = system.store.as_ref().ok_or_else(|| anyhow::anyhow!("no store"))?;
    ensure!(!store.log().iter().any(|line| line.contains("DEBUG")), "{:?}", store.log());
    fs::write(&file, "debug\n")?;
    store.logged("files have changed, using the new", 1).await?;
    system.client().await?.readings("nobody").await.err();
    store.logged("DEBUG", 1).await?;
    fs::write(&file, "nonsense=loud")?;
    store.logged("files have changed but cannot be used, keeping the old", 1).await?;
    Ok(())
}
