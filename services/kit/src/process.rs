//! From `main` to the exit code: runtime, logs, signals, drain, deadline.

use std::{
    future::Future, net::SocketAddr, path::PathBuf, process::ExitCode, sync::LazyLock,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    health,
    lifecycle::Lifecycle,
    observe::{self, Level},
    trace::Traces,
};

/// Version and, where the build was told it by the variable `GIT_COMMIT`, the commit.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    let commit = option_env!("GIT_COMMIT").filter(|commit| !commit.is_empty());
    commit.map_or(version.to_owned(), |commit| format!("{version} ({commit})"))
});

/// What the exit codes mean, for `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 stopped as asked, or healthy; 1 failed, or not healthy; \
                              2 unusable flags or variables; 130 aborted by a second signal.";

/// How long a process may take to drain after it was asked to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);
/// How long the last spans may take to send after that.
const TRACES_DEADLINE: Duration = Duration::from_secs(2);

/// Runs a service until it ends or SIGINT or SIGTERM asks it to stop.
///
/// Its result is one of [`EXIT_CODES`]: 1 also if it did not drain in time. (clap answers unusable
/// flags and variables with 2 before this is called.)
pub fn run<F>(log: &observe::LogSettings, service: impl FnOnce(Lifecycle) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let level = observe::init(log);
    install_crypto();
    raise_file_limit();
    tracing::info!(version = %*VERSION, "starting");
    let Some(runtime) = runtime() else { return ExitCode::FAILURE };
    let lifecycle = Lifecycle::new();
    let inside = runtime.enter();
    let traces = match observe_further(level, &lifecycle) {
        Ok(traces) => traces,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "failed");
            return ExitCode::FAILURE;
        }
    };
    drop(inside);
    let code = runtime.block_on(supervise(&lifecycle, service(lifecycle.clone())));
    // Last, so that the drain is in it too; the runtime still runs meanwhile, as it sends them.
    if let Some(traces) = traces {
        traces.stop(TRACES_DEADLINE);
    }
    runtime.shutdown_background();
    code
}

/// Asks the process that listens on `address`, with this certificate if it has one, whether a service
/// of it serves, or all of it by the empty name: 0 if so, else 1.
pub fn check_health(
    log: &observe::LogSettings,
    address: SocketAddr,
    service: &str,
    certificate: Option<PathBuf>,
) -> ExitCode {
    observe::init(log);
    let Some(runtime) = runtime() else { return ExitCode::FAILURE };
    match runtime.block_on(health::check(address, service, certificate)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "not healthy");
            ExitCode::FAILURE
        }
    }
}

/// What of observing needs the runtime.
fn observe_further(level: Level, lifecycle: &Lifecycle) -> anyhow::Result<Option<Traces>> {
    if let Some(level) = level.follow()? {
        lifecycle.spawn("log level", level.run(lifecycle.token()));
    }
    Traces::start()
}

fn runtime() -> Option<Runtime> {
    let runtime = Runtime::new();
    runtime.inspect_err(|error| tracing::error!(%error, "cannot start the runtime")).ok()
}

/// Lets the process have as many connections as the system grants it: the usual limit is meant for
/// programs that cannot bear more.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// Makes aws-lc the process's cryptography for TLS. Harmless when called again.
pub fn install_crypto() {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a cryptography provider was installed before");
    }
}

async fn supervise(
    lifecycle: &Lifecycle,
    service: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    let (mut interrupt, mut terminate) =
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals");
                return ExitCode::FAILURE;
            }
        };
    let service = async {
        let result = service.await;
        lifecycle.stop();
        (result, lifecycle.drained().await)
    };
    tokio::pin!(service);
    let (result, clean) = tokio::select! {
        ended = &mut service => ended,
        () = either(&mut interrupt, &mut terminate) => {
            tracing::info!("stopping; a second signal aborts");
            lifecycle.stop();
            tokio::select! {
                ended = &mut service => ended,
                () = either(&mut interrupt, &mut terminate) => {
                    tracing::warn!("aborted by a second signal");
                    return ExitCode::from(130);
                }
                () = tokio::time::sleep(DRAIN_DEADLINE) => {
                    let deadline_s = DRAIN_DEADLINE.as_secs();
                    tracing::error!(deadline_s, "did not drain in time");
                    return ExitCode::FAILURE;
                }
            }
        }
    };
    match result {
        Ok(()) if clean => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "failed");
            ExitCode::FAILURE
        }
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
