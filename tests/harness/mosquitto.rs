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

    /// Starts a broker as the bridge wants it.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    /// Starts a broker with further lines of config, which prevail.
    pub async fn start_with(more: &str) -> anyhow::Result<Self> {
        let mut broker = Self::new()?;
        certificates::write(broker.folder())?;
        broker.write_config(more)?;
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

    /// Sends its process a signal.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        self.process.as_ref().context("mosquitto does not run")?.signal(signal)
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

    /// The config that is shipped with the bridge, with ports and folders of this test.
    fn write_config(&self, more: &str) -> anyhow::Result<()> {
        let folder = self.folder().display().to_string();
        let shipped =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/mqtt-bridge/mosquitto.conf");
        let mut config = fs::read_to_string(shipped)?;
        for (shipped, ours) in [
            ("listener 1883", format!("user root\nlistener {} 127.0.0.1", self.port)),
            ("/mosquitto/config", folder.clone()),
            ("/mosquitto/data", folder.clone()),
        ] {
            ensure!(config.contains(shipped), "the shipped mosquitto.conf has no {shipped}");
            config = config.replace(shipped, &ours);
        }
        config += &format!(
            "listener {} 127.0.0.1\n\
             cafile {folder}/ca.pem\n\
             certfile {folder}/server.pem\n\
             keyfile {folder}/server.key\n\
             require_certificate true\n{more}",
            self.tls_port
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
