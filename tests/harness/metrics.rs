//! Asks for metrics, as Prometheus does.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The whole numbers among the metrics served at `address`, by their names with labels.
pub async fn scrape(address: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, page) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut numbers = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').context(line.to_owned())?;
        ensure!(value.parse::<f64>().is_ok(), "no number: {line}");
        if let Ok(number) = value.parse() {
            let before = numbers.insert(name.to_owned(), number);
            ensure!(before.is_none(), "twice: {line}");
        }
    }
    Ok(numbers)
}
