//! The whole system from outside, by what it promises.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod attacks;
mod bench;
mod command;
mod connection;
mod database;
mod faults;
mod health;
mod ledger;
mod metrics;
mod payloads;
mod presence;
mod secrets;
mod shutdown;
mod tidy;
mod traces;
mod unacknowledged;
mod watch;
