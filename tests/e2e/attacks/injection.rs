//! Ids and tokens that would be something else: SQL, paths, lines of a log. And what must stay secret.

use std::process::Command;

use anyhow::ensure;
use e2e::{Process, Secured, free_port};
use telemetry_proto::v1::{ListDevicesRequest, ListReadingsRequest};
use tonic::Code;

use super::{devices::send, list, refused};

#[tokio::test]
async fn an_id_is_an_id_whatever_it_would_mean_elsewhere() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let token = store.token("root", "admin", "").await?;
    let client = store.client(&token).await?;
    let fine = [
        "';DROP(TABLE)devices;--",
        "\"'`$(id)",
        "%00%2e%2e%2f",
        "..\\..\\x",
        "1=1)OR(1=1",
        "_%",
        "{{7*7}}",
    ];
    let bad = [
        "../../etc/passwd",
        "fern\n2026-01-01T00:00:00Z ERROR forged",
        "\u{1b}[2Jfern",
        "a\0b",
        "..",
    ];
    ensure!(send(&client, &fine).await?.is_empty());
    ensure!(send(&client, &bad).await?.len() == bad.len());
    let request = ListDevicesRequest::default();
    let devices = client.query.clone().list_devices(request).await?.into_inner().devices;
    ensure!(devices.len() == fine.len(), "{devices:?}");
    for id in fine {
        ensure!(client.readings(id).await?.len() == 1, "{id}");
    }
    for id in bad {
        let request = ListReadingsRequest { device_id: id.to_owned(), ..Default::default() };
        refused(
            client.query.clone().list_readings(request).await.map(drop),
            Code::InvalidArgument,
        )?;
    }
    for line in store.process.log() {
        ensure!(!line.contains('\u{1b}') && !line.starts_with("2026-01-01"), "{line:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_said_with_what_to_do_and_never_itself() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let secret = "sesame-that-nobody-may-read";
    let variables = [
        ("MQTT_HOST", "127.0.0.1".to_owned()),
        ("MQTT_PORT", free_port()?.to_string()),
        ("MQTT_BACKEND_PASSWORD", secret.to_owned()),
        ("MQTT_CLIENT_ID", "bridge".to_owned()),
        ("BRIDGE_LISTEN", format!("127.0.0.1:{}", free_port()?)),
        ("STORE_URL", store.address().replace("127.0.0.1", "https://localhost")),
        ("STORE_CA_CERT", store.file("ca.pem").display().to_string()),
        ("STORE_TOKEN", secret.to_owned()),
        ("LOG_LEVEL", "trace".to_owned()),
    ];
    let bridge = Process::start("mqtt-bridge", &variables)?;
    bridge.logged("telemetry store refuses us", 1).await?;
    bridge.logged("retry_in_ms=60000", 1).await?;
    bridge.logged("check STORE_TOKEN", 1).await?;
    let client = store.client(secret).await?;
    refused(list(&client).await, Code::Unauthenticated)?;
    store.process.logged("unknown token", 1).await?;
    let help = |binary: &'static str| -> anyhow::Result<Vec<String>> {
        let mut folder = std::env::current_exe()?;
        folder.pop();
        folder.pop();
        let mut command = Command::new(folder.join(binary));
        let output = command.arg("--help").envs(variables.clone()).output()?;
        Ok(vec![String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?])
    };
    let said =
        [bridge.log(), store.process.log(), help("mqtt-bridge")?, help("telemetry")?].concat();
    for line in said {
        ensure!(!line.contains("sesame"), "{line}");
    }
    Ok(())
}
