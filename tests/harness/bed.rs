//! The fault bed: a system with a load on it, every link of which can be made to fail.

use std::{env, time::Duration};

use anyhow::{Context, ensure};
use sqlx::PgConnection;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};

use crate::{
    Auditor, Cluster, Mosquitto, PostgresDatabase, Process, Proxy, System, Verdict, audit,
    eventually::eventually_within, health_becomes, is_serving,
};

/// One bed at a time, so that they do not starve each other.
static TURN: Mutex<()> = Mutex::const_new(());
/// Messages that must flow before a fault and after it.
const FLOW: u64 = 500;

/// What a bed is made of, if not of what the other tests use.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// A cluster of its own, to be broken.
    pub own_cluster: bool,
    /// The same on a disk of so many MB.
    pub disk_megabytes: Option<u32>,
    /// A database of the Community edition, which is slow here.
    pub community: bool,
    /// A broker as it comes out of its package.
    pub stock_broker: bool,
    /// Messages a second of all devices.
    pub rate: Option<usize>,
    /// Each device's every so many-th message is sent at `QoS` 0.
    pub qos0_every: u64,
    /// Further variables of the bridge.
    pub bridge: Vec<(&'static str, String)>,
}

impl Setup {
    async fn cluster(&self) -> anyhow::Result<Option<Cluster>> {
        match self.disk_megabytes {
            Some(megabytes) => Cluster::start_on_small_disk(megabytes).await.map(Some),
            None if self.own_cluster => Cluster::start().await.map(Some),
            None => Ok(None),
        }
    }

    async fn system(&self, cluster: Option<&Cluster>) -> anyhow::Result<System> {
        let postgres = match cluster {
            Some(cluster) => PostgresDatabase::create_on(cluster.url()).await?,
            None if self.community => PostgresDatabase::create_on_community().await?,
            None => PostgresDatabase::create().await?,
        };
        let broker =
            if self.stock_broker { Mosquitto::stock().await? } else { Mosquitto::start().await? };
        System::prepare(broker, Some(postgres)).await
    }
}

/// A system under load.
#[derive(Debug)]
pub struct Bed {
    /// Its processes.
    pub system: System,
    /// Its devices.
    pub auditor: Auditor,
    /// From the devices to the broker.
    pub device_link: Proxy,
    /// From the bridge to the broker.
    pub broker_link: Proxy,
    /// From the bridge to the store.
    pub store_link: Proxy,
    /// From the store to the database.
    pub database_link: Proxy,
    /// For what is left to chance.
    pub chance: fastrand::Rng,
    cluster: Option<Cluster>,
    _turn: MutexGuard<'static, ()>,
}

impl Bed {
    /// A bed in which messages flow.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Setup::default()).await
    }

    /// The same, made of something else.
    pub async fn start_with(setup: Setup) -> anyhow::Result<Self> {
        let turn = TURN.lock().await;
        let seed = match env::var("FAULT_SEED") {
            Ok(seed) => seed.parse().context("FAULT_SEED")?,
            Err(_) => fastrand::u64(..),
        };
        eprintln!("FAULT_SEED={seed}");
        let cluster = setup.cluster().await?;
        let mut system = setup.system(cluster.as_ref()).await?;
        let mqtt = system.broker.port();
        let (device_link, broker_link) = (Proxy::to(mqtt).await?, Proxy::to(mqtt).await?);
        let store_link = Proxy::to(system.store_port()).await?;
        let sql = system.postgres.as_ref().context("no database")?.port()?;
        let database_link = Proxy::to(sql).await?;
        system.set_broker(broker_link.port());
        system.set_store(store_link.port());
        system.set_database(database_link.port());
        for (variable, value) in &setup.bridge {
            system.set_bridge(variable, value);
        }
        system.restart_store().await?;
        system.start_bridge()?;
        health_becomes(&system.bridge_address(), true).await?;
        let auditor =
            Auditor::start(device_link.port(), setup.rate.unwrap_or(rate()), setup.qos0_every);
        auditor.publishes(FLOW).await?;
        let chance = fastrand::Rng::with_seed(seed);
        Ok(Self {
            system,
            auditor,
            device_link,
            broker_link,
            store_link,
            database_link,
            chance,
            cluster,
            _turn: turn,
        })
    }

    /// The broker dies without a warning, and comes back. It knows the bridge's session.
    pub async fn broker_dies(&mut self) -> anyhow::Result<()> {
        self.system.broker.saves().await?;
        self.system.broker.kill()?;
        lasts(2, 30).await;
        self.auditor.broker_died();
        self.system.broker.restart().await
    }

    /// Its own cluster.
    pub fn cluster(&mut self) -> anyhow::Result<&mut Cluster> {
        self.cluster.as_mut().context("it has no cluster of its own")
    }

    /// A connection to its database, past the link.
    pub async fn database(&self) -> anyhow::Result<PgConnection> {
        self.system.postgres.as_ref().context("no database")?.connect().await
    }

    /// The fault is over: waits until all is well again, and lets the load run on.
    pub async fn recovers(&self) -> anyhow::Result<()> {
        self.is_well().await?;
        self.auditor.publishes(FLOW).await
    }

    /// Waits until bridge and store serve, and all that was acknowledged until now is stored.
    pub async fn is_well(&self) -> anyhow::Result<()> {
        let (since, tally) = (Instant::now(), self.auditor.tally());
        let well = eventually_within(recovery(), "all is well", async || {
            for address in [self.system.store_address(), self.system.bridge_address()] {
                ensure!(is_serving(&address).await?, "{address} is not serving");
            }
            let stored = audit::stored_of(&mut self.database().await?, &tally).await?;
            ensure!(stored >= tally.taken(), "{stored} stored of {}", tally.taken());
            Ok(())
        });
        if let Err(error) = well.await {
            let verdict = self.compare().await;
            return Err(error.context(format!("{verdict:?}{}", self.logs())));
        }
        eprintln!("well after {:.1} s", since.elapsed().as_secs_f64());
        Ok(())
    }

    /// Recovers, ends the load and compares what was acknowledged with what is stored.
    pub async fn audit(&mut self) -> anyhow::Result<()> {
        self.recovers().await?;
        self.settles().await
    }

    /// The same where something may well be unwell for ever.
    pub async fn settles(&mut self) -> anyhow::Result<()> {
        self.auditor.stop().await?;
        let complete = eventually_within(recovery(), "everything is stored", async || {
            let verdict = self.compare().await?;
            ensure!(verdict.missing == 0, "{verdict:#}");
            Ok(verdict)
        });
        let verdict = complete.await.with_context(|| self.logs())?;
        eprintln!("{verdict}");
        verdict.is_clean()?;
        self.balances().await.with_context(|| self.logs())
    }

    /// Compares the ledger with itself and with what is stored.
    async fn balances(&self) -> anyhow::Result<()> {
        let client = self.system.client().await?;
        let ledger = eventually_within(recovery(), "the ledger balances", async || {
            let total = client.ledger().await?.total.context("no total")?;
            ensure!(total.in_flight == 0, "{total:?}");
            Ok(total)
        })
        .await?;
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM readings")
            .fetch_one(&mut self.database().await?)
            .await?;
        eprintln!("{ledger:?}");
        ensure!(ledger.readings_stored == rows.unsigned_abs(), "{rows} rows, {ledger:?}");
        Ok(())
    }

    /// What was acknowledged against what is stored, now.
    pub async fn compare(&self) -> anyhow::Result<Verdict> {
        let (epoch_ms, tally) = (self.auditor.epoch_ms, self.auditor.tally());
        audit::audit(&mut self.database().await?, epoch_ms, &tally).await
    }

    /// Tells whoever runs the test.
    pub fn say(&self, what: &str) {
        eprintln!("{what}");
    }

    /// The last that bridge and store said.
    fn logs(&self) -> String {
        let tail = |process: &Process| {
            let log = process.log();
            log.get(log.len().saturating_sub(25)..).unwrap_or_default().join("\n")
        };
        let processes = self.system.bridge.iter().chain(&self.system.store);
        processes.map(|process| format!("\n{}", tail(process))).collect()
    }
}

/// Whether the faults take as long as in earnest.
pub fn is_long() -> bool {
    env::var_os("FAULTS_LONG").is_some_and(|value| value == "1")
}

/// Messages a second of all devices: what a debug build on two busy cores keeps up with.
fn rate() -> usize {
    if is_long() { 2000 } else { 1000 }
}

/// How long everything may take to be well again: longer than the longest backoff, and than what
/// has piled up takes.
fn recovery() -> Duration {
    Duration::from_mins(if is_long() { 15 } else { 2 })
}

/// A fault lasts so many seconds, with `FAULTS_LONG` so many. Nothing waits for anything here: this
/// is how long it is kept up.
pub async fn lasts(seconds: u64, long_seconds: u64) {
    sleep(Duration::from_secs(if is_long() { long_seconds } else { seconds })).await;
}
