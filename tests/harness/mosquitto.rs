//! A real Mosquitto on a port of its own, with passwords and ACLs, with and without TLS.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{Process, certificates, eventually, free_port};

const CONFIG: &str = "mosquitto.conf";
const SESSIONS: &str = "mosquitto.db";

/// A broker.
#[derive(Debug)]
pub struct Mosquitto {
    port: u16,
    tls_port: u16,
    folder: TempDir,
    process: Option<Process>,
}

impl Mosquitto {
    /// The bridge's user.
    pub const BRIDGE: &'static str = "plantops_backend";
    /// The devices' user.
    pub const DEVICE: &'static str = "device";
    /// Everyone's password.
    pub const PASSWORD: &'static str = "open sesame";

    /// Starts a broker that keeps its sessions over restarts: it saves them at each change.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_saving(true).await
    }

    /// The same for a load: with thousands of messages queued, saving takes tens of milliseconds.
    /// It is done once a second, and what was queued since is lost with the broker.
    pub async fn start_for_load() -> anyhow::Result<Self> {
        Self::start_saving(false).await
    }

    async fn start_saving(on_changes: bool) -> anyhow::Result<Self> {
        let mut broker = Self::new()?;
        certificates::write(broker.folder())?;
        broker.write_config(on_changes)?;
        broker.restart().await?;
        Ok(broker)
    }

    /// Starts a broker as it comes out of its package, but that everyone may use it.
    pub async fn stock() -> anyhow::Result<Self> {
        let mut broker = Self::new()?;
        let config =
            format!("user root\nlistener {} 127.0.0.1\nallow_anonymous true\n", broker.port);
        fs::write(broker.folder().join(CONFIG), config)?;
        broker.restart().await?;
        Ok(broker)
    }

    fn new() -> anyhow::Result<Self> {
        let (port, tls_port, folder) = (free_port()?, free_port()?, TempDir::new()?);
        Ok(Self { port, tls_port, folder, process: None })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens with TLS, and asks for a certificate of its authority.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Where its files are: `ca.pem`, and `client.pem` and `client.key` of whom it lets in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.terminate()?;
        process.ended().await.map(drop)
    }

    /// Waits until it has saved its sessions once more.
    pub async fn saves(&self) -> anyhow::Result<()> {
        let saved = || fs::metadata(self.folder().join(SESSIONS)).and_then(|file| file.modified());
        let before = saved().ok();
        eventually("mosquitto saves its sessions", async || {
            ensure!(before != Some(saved()?), "not yet");
            Ok(())
        })
        .await
    }

    /// Ends it like a power cut, and loses every session.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let sessions = self.folder().join(SESSIONS);
        // It may not have saved any yet.
        if sessions.exists() { Ok(fs::remove_file(sessions)?) } else { Ok(()) }
    }

    /// Ends it like a power cut.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Starts it (again), and waits until it accepts connections.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let mut command = Command::new(tool("mosquitto")?);
        command.arg("-c").arg(self.folder().join(CONFIG));
        self.process = Some(Process::spawn("mosquitto", command)?);
        eventually("mosquitto accepts connections", async || {
            TcpStream::connect(("127.0.0.1", self.port)).await?;
            Ok(())
        })
        .await
    }

    fn write_config(&self, save_on_changes: bool) -> anyhow::Result<()> {
        let folder = self.folder.path().display();
        let config = format!(
            "user root\n\
             listener {} 127.0.0.1\n\
             listener {} 127.0.0.1\n\
             cafile {folder}/ca.pem\n\
             certfile {folder}/server.pem\n\
             keyfile {folder}/server.key\n\
             require_certificate true\n\
             allow_anonymous false\n\
             password_file {folder}/passwords\n\
             acl_file {folder}/acl\n\
             persistence true\n\
             persistence_location {folder}/\n\
             autosave_on_changes {save_on_changes}\n\
             autosave_interval 1\n\
             max_inflight_messages 0\n\
             max_queued_messages 0\n\
             queue_qos0_messages true\n",
            self.port, self.tls_port
        );
        fs::write(self.folder().join(CONFIG), config)?;
        let acl = format!(
            "user {}\ntopic write devices/#\nuser {}\ntopic read devices/#\n",
            Self::DEVICE,
            Self::BRIDGE
        );
        fs::write(self.folder.path().join("acl"), acl)?;
        let passwords = self.folder.path().join("passwords");
        fs::write(&passwords, "")?;
        for user in [Self::BRIDGE, Self::DEVICE] {
            let mut command = Command::new(tool("mosquitto_passwd")?);
            command.arg("-b").arg(&passwords).args([user, Self::PASSWORD]).stderr(Stdio::null());
            ensure!(command.status()?.success(), "mosquitto_passwd failed");
        }
        Ok(())
    }
}

/// A program of Mosquitto: beside the one that `TELEMETRY_TEST_MOSQUITTO` names.
pub(crate) fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let mosquitto = env::var("TELEMETRY_TEST_MOSQUITTO")
        .context("TELEMETRY_TEST_MOSQUITTO is not set: run tests/run")?;
    Ok(PathBuf::from(mosquitto).with_file_name(name))
}
