//! The telemetry-store binary: parse, then serve, migrate, or ask one that runs how it is.

use std::process::ExitCode;

use clap::Parser;
use telemetry_store::{Cli, Command};

fn main() -> ExitCode {
    let Cli { health, command, settings } = Cli::parse();
    let log = settings.log.clone();
    if health {
        return service_kit::process::check_health(&log, settings.listen);
    }
    let command = command.unwrap_or(Command::Serve);
    service_kit::process::run(&log, |lifecycle| telemetry_store::run(command, settings, lifecycle))
}
