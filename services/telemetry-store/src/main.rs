//! The telemetry-store binary: parse, then serve, migrate, or ask one that runs how it is.

use std::process::ExitCode;

use clap::Parser;
use telemetry_store::{Cli, Command};

fn main() -> ExitCode {
    let Cli { ask, command, settings } = Cli::parse();
    let log = settings.log.clone();
    if let Some(service) = ask.health {
        let certificate = settings.tls.tls_cert;
        return service_kit::process::check_health(&log, settings.listen, &service, certificate);
    }
    let command = command.unwrap_or(Command::Serve);
    service_kit::process::run(&log, |lifecycle| telemetry_store::run(command, settings, lifecycle))
}
