//! Broker, store and bridge, each a process, with data of their own.

use std::path::PathBuf;

use anyhow::Context;
use tempfile::TempDir;

use crate::{Client, Device, Mosquitto, PostgresDatabase, Process, free_port, health_becomes};

/// Which database a system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// The embedded one.
    Sqlite,
    /// The real one.
    Timescale,
}

/// A running system.
#[derive(Debug)]
pub struct System {
    /// The broker.
    pub broker: Mosquitto,
    /// The store's process, if it runs.
    pub store: Option<Process>,
    /// The bridge's process, if it runs.
    pub bridge: Option<Process>,
    /// The TimescaleDB database, if that is what it has.
    pub postgres: Option<PostgresDatabase>,
    folder: TempDir,
    store_port: u16,
    bridge_port: u16,
    store_metrics_port: u16,
    bridge_metrics_port: u16,
    password: String,
    bridge_broker: Option<u16>,
    tls_variables: Vec<(&'static str, String)>,
    bridge_store: Option<u16>,
    store_database: Option<u16>,
    store_variables: Vec<(&'static str, String)>,
    bridge_variables: Vec<(&'static str, String)>,
}

impl System {
    /// Starts everything and waits until it serves.
    pub async fn start(database: Database) -> anyhow::Result<Self> {
        let mut system = Self::start_store(database).await?;
        system.start_bridge()?;
        health_becomes(&system.bridge_address(), true).await?;
        Ok(system)
    }

    /// Starts everything but the bridge.
    pub async fn start_store(database: Database) -> anyhow::Result<Self> {
        let postgres = match database {
            Database::Sqlite => None,
            Database::Timescale => Some(PostgresDatabase::create().await?),
        };
        let mut system = Self::prepare(Mosquitto::start().await?, postgres).await?;
        system.restart_store().await?;
        Ok(system)
    }

    /// A system to be, with a database that is up to date: an embedded one if none is given.
    pub async fn prepare(
        broker: Mosquitto,
        postgres: Option<PostgresDatabase>,
    ) -> anyhow::Result<Self> {
        let system = Self {
            broker,
            store: None,
            bridge: None,
            postgres,
            folder: TempDir::new()?,
            store_port: free_port()?,
            bridge_port: free_port()?,
            store_metrics_port: free_port()?,
            bridge_metrics_port: free_port()?,
            password: Mosquitto::PASSWORD.to_owned(),
            bridge_broker: None,
            tls_variables: Vec::new(),
            bridge_store: None,
            store_database: None,
            store_variables: Vec::new(),
            bridge_variables: Vec::new(),
        };
        if system.postgres.is_some() {
            let variables = [("DATABASE_URL", system.database_url()?)];
            let mut migrate = Process::start_with("telemetry-store", &["migrate"], &variables)?;
            anyhow::ensure!(migrate.ended().await?.success(), "{:?}", migrate.log());
        }
        Ok(system)
    }

    /// Starts the store (again) and waits until it serves. One that runs is killed.
    pub async fn restart_store(&mut self) -> anyhow::Result<()> {
        self.launch_store()?;
        health_becomes(&self.store_address(), true).await
    }

    /// Starts the store (again) without waiting. One that runs is killed.
    pub fn launch_store(&mut self) -> anyhow::Result<()> {
        drop(self.store.take());
        let metrics = [("METRICS_LISTEN", self.store_metrics())];
        self.store = Some(self.store_on(&self.store_address(), &metrics)?);
        Ok(())
    }

    /// Starts one more store on the same database, without waiting.
    pub fn another_store(&self, listen: &str) -> anyhow::Result<Process> {
        self.store_on(listen, &[])
    }

    /// Starts the bridge (again) without waiting. One that runs is killed.
    pub fn start_bridge(&mut self) -> anyhow::Result<()> {
        drop(self.bridge.take());
        let metrics = [("METRICS_LISTEN", self.bridge_metrics())];
        self.bridge = Some(self.another_bridge(&metrics)?);
        Ok(())
    }

    /// Starts one more bridge without waiting, other than the first in these variables.
    pub fn another_bridge(&self, differing: &[(&'static str, String)]) -> anyhow::Result<Process> {
        let port = self.bridge_broker.unwrap_or(self.broker.port());
        let store = self.bridge_store.unwrap_or(self.store_port);
        let mut variables = vec![
            ("MQTT_HOST", "localhost".to_owned()),
            ("MQTT_PORT", port.to_string()),
            ("MQTT_CLIENT_ID", "bridge".to_owned()),
            ("MQTT_BACKEND_PASSWORD", self.password.clone()),
            ("STORE_URL", format!("http://127.0.0.1:{store}")),
            ("BRIDGE_LISTEN", self.bridge_address()),
        ];
        variables.extend(self.tls_variables.clone());
        variables.extend(self.bridge_variables.clone());
        variables.extend_from_slice(differing);
        Process::start("mqtt-bridge", &variables)
    }

    /// Lets the bridge use another password from its next start on.
    pub fn set_password(&mut self, password: &str) {
        password.clone_into(&mut self.password);
    }

    /// Sets a variable of the bridge from its next start on.
    pub fn set_bridge(&mut self, variable: &'static str, value: &str) {
        self.bridge_variables.push((variable, value.to_owned()));
    }

    /// Sets a variable of every store from its next start on.
    pub fn set_of_store(&mut self, variable: &'static str, value: &str) {
        self.store_variables.push((variable, value.to_owned()));
    }

    /// A file of its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets the bridge use another broker from its next start on.
    pub fn set_broker(&mut self, port: u16) {
        self.bridge_broker = Some(port);
    }

    /// Lets the bridge reach its store through another port from its next start on.
    pub fn set_store(&mut self, port: u16) {
        self.bridge_store = Some(port);
    }

    /// Lets the store reach its server through another port from its next start on.
    pub fn set_database(&mut self, port: u16) {
        self.store_database = Some(port);
    }

    /// Lets the bridge use TLS from its next start on, with a certificate of its own or without.
    pub fn use_tls(&mut self, with_certificate: bool) {
        let file = |name: &str| self.broker.folder().join(name).display().to_string();
        self.bridge_variables = vec![
            ("MQTT_USE_TLS", "true".to_owned()),
            ("MQTT_TLS_PORT", self.broker.tls_port().to_string()),
            ("MQTT_CA_CERT", file("ca.pem")),
        ];
        if with_certificate {
            let identity =
                [("MQTT_CLIENT_CERT", file("client.pem")), ("MQTT_CLIENT_KEY", file("client.key"))];
            self.bridge_variables.extend(identity);
        }
    }

    /// The port on which the store serves.
    pub fn store_port(&self) -> u16 {
        self.store_port
    }

    /// Where the store serves.
    pub fn store_address(&self) -> String {
        format!("127.0.0.1:{}", self.store_port)
    }

    /// Where the bridge tells its health.
    pub fn bridge_address(&self) -> String {
        format!("127.0.0.1:{}", self.bridge_port)
    }

    /// Where the store serves metrics.
    pub fn store_metrics(&self) -> String {
        format!("127.0.0.1:{}", self.store_metrics_port)
    }

    /// Where the bridge serves metrics.
    pub fn bridge_metrics(&self) -> String {
        format!("127.0.0.1:{}", self.bridge_metrics_port)
    }

    /// The bridge's process.
    pub fn bridge(&self) -> anyhow::Result<&Process> {
        self.bridge.as_ref().context("the bridge does not run")
    }

    /// A client of the store.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.store_address()).await
    }

    /// A device of the broker.
    pub fn device(&self) -> Device {
        Device::of(&self.broker)
    }

    fn store_on(
        &self,
        listen: &str,
        differing: &[(&'static str, String)],
    ) -> anyhow::Result<Process> {
        let mut variables =
            vec![("DATABASE_URL", self.database_url()?), ("STORE_LISTEN", listen.to_owned())];
        variables.extend(self.store_variables.clone());
        variables.extend_from_slice(differing);
        Process::start("telemetry-store", &variables)
    }

    /// What the store has as `DATABASE_URL`.
    pub fn database_url(&self) -> anyhow::Result<String> {
        match (&self.postgres, self.store_database) {
            (Some(postgres), Some(port)) => postgres.url_through(port),
            (Some(postgres), None) => Ok(postgres.url()),
            (None, _) => Ok(format!("sqlite://{}/telemetry.db", self.folder.path().display())),
        }
    }
}
