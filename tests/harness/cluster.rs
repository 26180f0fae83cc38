//! A PostgreSQL cluster of one test, to be killed, filled and restarted: the shared one is not.

use std::{
    env,
    ffi::OsString,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;

use crate::{Process, certificates, eventually, free_port};

/// Where the programs are, in the tree.
const PROGRAMS: &str = "/usr/lib/postgresql/17/bin";
/// Where the clusters are, in the tree.
const CLUSTERS: &str = "var/lib/postgresql";
/// As for the shared one, but for what is set in `postgresql.auto.conf` during a test.
const SETTINGS: [&str; 9] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_wal_size=1GB",
    "dynamic_shared_memory_type=mmap",
    "shared_preload_libraries=timescaledb",
    "timescaledb.telemetry_level=off",
    "shared_buffers=64MB",
    "max_connections=30",
    "log_min_messages=warning",
];

/// A running cluster, or one that a test has ended.
#[derive(Debug)]
pub struct Cluster {
    tree: PathBuf,
    port: u16,
    process: Option<Process>,
    mounted: bool,
    folder: TempDir,
}

impl Cluster {
    /// Makes a cluster and starts it.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_on(None).await
    }

    /// The same with its data (but not its write-ahead log) on a disk of so many MB.
    pub async fn start_on_small_disk(megabytes: u32) -> anyhow::Result<Self> {
        Self::start_on(Some(megabytes)).await
    }

    async fn start_on(megabytes: Option<u32>) -> anyhow::Result<Self> {
        let tree = env::var("TELEMETRY_TEST_TREE")
            .context("TELEMETRY_TEST_TREE is not set: run tests/run")?;
        let tree = PathBuf::from(tree);
        let folder = tempfile::Builder::new().prefix("cluster").tempdir_in(tree.join(CLUSTERS))?;
        let mut cluster = Self { tree, port: free_port()?, process: None, mounted: false, folder };
        let data = cluster.folder.path().join("data");
        fs::create_dir(&data)?;
        if let Some(megabytes) = megabytes {
            let size = format!("size={megabytes}m");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&data))?;
            cluster.mounted = true;
        }
        let password = cluster.folder.path().join("password");
        fs::write(&password, "postgres\n")?;
        let owner = fs::metadata(cluster.tree.join(CLUSTERS))?;
        for path in [cluster.folder.path(), &data, &password] {
            chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
        let inside = cluster.inside();
        let (wal, password) = (format!("{inside}/wal"), format!("--pwfile={inside}/password"));
        let mut initdb = cluster.program("initdb");
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "--locale=C.UTF-8", "--no-sync"]);
        run(initdb.args(["--waldir", &wal, &password]).stdout(Stdio::null()))?;
        cluster.restart().await?;
        Ok(cluster)
    }

    /// Lets it speak TLS, with a certificate for `localhost` by an authority whose file it answers.
    pub async fn use_tls(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder.path();
        certificates::write(folder)?;
        let owner = fs::metadata(folder)?;
        for name in ["server.pem", "server.key"] {
            let path = folder.join(name);
            chown(&path, Some(owner.uid()), Some(owner.gid()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        let inside = self.inside();
        self.set("ssl_cert_file", &format!("'{inside}/server.pem'")).await?;
        self.set("ssl_key_file", &format!("'{inside}/server.key'")).await?;
        self.set("ssl", "on").await?;
        Ok(folder.join("ca.pem"))
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("postgres://postgres:postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all of its processes like a power cut (but for what the disk has not yet written).
    pub fn kill(&mut self) -> anyhow::Result<()> {
        // The first of them first, so that it starts no more.
        drop(self.process.take());
        for _ in 0..1000 {
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            // One may have ended meanwhile.
            Command::new("kill").arg("-KILL").args(left).stderr(Stdio::null()).status()?;
        }
        bail!("its processes do not end")
    }

    /// The ids of its processes: of those that work in its folder.
    fn processes(&self) -> anyhow::Result<Vec<OsString>> {
        let data = self.folder.path().join("data").canonicalize()?;
        let processes = fs::read_dir("/proc")?.flatten();
        let own = processes.filter(|process| {
            fs::read_link(process.path().join("cwd")).is_ok_and(|folder| folder == data)
        });
        Ok(own.map(|process| process.file_name()).collect())
    }

    /// Asks it to stop without waiting for its clients, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.signal("INT")?;
        process.ended().await.map(drop)
    }

    /// Starts it (again) without waiting. One that runs is killed.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let mut postgres = self.program("postgres");
        postgres.args(["-p", &self.port.to_string()]);
        postgres.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        self.process = Some(Process::spawn("postgres", postgres)?);
        Ok(())
    }

    /// Starts it (again), and waits until it lets clients in. One that runs is killed.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        eventually("PostgreSQL lets clients in", async || {
            self.execute("SELECT 1").await.with_context(|| format!("{:?}", self.log()))
        })
        .await
    }

    /// Executes a statement as the superuser.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.url()).await?;
        connection.execute(AssertSqlSafe(sql.to_owned())).await?;
        Ok(connection.close().await?)
    }

    /// Sets something for all sessions from now on, without a restart.
    pub async fn set(&self, setting: &str, value: &str) -> anyhow::Result<()> {
        self.execute(&format!("ALTER SYSTEM SET {setting} = {value}")).await?;
        self.execute("SELECT pg_reload_conf()").await
    }

    /// Fills its disk to the last byte.
    pub fn fill_disk(&self) -> anyhow::Result<()> {
        ensure!(self.mounted, "its disk is everyone's");
        let mut ballast = fs::File::create(self.ballast())?;
        while ballast.write_all(&[0; 8192]).is_ok() {}
        Ok(())
    }

    /// Gives back what [`Cluster::fill_disk`] took.
    pub fn free_disk(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("data/ballast")
    }

    fn log(&self) -> Vec<String> {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Its folder as its own processes see it.
    fn inside(&self) -> String {
        let name = self.folder.path().file_name().unwrap_or_default().to_string_lossy();
        format!("/{CLUSTERS}/{name}")
    }

    /// A program of PostgreSQL, as the user that it demands, about this cluster.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg("--userspec=postgres:postgres").arg(&self.tree);
        command.arg(format!("{PROGRAMS}/{name}")).args(["-D", &format!("{}/data", self.inside())]);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It is in the tree of the tests: what is left there is in nobody's way.
        drop(self.kill());
        if self.mounted {
            drop(run(Command::new("umount").arg("--lazy").arg(self.folder.path().join("data"))));
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {error}");
    Ok(())
}
