//! The plumbing of any process; nothing here knows about telemetry.
//!
//! The life of a process is [`process::run`]: the settings were parsed (clap), logs are set up
//! ([`observe`]), the service runs with a [`lifecycle::Lifecycle`] until it ends or a signal asks
//! it to, drains, and its result becomes the exit code.

pub mod auth;
pub mod calls;
pub mod channel;
pub mod duration;
pub mod health;
pub mod incoming;
pub mod lifecycle;
pub mod metrics;
pub mod observe;
pub mod process;
pub mod reload;
pub mod secret;
pub mod tls;
pub mod trace;
