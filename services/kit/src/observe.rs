//! Logs: where they go, how much, in which form.

use std::{io::IsTerminal, path::PathBuf};

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, reload::Handle};

use crate::reload::Reloaded;

/// How to log. Logs go to standard error.
#[derive(Args, Clone, Debug)]
pub struct LogSettings {
    /// Log level: error, warn, info, debug, trace, or directives like `info,mqtt_bridge=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_parser = parse_filter)]
    pub log_level: String,
    /// File that holds a log level, which counts instead while the file is not empty. It is looked
    /// at every few seconds, so the level changes without a restart.
    #[arg(long, env = "LOG_LEVEL_FILE")]
    pub log_level_file: Option<PathBuf>,
    /// Log form: text for people, json for machines.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object.
    Json,
}

/// Puts another filter in the place of the one that is in use.
type Apply = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>;

/// What can change how much is logged.
pub struct Level {
    settings: LogSettings,
    apply: Apply,
}

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Level").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Level {
    /// Heeds the file, if there is to be one: now, and whenever it has changed while that runs.
    pub fn follow(self) -> anyhow::Result<Option<Reloaded<()>>> {
        let Self { settings, apply } = self;
        let Some(file) = settings.log_level_file else { return Ok(None) };
        let load = move |contents: &[Vec<u8>]| {
            let text = contents.first().map(Vec::as_slice).unwrap_or_default();
            let text = std::str::from_utf8(text)?.trim();
            let text = if text.is_empty() { settings.log_level.as_str() } else { text };
            apply(EnvFilter::try_new(text)?)
        };
        Reloaded::new("LOG_LEVEL_FILE", vec![file], load).map(Some)
    }
}

fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Sets up logging for the process. Only the first call has an effect.
pub fn init(settings: &LogSettings) -> Level {
    let filter = EnvFilter::new(&settings.log_level);
    let color = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(std::io::stderr);
    let (outcome, apply) = match settings.log_format {
        LogFormat::Text => {
            let builder = builder.with_target(false).with_filter_reloading();
            let apply = applying(builder.reload_handle());
            (builder.try_init(), apply)
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let apply = applying(builder.reload_handle());
            (builder.try_init(), apply)
        }
    };
    if outcome.is_err() {
        tracing::debug!("logging was set up before");
    }
    Level { settings: settings.clone(), apply }
}

fn applying<S: 'static>(handle: Handle<EnvFilter, S>) -> Apply {
    Box::new(move |filter| Ok(handle.reload(filter)?))
}
