//! Who may call: tokens, scopes, certificates.

use anyhow::ensure;
use e2e::{Authority, Client, Process, Secured, Token, free_port};
use telemetry_proto::v1::{
    GetLedgerRequest, IngestRequest, ReplayQuarantineRequest, WatchDeviceRequest,
};
use tonic::{Code, Status};

use super::{list, refused};

async fn ingest(client: &Client) -> Result<(), Status> {
    let requests = tokio_stream::iter([IngestRequest::default()]);
    client.ingest.clone().ingest(requests).await?.into_inner().message().await.map(drop)
}

async fn replay(client: &Client) -> Result<(), Status> {
    let request = ReplayQuarantineRequest::default();
    client.diagnostics.clone().replay_quarantine(request).await.map(drop)
}

#[tokio::test]
async fn nobody_is_let_in_without_a_known_token_and_none_beyond_its_scope() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let sender = store.token("bridge", "ingest", "").await?;
    let reader = store.token("alice", "read", "").await?;
    let keeper = store.token("root", "admin", "").await?;

    let stranger = store.stranger().await?;
    let guesser = store.client(&"0".repeat(64)).await?;
    for client in [&stranger, &guesser] {
        refused(list(client).await, Code::Unauthenticated)?;
        refused(ingest(client).await, Code::Unauthenticated)?;
        refused(replay(client).await, Code::Unauthenticated)?;
        let ledger = client.diagnostics.clone().get_ledger(GetLedgerRequest {}).await;
        refused(ledger.map(drop), Code::Unauthenticated)?;
        let watch = WatchDeviceRequest { device_id: "fern-1".into(), ..Default::default() };
        let watch = client.watch.clone().watch_device(watch).await;
        refused(watch.map(drop), Code::Unauthenticated)?;
    }
    // Both are told the same: what to send.
    let told = [list(&stranger).await.unwrap_err(), list(&guesser).await.unwrap_err()];
    ensure!(told[0].message() == told[1].message() && told[0].message().contains("Bearer"));
    ensure!(told[0].metadata().get("www-authenticate").is_some(), "{told:?}");

    let (sender, reader) = (store.client(&sender).await?, store.client(&reader).await?);
    ingest(&sender).await?;
    refused(list(&sender).await, Code::PermissionDenied)?;
    list(&reader).await?;
    refused(ingest(&reader).await, Code::PermissionDenied)?;
    refused(replay(&reader).await, Code::PermissionDenied)?;
    let keeper = store.client(&keeper).await?;
    list(&keeper).await?;
    ingest(&keeper).await?;
    replay(&keeper).await?;

    // Not even the definition of the API, unless it was asked for.
    let mut reflection =
        tonic_health::pb::health_client::HealthClient::new(store.channel(None).await?);
    reflection.check(tonic_health::pb::HealthCheckRequest::default()).await?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_our_authority_stands_for_a_token_and_a_forged_one_for_nothing()
-> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let folder = store.file("");
    store.authority.sign(&folder, "reader", "alice.example")?;
    store.authority.sign(&folder, "unknown", "mallory.example")?;
    Authority::new()?.sign(&folder, "forged", "alice.example")?;
    store.authorize("alice read cert:alice.example\n").await?;

    let client = |channel| Client::over(channel, Token::default());
    let reader = client(store.channel(Some("reader")).await?);
    list(&reader).await?;
    refused(ingest(&reader).await, Code::PermissionDenied)?;
    let unknown = client(store.channel(Some("unknown")).await?);
    refused(list(&unknown).await, Code::Unauthenticated)?;
    // TLS 1.3 lets a client believe that it is connected before it is turned away.
    match store.channel(Some("forged")).await {
        Ok(channel) => refused(list(&client(channel)).await, Code::Unavailable)
            .or_else(|_| Ok::<_, anyhow::Error>(()))?,
        Err(error) => drop(error),
    }
    store.process.logged("did not come about", 1).await
}

#[tokio::test]
async fn a_public_address_is_not_opened_to_everyone_unasked() -> anyhow::Result<()> {
    let folder = tempfile::TempDir::new()?;
    let variables = vec![
        ("DATABASE_URL", format!("sqlite://{}/telemetry.db", folder.path().display())),
        ("STORE_LISTEN", format!("0.0.0.0:{}", free_port()?)),
    ];
    let mut store = Process::start("telemetry-store", &variables)?;
    ensure!(store.ended().await?.code() == Some(1), "{:?}", store.log());
    for said in ["AUTH_TOKENS_FILE", "ALLOW_ANONYMOUS=true"] {
        store.logged(said, 1).await?;
    }
    let told = [variables, vec![("ALLOW_ANONYMOUS", "true".to_owned())]].concat();
    let store = Process::start("telemetry-store", &told)?;
    store.logged("telemetry store is serving", 1).await
}
