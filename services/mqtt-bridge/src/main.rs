//! The mqtt-bridge binary: parse, then run, or ask one that runs how it is.

use std::process::ExitCode;

use clap::Parser;
use mqtt_bridge::Cli;

fn main() -> ExitCode {
    let Cli { ask, settings } = Cli::parse();
    let log = settings.log.clone();
    if let Some(service) = ask.health {
        return service_kit::process::check_health(&log, settings.listen, &service, None);
    }
    service_kit::process::run(&log, |lifecycle| mqtt_bridge::run(settings, lifecycle))
}
