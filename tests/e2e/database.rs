//! A database that is guarded: TLS with a certificate that is checked, and logins that may do little.

use anyhow::{Context, ensure};
use e2e::{Client, Cluster, Process, free_port};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use telemetry_model::{Clock, SystemClock};
use telemetry_proto::v1::{
    EventKind, IngestEvent, IngestRequest, Measurement, Sample, measurement::Value,
};

/// Logins as an operator would make them, in a database of their own.
const LOGINS: [&str; 4] = [
    "CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeper'",
    "CREATE DATABASE telemetry OWNER keeper",
    "CREATE ROLE store LOGIN PASSWORD 'store'",
    "CREATE ROLE dashboard LOGIN PASSWORD 'dashboard'",
];
/// Something that is past its retention, of a device that is none of ours.
const OLD: &str = "INSERT INTO readings (time, device_id, metric_id, number, time_source)
                   VALUES (now() - interval '400 days', 1000, 1, 1.0, 1)";

async fn send(address: &str) -> anyhow::Result<()> {
    let client = Client::connect(address).await?;
    let value = Some(Value::Number(1.0));
    let measurements = vec![Measurement { metric: "t".into(), value }];
    let event = IngestEvent {
        device_id: "fern-1".into(),
        kind: EventKind::Telemetry.into(),
        received: Some(telemetry_proto::wire_timestamp(SystemClock.now())),
        samples: vec![Sample { measurements, ..Sample::default() }],
        ..IngestEvent::default()
    };
    let events = vec![event, IngestEvent::default()];
    let request = IngestRequest { first_sequence: 1, events, flush: true, ..Default::default() };
    let answers = client.ingest.clone().ingest(tokio_stream::iter([request])).await?;
    let mut answers = answers.into_inner();
    while answers.message().await?.is_some() {}
    ensure!(client.readings("fern-1").await?.len() == 1);
    let logged = client.watch("fern-1", "0").await?.0.events;
    ensure!(logged.iter().filter(|event| event.presence.is_none()).count() == 1, "{logged:?}");
    client.ledger().await.map(drop)
}

#[tokio::test]
async fn a_store_that_may_do_little_does_all_its_work_over_checked_tls() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let authority = cluster.use_tls().await?;
    for login in LOGINS {
        cluster.execute(login).await?;
    }
    let server = cluster.url();
    let (_, port) = server.rsplit_once(':').context("no port")?;
    let (port, _) = port.split_once('/').context("no port")?;
    let plain =
        |login: &str, host: &str| format!("postgres://{login}:{login}@{host}:{port}/telemetry");
    let url = |login: &str, host: &str, authority: &str| {
        format!("{}?sslmode=verify-full&sslrootcert={authority}", plain(login, host))
    };
    let authority = authority.display().to_string();
    // The extension is the server's matter; and from now on nobody comes in without TLS.
    let mut superuser = PgConnection::connect(&plain("postgres", "127.0.0.1")).await?;
    superuser.execute("CREATE EXTENSION timescaledb").await?;

    let keeper = [("DATABASE_URL", url("keeper", "localhost", &authority))];
    let mut migrate = Process::start_with("telemetry-store", &["migrate"], &keeper)?;
    ensure!(migrate.ended().await?.success(), "{:?}", migrate.log());
    superuser
        .execute("GRANT telemetry_writer TO store; GRANT telemetry_reader TO dashboard")
        .await?;
    superuser.execute(OLD).await?;

    let address = format!("127.0.0.1:{}", free_port()?);
    let start = |url: String| {
        let variables = [("DATABASE_URL", url), ("STORE_LISTEN", address.clone())];
        Process::start("telemetry-store", &variables)
    };
    let store = start(url("store", "localhost", &authority))?;
    store.logged("telemetry store is serving", 1).await?;
    send(&address).await?;
    store.logged("dropped what is past its retention", 1).await?;
    let encrypted: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE usename = 'store' AND ssl",
    )
    .fetch_one(&mut superuser)
    .await?;
    ensure!(encrypted > 0, "the store does not use TLS");
    ensure!(!store.log().iter().any(|line| line.contains("WARN")), "{:#?}", store.log());
    drop(store);

    // Neither may do what it need not.
    for (login, statement, may) in [
        ("store", "DROP TABLE quarantine", false),
        ("store", "UPDATE _sqlx_migrations SET success = false", false),
        ("store", "SELECT drop_telemetry_chunks('devices', now(), now())", false),
        ("dashboard", "SELECT * FROM readings, devices, metrics, device_log", true),
        ("dashboard", "DELETE FROM readings", false),
        (
            "dashboard",
            "INSERT INTO devices (device_id, first_seen, last_seen) VALUES ('x', now(), now())",
            false,
        ),
    ] {
        let mut connection = PgConnection::connect(&url(login, "localhost", &authority)).await?;
        let done = connection.execute(AssertSqlSafe(statement.to_owned())).await;
        ensure!(done.is_ok() == may, "{login}: {statement}: {done:?}");
    }

    // Another authority, or another name, is not good enough.
    let other = tempfile::TempDir::new()?;
    let forged = other.path().join("ca.pem");
    std::fs::write(&forged, e2e::Authority::new()?.pem())?;
    for url in [
        url("store", "localhost", &forged.display().to_string()),
        url("store", "127.0.0.1", &authority),
    ] {
        let mut refused = start(url)?;
        ensure!(refused.ended().await?.code() == Some(1), "{:?}", refused.log());
        ensure!(!refused.log().join(" ").contains("store:store"), "{:?}", refused.log());
    }
    Ok(())
}
