//! What a driver's error means to the store.

use sqlx::migrate::MigrateError;

use crate::error::Error;

/// What a failure asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// The same statement may succeed later.
    MayPass,
    /// Somebody has to do this.
    Unfit(&'static str),
    /// It is about what was to be stored.
    Unstorable,
    /// It is a fault of ours, or of what is in the database.
    Internal,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let class = match &error {
            sqlx::Error::Tls(_) => CERTIFICATE,
            // A handshake that fails for what the other side shows.
            sqlx::Error::Io(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
                CERTIFICATE
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Class::MayPass,
            // A chunk that was dropped between finding and opening it; next time it is made.
            sqlx::Error::Database(cause)
                if cause.message().starts_with("could not open relation with OID") =>
            {
                Class::MayPass
            }
            sqlx::Error::Database(cause) => {
                cause.code().map_or(Class::Internal, |code| classify(&code))
            }
            _ => Class::Internal,
        };
        match class {
            Class::MayPass => Self::Unavailable(error.into()),
            Class::Unfit(fix) => Self::Unfit { cause: error.into(), fix },
            Class::Unstorable => Self::Unstorable(error.into()),
            Class::Internal => Self::Internal(error.into()),
        }
    }
}

const FULL: Class = Class::Unfit("make room on the database's disk");
const READ_ONLY: Class =
    Class::Unfit("let the database be written to: it is read only, or a standby");
const SCHEMA: Class = Class::Unfit(
    "run `telemetry-store migrate`; the extension timescaledb must \
                                    be there and loaded (shared_preload_libraries)",
);
const RIGHTS: Class =
    Class::Unfit("check the user and the password in DATABASE_URL, and what that user may do");

const CERTIFICATE: Class = Class::Unfit(
    "check the host, sslmode and sslrootcert in DATABASE_URL against the server's certificate",
);
const MISSING: Class = Class::Unfit("create the database that DATABASE_URL names");

/// That a server cannot be reached may pass, as when it still starts; somebody may have to look into
/// it all the same.
pub(super) fn server_at_start(error: Error) -> Error {
    match error {
        Error::Unavailable(cause) => Error::Unavailable(
            format!(
                "{cause}; check the host and the port in DATABASE_URL, and that the database runs"
            )
            .into(),
        ),
        other => other,
    }
}

/// A file that cannot be opened does not mend itself.
pub(super) fn file_at_start(error: Error) -> Error {
    match error {
        Error::Unavailable(cause) => {
            Error::Unfit { cause, fix: "check the path in DATABASE_URL, and who may write there" }
        }
        other => other,
    }
}

/// By a SQLSTATE, or by SQLite's result code.
fn classify(code: &str) -> Class {
    // A SQLSTATE has five characters, a result code of SQLite has fewer.
    if code.len() < 5 {
        // What went wrong in detail is in the higher bits: 778 is a disk I/O error, on writing.
        return match code.parse::<u32>().map(|code| code & 0xff) {
            // busy, locked, disk I/O error, cannot open
            Ok(5 | 6 | 10 | 14) => Class::MayPass,
            Ok(8) => READ_ONLY,
            Ok(13) => FULL,
            // too big, constraint, mismatch
            Ok(18..=20) => Class::Unstorable,
            _ => Class::Internal,
        };
    }
    match code {
        // serialization failure, deadlock, lock not available, idle in a transaction
        "40001" | "40P01" | "55P03" | "25P03"
        // cancelled (a timeout), shutting down, crashed, starting up; not accepting connections
        | "57014" | "57P01" | "57P02" | "57P03" | "55000" => Class::MayPass,
        "53100" => FULL,
        "25006" => READ_ONLY,
        // undefined table, column, function; undefined file (a library)
        "42P01" | "42703" | "42883" | "58P01" => SCHEMA,
        // insufficient privilege
        "42501" => RIGHTS,
        // no such database
        "3D000" => MISSING,
        _ => match code.get(..2) {
            // connection exceptions, insufficient resources
            Some("08" | "53") => Class::MayPass,
            // invalid authorization
            Some("28") => RIGHTS,
            // data exception, integrity violation, program limit
            Some("22" | "23" | "54") => Class::Unstorable,
            _ => Class::Internal,
        },
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
    fn each_failure_asks_for_something() {
        for code in
            ["57P01", "53300", "55P03", "08006", "40P01", "57014", "55000", "10", "778", "5", "517"]
        {
            assert_eq!(classify(code), Class::MayPass, "{code}");
        }
        for (code, class) in [
            ("53100", FULL),
            ("13", FULL),
            ("25006", READ_ONLY),
            ("8", READ_ONLY),
            ("42P01", SCHEMA),
            ("42883", SCHEMA),
            ("28P01", RIGHTS),
            ("42501", RIGHTS),
            ("3D000", MISSING),
        ] {
            assert_eq!(classify(code), class, "{code}");
        }
        for code in ["22003", "22021", "23505", "23514", "54000", "18", "2067"] {
            assert_eq!(classify(code), Class::Unstorable, "{code}");
        }
        for code in ["XX000", "42601", "1", "11", "", "x"] {
            assert_eq!(classify(code), Class::Internal, "{code}");
        }
    }
}
