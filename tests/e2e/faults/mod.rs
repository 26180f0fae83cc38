//! Nothing lost, nothing twice: one module per kind of fault, one test per fault.
//!
//! Each test puts a load of numbered messages on a whole system (broker, bridge, store on
//! TimescaleDB), makes something fail while they flow, and lets it recover. In the end every
//! message that the broker acknowledged to its device is stored, once, as it was sent.
//!
//! It is a failure if a message is missing, is in the log twice, or has another value or time than
//! its device gave it; if bridge or store do not serve again by themselves; if a process that was
//! asked to stop does not end with 0 within 10 s.
//!
//! It is no failure if a message arrives late, out of order or several times on the way, if the
//! bridge or the store says that it is unwell while it is, or if a message at `QoS` 0 is lost that
//! the broker may never have read, or one at `QoS` 1 that a broker that was killed had acknowledged
//! in its last seconds: Mosquitto saves later than it acknowledges.
//!
//! They are short by default; `FAULTS_LONG=1` lets the faults last as long as in earnest.
//! `FAULT_SEED` repeats what was left to chance. With `TEST_LOG` set the processes are heard.

mod absence;
mod after_effect;
mod auditor;
mod broker;
mod crashes;
mod database;
mod hostile;
mod mixed;
mod network;
mod redelivery;
mod rolling;
mod shutdown;
mod watch;
