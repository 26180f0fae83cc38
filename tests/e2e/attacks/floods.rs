//! More than is bearable: connections, streams, headers, frames. Those who are let in go on.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Client, DEADLINE, Database, Secured, System, eventually, health_becomes};
use telemetry_proto::v1::{ListDevicesRequest, WatchDeviceRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request};

use super::{list, refused};

/// What HTTP/2 begins with: the preface and empty settings.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A store without TLS, so that a test can say what it likes.
async fn plain(more: &[(&str, String)]) -> anyhow::Result<Secured> {
    let none = |name| (name, String::new());
    let without = ["STORE_TLS_CERT", "STORE_TLS_KEY", "STORE_CLIENT_CA"].map(none);
    Secured::start(&[&without, more].concat()).await
}

async fn known(store: &Secured, token: &str) -> anyhow::Result<Client> {
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", store.address()))?;
    Ok(Client::over(channel.connect().await?, e2e::Token::bearer(token)?))
}

/// Waits until the other side has closed.
async fn is_closed(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut rest = Vec::new();
    match timeout(DEADLINE, stream.read_to_end(&mut rest)).await.context("it stays open")? {
        // Closed, or reset as what we had sent was not read.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[tokio::test]
async fn ten_thousand_silent_connections_push_out_only_each_other() -> anyhow::Result<()> {
    let store = Secured::start(&[("MAX_CONNECTIONS", "5000".to_owned())]).await?;
    let token = store.token("alice", "read", "").await?;
    let before = store.client(&token).await?;
    list(&before).await?;
    let (_, _watch) = before.watch("fern-1", "").await?;
    let mut silent = Vec::new();
    for n in 0..10_000 {
        silent.push(TcpStream::connect(store.address()).await?);
        if n % 1000 == 999 {
            list(&before).await?;
            list(&store.client(&token).await?).await?;
        }
    }
    // Who says nothing at all is gone after a while, and room is left.
    is_closed(&mut silent.swap_remove(9_000)).await?;
    drop(silent);
    list(&before).await?;
    list(&store.client(&token).await?).await?;
    let peak = store.process.peak_memory_bytes()?;
    ensure!(peak < 500 << 20, "{peak} bytes");
    Ok(())
}

#[tokio::test]
async fn an_identity_has_so_many_streams_and_no_more() -> anyhow::Result<()> {
    let store = Secured::start(&[("MAX_STREAMS_PER_IDENTITY", "100".to_owned())]).await?;
    let (alice, bob) =
        (store.token("alice", "read", "").await?, store.token("bob", "read", "").await?);
    let (alice, bob) = (store.client(&alice).await?, store.client(&bob).await?);
    let mut watches = Vec::new();
    for n in 0..1000 {
        let request = WatchDeviceRequest { device_id: format!("fern-{n}"), ..Default::default() };
        match alice.watch.clone().watch_device(request).await {
            Ok(watch) => watches.push(watch),
            Err(status) => refused(Err(status), Code::ResourceExhausted)?,
        }
    }
    ensure!(watches.len() == 100, "{} streams", watches.len());
    refused(list(&alice).await, Code::ResourceExhausted)?;
    list(&bob).await?;
    drop(watches);
    eventually("the streams are counted out", async || Ok(list(&alice).await?)).await
}

#[tokio::test]
async fn heads_and_messages_are_taken_up_to_a_size() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let token = store.token("alice", "read", "").await?;
    let client = store.client(&token).await?;
    for size in [4_000, 10_000, 1_000_000] {
        let mut request = Request::new(ListDevicesRequest::default());
        request.metadata_mut().insert("x-flood", "x".repeat(size).parse()?);
        let answer = store.client(&token).await?.query.list_devices(request).await;
        ensure!(answer.is_ok() == (size == 4_000), "{size} bytes of header: {answer:?}");
    }
    let page_token = "x".repeat(5 << 20);
    let request = ListDevicesRequest { page_token, ..Default::default() };
    let answer = client.query.clone().list_devices(request).await;
    let code = answer.err().context("it was taken")?.code();
    ensure!(matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{code:?}");
    list(&client).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_http2_is_closed_and_disturbs_nobody() -> anyhow::Result<()> {
    let store = plain(&[]).await?;
    let token = store.token("alice", "read", "").await?;
    let client = known(&store, &token).await?;
    let endless = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let zero_stream = [0, 0, 1, 0, 0, 0, 0, 0, 0, b'x'];
    let cut_off = [0, 0, 100, 1, 4, 0, 0, 0, 1, 0x82];
    for said in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0; 64],
        &[BEGINNING, &endless].concat(),
        &[BEGINNING, &zero_stream].concat(),
        &[BEGINNING, &cut_off].concat(),
        &BEGINNING[..10],
    ] {
        let mut stream = TcpStream::connect(store.address()).await?;
        stream.write_all(said).await?;
        stream.shutdown().await?;
        is_closed(&mut stream).await?;
    }
    // One that says half a sentence and then nothing.
    let mut slow = TcpStream::connect(store.address()).await?;
    slow.write_all(&BEGINNING[..10]).await?;
    is_closed(&mut slow).await?;
    list(&client).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_tls_is_closed_at_once() -> anyhow::Result<()> {
    let store = Secured::start(&[]).await?;
    let mut stream = TcpStream::connect(store.address()).await?;
    stream.write_all(BEGINNING).await?;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await.ok();
    ensure!(!answer.windows(4).any(|window| window == b"grpc"), "{answer:?}");
    store.process.logged("a connection did not come about", 1).await?;
    ensure!(!store.process.log().iter().any(|line| line.contains(" ERROR ")));
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", store.address()))?;
    ensure!(
        channel.connect().await.is_err() || {
            let client = Client::over(channel.connect_lazy(), e2e::Token::default());
            list(&client).await.is_err()
        }
    );
    Ok(())
}

#[tokio::test]
async fn a_device_that_sends_too_much_loses_what_is_too_much_and_no_other_does()
-> anyhow::Result<()> {
    let mut system = System::start_store(Database::Sqlite).await?;
    system.set_bridge("DEVICE_RATE", "1");
    system.set_bridge("DEVICE_BURST", "100");
    system.start_bridge()?;
    health_becomes(&system.bridge_address(), true).await?;
    let lines: String = (0..1000).map(|n| format!("{{\"t\":{n}}}\n")).collect();
    system.device().publish_lines("devices/flood/telemetry", 1, &lines)?;
    system.device().publish("devices/fern-1/telemetry", 1, b"{\"t\":1}")?;
    let client = system.client().await?;
    client.readings_come("fern-1", 1).await?;
    eventually("what was too much is in the ledger", async || {
        let total = client.ledger_settles().await?;
        let dropped = total.dropped.iter().find(|dropped| dropped.reason == "rate_limited");
        let dropped = dropped.context("nothing was dropped")?.count;
        ensure!(total.received == 1001 && total.stored + dropped == 1001, "{total:?}");
        ensure!((101..500).contains(&total.stored), "{total:?}");
        Ok(())
    })
    .await
}
