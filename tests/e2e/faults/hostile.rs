//! Ten thousand messages that nobody should send: their neighbours do not notice, and the bridge
//! stays small.

use anyhow::ensure;
use e2e::{Bed, RawDevice};

const MESSAGES: usize = 10_000;
/// Every so many-th is large.
const LARGE_EVERY: usize = 200;
/// The window of 64 MiB, some of the largest packets, and the process itself.
const BRIDGE_BYTES: u64 = 256 * 1024 * 1024;

/// Small ones: under which name a device sends what.
fn small(n: usize) -> (String, Vec<u8>) {
    let payloads: [&[u8]; 14] = [
        b"\xff\xfe{\"t\":1}",
        b"{\"t\":\"\xc3\x28\"}",
        b"{\"t\":NaN,\"u\":Infinity}",
        b"{\"t\":1e999,\"u\":-1e999,\"v\":1e-999}",
        b"{\"t\":123456789012345678901234567890}",
        b"{\"timestamp\":0,\"t\":1}",
        b"{\"timestamp\":\"1970-01-01T00:00:00Z\",\"t\":1}",
        b"{\"timestamp\":\"2200-01-01T00:00:00Z\",\"t\":1}",
        b"{\"timestamp\":7258118400000,\"t\":1}",
        b"{\"timestamp\":1e400,\"t\":1}",
        b"{\"t\":1,\"t\":2,\"t\":\"three\"}",
        b"{\"\":1,\"\\u0000\":2,\" \":3,\"a.b\":4,\"a\":{\"b\":5}}",
        b"{\"t\":",
        b"",
    ];
    let devices = [
        "hostile",
        "..",
        ".",
        "",
        " ",
        "a/b",
        "#",
        "+",
        "a b",
        "a\u{7}b",
        "a\u{0}b",
        "%2e%2e%2f",
        "'; DROP TABLE readings; --",
        "\u{202e}nref",
        "hostile\u{301}",
    ];
    (devices[n % devices.len()].to_owned(), payloads[n % payloads.len()].to_vec())
}

/// Large ones, up to the largest that the bridge takes, and larger.
fn large(n: usize) -> (String, Vec<u8>) {
    let keys: String = (0..10_000).map(|key| format!("\"k{n}-{key}\":{key},")).collect();
    let payload = match n % 5 {
        0 => format!("{{\"t\":\"{}\"}}", "x".repeat(1024 * 1024)),
        1 => format!("{{\"t\":\"{}\"}}", "x".repeat(1000 * 1000)),
        2 => "[".repeat(100_000),
        3 => format!("{{\"a\":{}1{}}}", "{\"a\":".repeat(50_000), "}".repeat(50_000)),
        _ => format!("{{{keys}\"t\":1}}"),
    };
    ("hostile".to_owned(), payload.into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_unharmed() -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    let mut device = RawDevice::connect(bed.system.broker.port()).await?;
    let mut taken = 0;
    for n in 0..MESSAGES {
        let (name, payload) = if n % LARGE_EVERY == 0 { large(n / LARGE_EVERY) } else { small(n) };
        let topic = format!("devices/{name}/telemetry");
        // The broker ends the connection for some of them.
        match device.publish(&topic, &payload).await {
            Ok(()) => taken += 1,
            Err(_) => device = RawDevice::connect(bed.system.broker.port()).await?,
        }
    }
    bed.say(&format!("the broker took {taken} of {MESSAGES} hostile messages"));
    ensure!(taken > MESSAGES / 2, "the broker took only {taken}");
    bed.audit().await?;
    for reason in ["invalid_device_id", "not_json", "not_utf8", "empty_payload"] {
        bed.system.bridge()?.logged(reason, 1).await?;
    }
    let bytes = bed.system.bridge()?.peak_memory_bytes()?;
    ensure!(bytes < BRIDGE_BYTES, "the bridge held {bytes} bytes");
    Ok(())
}
