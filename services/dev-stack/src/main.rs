//! `cargo dev`: start everything, say what to try, wait.

use std::process::ExitCode;

use clap::Parser;
use dev_stack::{Options, Stack};

fn main() -> ExitCode {
    let options = Options::parse();
    let mut log = options.log.clone();
    // The embedded broker would talk about every client that comes and goes.
    log.log_level.insert_str(0, "mqtt5=off,");
    service_kit::process::run(&log, async |lifecycle| {
        let stack = Stack::start(options).await?;
        stack.introduce();
        stack.run(lifecycle).await
    })
}
