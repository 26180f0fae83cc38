//! A store that asks who calls, with TLS, alone.

use std::{fs, path::PathBuf};

use anyhow::ensure;
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{Authority, Client, Process, client::Token, eventually, free_port};

/// A running store with its certificates and tokens.
#[derive(Debug)]
pub struct Secured {
    /// Its process.
    pub process: Process,
    /// Who signed its certificate, and whose clients it knows.
    pub authority: Authority,
    folder: TempDir,
    port: u16,
}

impl Secured {
    /// Starts one that knows nobody yet, with further variables.
    pub async fn start(more: &[(&str, String)]) -> anyhow::Result<Self> {
        let (folder, port, authority) = (TempDir::new()?, free_port()?, Authority::new()?);
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("ca.pem"), authority.pem())?;
        authority.sign(folder.path(), "server", "localhost")?;
        fs::write(path("tokens"), "")?;
        let mut variables = vec![
            ("DATABASE_URL", format!("sqlite://{}", path("telemetry.db"))),
            ("STORE_LISTEN", format!("127.0.0.1:{port}")),
            ("AUTH_TOKENS_FILE", path("tokens")),
            ("STORE_TLS_CERT", path("server.pem")),
            ("STORE_TLS_KEY", path("server.key")),
            ("STORE_CLIENT_CA", path("ca.pem")),
            ("LOG_LEVEL", "debug,h2=info".to_owned()),
        ];
        variables.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        variables.extend(more.iter().cloned());
        variables.retain(|(_, value)| !value.is_empty());
        let process = Process::start("telemetry-store", &variables)?;
        process.logged("telemetry store is serving", 1).await?;
        Ok(Self { process, authority, folder, port })
    }

    /// Where it serves.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a token, lets the store know it, and answers it.
    pub async fn token(&self, name: &str, scope: &str, devices: &str) -> anyhow::Result<String> {
        let (token, line) = mint(name, scope, devices).await?;
        let before = fs::read_to_string(self.file("tokens"))?;
        self.authorize(&format!("{before}{line}\n")).await?;
        Ok(token)
    }

    /// Writes the tokens file, and waits until the store has read it.
    pub async fn authorize(&self, content: &str) -> anyhow::Result<()> {
        let read = || {
            let log = self.process.log();
            log.iter().filter(|line| line.contains("files have changed")).count()
        };
        let before = read();
        fs::write(self.file("tokens"), content)?;
        eventually("the store reads its tokens", async || {
            ensure!(read() > before, "not yet");
            Ok(())
        })
        .await
    }

    /// A connection with it, as somebody who has a certificate (`NAME.pem`) or not.
    pub async fn channel(&self, certificate: Option<&str>) -> anyhow::Result<Channel> {
        Ok(self.endpoint(certificate)?.connect().await?)
    }

    /// How to connect with it.
    pub fn endpoint(&self, certificate: Option<&str>) -> anyhow::Result<Endpoint> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(fs::read(self.file("ca.pem"))?))
            .domain_name("localhost");
        if let Some(name) = certificate {
            let read = |kind: &str| fs::read(self.file(&format!("{name}.{kind}")));
            tls = tls.identity(Identity::from_pem(read("pem")?, read("key")?));
        }
        Ok(Endpoint::from_shared(format!("https://{}", self.address()))?.tls_config(tls)?)
    }

    /// A client that shows a token.
    pub async fn client(&self, token: &str) -> anyhow::Result<Client> {
        Ok(Client::over(self.channel(None).await?, Token::bearer(token)?))
    }

    /// A client that shows no token.
    pub async fn stranger(&self) -> anyhow::Result<Client> {
        Ok(Client::over(self.channel(None).await?, Token::default()))
    }
}

/// A token as the CLI makes it, and its line.
pub async fn mint(name: &str, scope: &str, devices: &str) -> anyhow::Result<(String, String)> {
    let mut arguments = vec!["--json", "token", name, "--scope", scope];
    if !devices.is_empty() {
        arguments.extend(["--devices", devices]);
    }
    let mut process = Process::start_with("telemetry", &arguments, &[])?;
    ensure!(process.ended().await?.success(), "{:?}", process.log());
    eventually("the token is printed", async || {
        let log = process.log();
        let line: serde_json::Value = serde_json::from_str(&log.concat())?;
        let text = |name: &str| line.get(name).and_then(|text| text.as_str()).map(str::to_owned);
        text("token").zip(text("line")).ok_or_else(|| anyhow::anyhow!("{log:?}"))
    })
    .await
}
