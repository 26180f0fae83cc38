//! The system under test, from outside: real binaries, real servers, public interfaces only.
//!
//! [`System`] starts a broker, a store and a bridge as processes on free ports with data of their
//! own, and stops them when it is dropped. What the tests need of the machine (Mosquitto,
//! TimescaleDB, the built binaries) is prepared by `tests/run`; a test that misses it fails.

#![expect(clippy::print_stderr, reason = "speaks to whoever runs the tests")]

mod audit;
mod auditor;
mod bed;
mod certificates;
mod client;
mod cluster;
mod device;
mod eventually;
mod metrics;
mod mosquitto;
mod otlp;
mod postgres;
mod process;
mod proxy;
mod publisher;
mod refusing_broker;
mod secured;
mod system;

pub use audit::{Verdict, audit};
pub use auditor::{Auditor, DEVICES, Tally, device_name};
pub use bed::{Bed, Setup, is_long, lasts};
pub use certificates::Authority;
pub use client::{Caller, Client, Token, WatchResponse, events, health_becomes, is_serving};
pub use cluster::Cluster;
pub use device::Device;
pub use eventually::{DEADLINE, eventually, eventually_within};
pub use metrics::scrape;
pub use mosquitto::Mosquitto;
pub use otlp::{OtlpReceiver, text_of};
pub use postgres::PostgresDatabase;
pub use process::{Process, free_port};
pub use proxy::{Mode, Proxy};
pub use publisher::RawDevice;
pub use refusing_broker::{Manners, RefusingBroker};
pub use secured::{Secured, mint};
pub use system::{Database, System};
