//! The telemetry-store binary: parse, then serve, migrate, or ask one that runs how it is.

use std::process::ExitCode;

use clap::Parser;
use telemetry_store::{Cli, Command, Server, storage};

fn main() -> ExitCode {
    let Cli { health, command, settings } = Cli::parse();
    let log = settings.log.clone();
    if health {
        return service_kit::process::check_health(&log, settings.listen);
    }
    service_kit::process::run(&log, async |lifecycle| match command.unwrap_or(Command::Serve) {
        Command::Serve => Server::bind(settings).await?.run(lifecycle).await,
        Command::Migrate => Ok(storage::migrate(&settings.database.url()?).await?),
    })
}
