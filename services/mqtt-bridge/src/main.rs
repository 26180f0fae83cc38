//! The mqtt-bridge binary: parse, then run.

use std::process::ExitCode;

use clap::Parser;
use mqtt_bridge::Cli;

fn main() -> ExitCode {
    let Cli { settings } = Cli::parse();
    let log = settings.log.clone();
    service_kit::process::run(&log, |lifecycle| mqtt_bridge::run(settings, lifecycle))
}
