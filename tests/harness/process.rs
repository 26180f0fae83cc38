//! A child process: started with a clean environment, its log kept, killed when dropped.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, bail, ensure};

use crate::eventually;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts one of the workspace's binaries with these variables and no others of ours.
    pub fn start(binary: &str, variables: &[(&str, String)]) -> anyhow::Result<Self> {
        Self::start_with(binary, &[], variables)
    }

    /// Starts one of the workspace's binaries with arguments.
    pub fn start_with(
        binary: &str,
        arguments: &[&str],
        variables: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(binary_path(binary)?);
        command.env_clear().args(arguments).envs(variables.iter().map(|(k, v)| (k, v)));
        command.env("RUST_BACKTRACE", "1");
        Self::spawn(binary, command)
    }

    /// Starts any program.
    pub fn spawn(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(stdout) = child.stdout.take() {
            keep(name, stdout, Arc::clone(&log));
        }
        if let Some(stderr) = child.stderr.take() {
            keep(name, stderr, Arc::clone(&log));
        }
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has ever held, in bytes.
    pub fn peak_memory_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes.context("no VmHWM")?.parse::<u64>()? * 1024)
    }

    /// The lines it has printed so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many lines contain `text`.
    pub async fn logged(&self, text: &str, times: usize) -> anyhow::Result<()> {
        eventually(&format!("{} logs {text:?} {times} times", self.name), async || {
            let found = self.log().iter().filter(|line| line.contains(text)).count();
            ensure!(found >= times, "found {found} times in:\n{}", self.log().join("\n"));
            Ok(())
        })
        .await
    }

    /// Asks it to stop, as a terminal or Kubernetes would.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal("TERM")
    }

    /// Sends it a signal, such as STOP, which makes it hang, or CONT, after which it goes on.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let (signal, pid) = (format!("-{signal}"), self.pid().to_string());
        ensure!(Command::new("kill").args([signal, pid]).status()?.success(), "kill failed");
        Ok(())
    }

    /// Ends it without a warning, as SIGKILL or a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let name = self.name.clone();
        let child = Mutex::new(&mut self.child);
        eventually(&format!("{name} has ended"), async || {
            let status = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?;
            status.context("still running")
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Keeps what a process prints; shows it too if `TEST_LOG` is set.
fn keep(name: &str, output: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) {
    let name = name.to_owned();
    let show = env::var_os("TEST_LOG").is_some();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if show {
                eprintln!("{name}: {line}");
            }
            log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}

/// Where cargo put a binary of the same profile as this test.
fn binary_path(name: &str) -> anyhow::Result<PathBuf> {
    let test = env::current_exe()?;
    let profile = test.parent().and_then(Path::parent).context("test binary outside target")?;
    let binary = profile.join(name);
    if !binary.exists() {
        bail!("{} is not built: run tests/run, or cargo build --workspace", binary.display());
    }
    Ok(binary)
}

/// A port nobody listens on right now, and which no outgoing connection is given meanwhile.
pub fn free_port() -> anyhow::Result<u16> {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).take(1000);
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.context("no port is free")
}
