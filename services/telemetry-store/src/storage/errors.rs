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
            sqlx::Error::Database(cause) => {
                let gone = cause.message().starts_with("could not open relation with OID");
                // A chunk that was dropped between finding and opening it; next time it is made.
                gone || cause.code().is_some_and(|code| may_pass(&code))
            }
            _ => false,
        };
        if may_pass { Self::Unavailable(error.into()) } else { Self::Internal(error.into()) }
    }
}

/// Whether the same statement may succeed later: a SQLSTATE, or SQLite's result code.
fn may_pass(code: &str) -> bool {
    // A SQLSTATE has five characters, a result code of SQLite has fewer.
    if code.len() < 5 {
        // What went wrong in detail is in the higher bits: 778 is a disk I/O error, on writing.
        let result = code.parse::<u32>().map(|code| code & 0xff);
        // busy, locked, read only, disk I/O error, full, cannot open
        return matches!(result, Ok(5 | 6 | 8 | 10 | 13 | 14));
    }
    match code {
        // serialization failure, deadlock, lock not available, read only, idle in a transaction
        "40001" | "40P01" | "55P03" | "25006" | "25P03"
        // cancelled (a timeout), shutting down, crashed, starting up
        | "57014" | "57P01" | "57P02" | "57P03" => true,
        // connection exceptions, insufficient resources
        _ => code.starts_with("08") || code.starts_with("53"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        // Read only, disk full, restart, too many connections, a lock; SQLite's I/O errors, busy.
        for code in ["25006", "53100", "57P01", "53300", "55P03", "10", "778", "1034", "5", "517"] {
            assert!(may_pass(code), "{code}");
        }
        // Unique violation, no such table, out of range; SQLite's error, corrupt, constraint.
        for code in ["23505", "42P01", "22003", "1", "11", "2067", "", "x"] {
            assert!(!may_pass(code), "{code}");
        }
    }
}
