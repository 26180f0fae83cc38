//! What a driver's error means to the store.

use sqlx::migrate::MigrateError;

use crate::error::Error;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let may_pass = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(cause) => cause.code().is_some_and(|code| may_pass(&code)),
            _ => false,
        };
        if may_pass { Self::Unavailable(error.into()) } else { Self::Internal(error.into()) }
    }
}

/// Whether the same statement may succeed later: a SQLSTATE, or SQLite's result code.
fn may_pass(code: &str) -> bool {
    match code {
        // serialization failure, deadlock, lock not available, read only, shutting down, starting up
        "40001" | "40P01" | "55P03" | "25006" | "57P01" | "57P02" | "57P03"
        // SQLite: busy, locked, read only, disk I/O error, full, cannot open
        | "5" | "6" | "8" | "10" | "13" | "14" => true,
        // connection exceptions, insufficient resources
        _ => code.len() == 5 && (code.starts_with("08") || code.starts_with("53")),
    }
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(cause) => cause.into(),
            other => Self::Internal(other.into()),
        }
    }
}
