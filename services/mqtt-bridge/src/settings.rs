//! The bridge's settings: environment variables, each also a flag, all checked before anything starts.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{ArgAction, Args, Parser, value_parser};
use service_kit::{
    channel::AccessSettings,
    health::AskSettings,
    metrics::MetricsSettings,
    observe::LogSettings,
    process::{EXIT_CODES, VERSION},
    secret::{self, SecretString},
};
use telemetry_decode::TopicFilter;
use telemetry_model::Invalid;

/// Twice what the largest message takes, and a little more.
const MIN_WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// MQTT in, gRPC out.
#[derive(Clone, Debug, Parser)]
#[command(name = "mqtt-bridge", version = VERSION.as_str(), about, after_help = EXIT_CODES)]
pub struct Cli {
    /// To ask one that runs how it is.
    #[command(flatten)]
    pub ask: AskSettings,
    /// How to run.
    #[command(flatten)]
    pub settings: Settings,
}

/// Everything that can be set.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerSettings,
    /// Filters of telemetry topics, separated by commas; the first + is the device's id.
    #[arg(
        long = "mqtt-telemetry-topic",
        env = "MQTT_TELEMETRY_TOPIC",
        default_value = "devices/+/telemetry"
    )]
    pub telemetry_topic: String,
    /// Filters of heartbeat topics, likewise.
    #[arg(
        long = "mqtt-heartbeat-topic",
        env = "MQTT_HEARTBEAT_TOPIC",
        default_value = "devices/+/heartbeat"
    )]
    pub heartbeat_topic: String,
    /// Filters of topics on which devices, or the broker as their last will, say whether they are
    /// there, likewise; empty for none.
    #[arg(
        long = "mqtt-status-topic",
        env = "MQTT_STATUS_TOPIC",
        default_value = "devices/+/status"
    )]
    pub status_topic: String,
    /// URL of the telemetry store.
    #[arg(long, env = "STORE_URL", default_value = "http://localhost:50051")]
    pub store_url: String,
    /// Who we are to it.
    #[command(flatten)]
    pub access: AccessSettings,
    /// Address to serve gRPC health on.
    #[arg(long, env = "BRIDGE_LISTEN", default_value = "127.0.0.1:50052")]
    pub listen: SocketAddr,
    /// Messages that the broker may send before we acknowledge them, that is, before they are
    /// stored: the receive maximum of the session.
    #[arg(
        long = "mqtt-window",
        env = "MQTT_WINDOW",
        default_value_t = 10_000,
        value_parser = value_parser!(u16).range(1..)
    )]
    pub window: u16,
    /// Memory for messages that are not stored yet, in bytes, at least 8388608. When all but the
    /// room for one large message is used, reading pauses. Half of it at most holds messages of
    /// `QoS` 0, which the broker does not send again.
    #[arg(long = "mqtt-window-bytes", env = "MQTT_WINDOW_BYTES", default_value_t = 64 << 20)]
    pub window_bytes: usize,
    /// Messages a second that a device may send in the long run. What is more is dropped, counted and
    /// acknowledged [default: no limit].
    #[arg(long, env = "DEVICE_RATE", value_parser = value_parser!(u32).range(1..))]
    pub device_rate: Option<u32>,
    /// Messages that a device may send at once all the same [default: ten seconds' worth].
    #[arg(long, env = "DEVICE_BURST", value_parser = value_parser!(u32).range(1..))]
    pub device_burst: Option<u32>,
    /// Metrics.
    #[command(flatten)]
    pub metrics: MetricsSettings,
    /// Logs.
    #[command(flatten)]
    pub log: LogSettings,
}

/// How to reach the broker, and as whom.
#[derive(Args, Clone, Debug)]
pub struct BrokerSettings {
    /// Host of the broker.
    #[arg(long = "mqtt-host", env = "MQTT_HOST", default_value = "localhost")]
    pub host: String,
    /// Port of the broker without TLS.
    #[arg(long = "mqtt-port", env = "MQTT_PORT", default_value_t = 1883)]
    pub port: u16,
    /// Port of the broker with TLS.
    #[arg(long = "mqtt-tls-port", env = "MQTT_TLS_PORT", default_value_t = 8883)]
    pub tls_port: u16,
    /// Whether to use TLS: true or false.
    #[arg(long = "mqtt-use-tls", env = "MQTT_USE_TLS", default_value_t = false, action = ArgAction::Set)]
    pub use_tls: bool,
    /// PEM file of the authorities to trust [default: the system's].
    #[arg(long = "mqtt-ca-cert", env = "MQTT_CA_CERT")]
    pub ca_cert: Option<PathBuf>,
    /// PEM file of our certificate, if the broker asks for one.
    #[arg(long = "mqtt-client-cert", env = "MQTT_CLIENT_CERT")]
    pub client_cert: Option<PathBuf>,
    /// PEM file of our certificate's key.
    #[arg(long = "mqtt-client-key", env = "MQTT_CLIENT_KEY")]
    pub client_key: Option<PathBuf>,
    /// User name.
    #[arg(
        long = "mqtt-backend-username",
        env = "MQTT_BACKEND_USERNAME",
        default_value = "plantops_backend"
    )]
    pub backend_username: String,
    /// Password. Required; empty for an anonymous login.
    #[arg(long = "mqtt-backend-password", env = "MQTT_BACKEND_PASSWORD", hide_env_values = true)]
    pub backend_password: Option<SecretString>,
    /// File that holds the password.
    #[arg(long = "mqtt-backend-password-file", env = "MQTT_BACKEND_PASSWORD_FILE")]
    pub backend_password_file: Option<PathBuf>,
    /// Client id, which names the session that the broker keeps: it must be stable, and no other
    /// client may have it [default: the host's name].
    #[arg(long = "mqtt-client-id", env = "MQTT_CLIENT_ID")]
    pub client_id: Option<String>,
    /// Group of bridges that share the messages among them.
    #[arg(long = "mqtt-shared-group", env = "MQTT_SHARED_GROUP")]
    pub shared_group: Option<String>,
}

/// Settings that have been found good.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) listen: SocketAddr,
    pub(crate) metrics: MetricsSettings,
    pub(crate) store_url: String,
    pub(crate) access: AccessSettings,
    pub(crate) window: u16,
    pub(crate) window_bytes: usize,
    /// What a device may send a second, and at once.
    pub(crate) device_rate: Option<(u32, u32)>,
    pub(crate) broker: Broker,
    pub(crate) telemetry: Vec<TopicFilter>,
    pub(crate) heartbeat: Vec<TopicFilter>,
    pub(crate) status: Vec<TopicFilter>,
}

/// The broker, and who we are to it.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<TlsFiles>,
    /// User name and password; nothing for an anonymous login.
    pub(crate) credentials: Option<(String, SecretString)>,
    pub(crate) client_id: String,
    pub(crate) shared_group: Option<String>,
}

/// PEM files, read for each connection, so that new ones need no restart.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    ca: Option<PathBuf>,
    /// Our certificate and its key.
    client: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// What is in them now.
    pub(crate) fn read(&self) -> anyhow::Result<Tls> {
        let client = self.client.as_ref().map(|(certificate, key)| {
            let certificate = read("MQTT_CLIENT_CERT", certificate)?;
            anyhow::Ok(ClientIdentity { certificate, key: read("MQTT_CLIENT_KEY", key)? })
        });
        let ca = self.ca.as_ref().map(|path| read("MQTT_CA_CERT", path));
        Ok(Tls { ca: ca.transpose()?, client: client.transpose()? })
    }
}

/// PEM texts.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) client: Option<ClientIdentity>,
}

/// PEM texts of a certificate and its key. Not shown.
pub(crate) struct ClientIdentity {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientIdentity")
    }
}

impl Settings {
    pub(crate) fn check(self) -> anyhow::Result<Checked> {
        ensure!(
            self.window_bytes >= MIN_WINDOW_BYTES,
            "MQTT_WINDOW_BYTES must be at least {MIN_WINDOW_BYTES}"
        );
        ensure!(
            self.store_url.starts_with("http://") || self.store_url.starts_with("https://"),
            "STORE_URL must begin with http:// or https://"
        );
        Ok(Checked {
            listen: self.listen,
            metrics: self.metrics,
            store_url: self.store_url,
            access: self.access,
            window: self.window,
            window_bytes: self.window_bytes,
            device_rate: self
                .device_rate
                .map(|rate| (rate, self.device_burst.unwrap_or(rate.saturating_mul(10)))),
            broker: self.broker.check()?,
            telemetry: filters("MQTT_TELEMETRY_TOPIC", &self.telemetry_topic)?,
            heartbeat: filters("MQTT_HEARTBEAT_TOPIC", &self.heartbeat_topic)?,
            status: match self.status_topic.trim() {
                "" => Vec::new(),
                topics => filters("MQTT_STATUS_TOPIC", topics)?,
            },
        })
    }
}

impl BrokerSettings {
    fn check(self) -> anyhow::Result<Broker> {
        let (value, file) = (self.backend_password, self.backend_password_file);
        let password = secret::resolve("MQTT_BACKEND_PASSWORD", value, file)?.context(
            "MQTT_BACKEND_PASSWORD (or MQTT_BACKEND_PASSWORD_FILE) is required; set it empty to \
             log in anonymously",
        )?;
        let anonymous = secret::ExposeSecret::expose_secret(&password).is_empty();
        ensure!(!self.host.is_empty(), "MQTT_HOST must not be empty");
        let client = match (self.client_cert, self.client_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => bail!("MQTT_CLIENT_CERT and MQTT_CLIENT_KEY go together: set both or neither"),
        };
        if self.ca_cert.is_none() && client.is_some() {
            bail!("MQTT_CLIENT_CERT needs MQTT_CA_CERT: say which authority signs the broker's");
        }
        let files = TlsFiles { ca: self.ca_cert, client };
        files.read()?;
        let tls = self.use_tls.then_some(files);
        let group = self.shared_group.filter(|group| !group.is_empty());
        if let Some(group) = &group {
            ensure!(
                !group.contains(['/', '+', '#']),
                "MQTT_SHARED_GROUP must not contain / + or #"
            );
        }
        Ok(Broker {
            host: self.host,
            port: if self.use_tls { self.tls_port } else { self.port },
            tls,
            credentials: (!anonymous).then_some((self.backend_username, password)),
            client_id: match self.client_id.filter(|id| !id.is_empty()) {
                Some(id) => id,
                None => host_name()?,
            },
            shared_group: group,
        })
    }
}

fn filters(setting: &str, texts: &str) -> Result<Vec<TopicFilter>, Invalid> {
    texts.split(',').map(|text| TopicFilter::parse(setting, text.trim())).collect()
}

fn read(setting: &str, path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{setting}: cannot read {}", path.display()))
}

fn host_name() -> anyhow::Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    ensure!(!name.is_empty(), "MQTT_CLIENT_ID must be set: this host has no name to default to");
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> anyhow::Result<Checked> {
        Cli::try_parse_from([&["mqtt-bridge"], args].concat())?.settings.check()
    }

    #[test]
    fn a_password_is_required_but_may_be_empty() {
        let error = check(&[]).unwrap_err().to_string();
        assert!(error.contains("MQTT_BACKEND_PASSWORD"), "{error}");
        let anonymous = check(&["--mqtt-backend-password", ""]).unwrap();
        assert!(anonymous.broker.credentials.is_none());
        let named = check(&["--mqtt-backend-password", "x"]).unwrap();
        assert_eq!(named.broker.credentials.unwrap().0, "plantops_backend");
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        for (args, named) in [
            (&["--mqtt-telemetry-topic", "devices/#"][..], "MQTT_TELEMETRY_TOPIC"),
            (&["--mqtt-status-topic", "devices/status"], "MQTT_STATUS_TOPIC"),
            (&["--mqtt-client-cert", "x"], "MQTT_CLIENT_KEY"),
            (&["--mqtt-host", ""], "MQTT_HOST"),
            (&["--store-url", "localhost:50051"], "STORE_URL"),
            (&["--mqtt-window", "0"], "--mqtt-window"),
            (&["--mqtt-window-bytes", "1000"], "MQTT_WINDOW_BYTES"),
            (&["--mqtt-ca-cert", "/none"], "MQTT_CA_CERT"),
            (&["--mqtt-shared-group", "a/b"], "MQTT_SHARED_GROUP"),
        ] {
            let args = [&["--mqtt-backend-password", ""], args].concat();
            let error = check(&args).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[tokio::test]
    async fn what_only_the_clients_understand_is_checked_before_a_port_opens() {
        let file = |name: &str| format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        let manifest = file("Cargo.toml");
        let tls = ["--mqtt-use-tls", "true", "--mqtt-ca-cert", &manifest];
        for (args, named) in
            [(&tls[..], "MQTT_CA_CERT"), (&["--store-url", "http://x y"], "STORE_URL")]
        {
            let args = [&["x", "--mqtt-backend-password", "", "--listen", "127.0.0.1:0"], args];
            let settings = Cli::try_parse_from(args.concat()).unwrap().settings;
            let error = crate::Bridge::bind(settings).await.unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn several_filters_and_the_port_that_fits() {
        let args = ["--mqtt-backend-password", "", "--mqtt-telemetry-topic", "a/+, b/+/t"];
        let checked = check(&args).unwrap();
        assert_eq!((checked.telemetry.len(), checked.broker.port), (2, 1883));
        assert_eq!(checked.status.len(), 1);
        let checked = check(&[&args[..], &["--mqtt-status-topic", ""]].concat()).unwrap();
        assert!(checked.status.is_empty());
        let checked = check(&[&args[..], &["--mqtt-use-tls", "true"]].concat()).unwrap();
        assert_eq!(checked.broker.port, 8883);
    }

    #[test]
    fn debug_output_shows_no_password() {
        let secrets = ["--mqtt-backend-password", "sesame", "--store-token", "open sesame"];
        let cli = Cli::try_parse_from([&["x"][..], &secrets].concat()).unwrap();
        assert!(!format!("{cli:?}").contains("sesame"));
        assert!(!format!("{:?}", cli.settings.check().unwrap()).contains("sesame"));
    }
}
