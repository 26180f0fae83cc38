-- What became of every message, as in TimescaleDB.

CREATE TABLE ledger (
    process_id           TEXT PRIMARY KEY,
    client_id            TEXT NOT NULL,
    started              INTEGER NOT NULL,
    updated              INTEGER NOT NULL,
    ended_at             INTEGER,
    settled_before       INTEGER NOT NULL DEFAULT 0,
    settled_through      INTEGER NOT NULL DEFAULT 0,
    stored               INTEGER NOT NULL DEFAULT 0,
    duplicate            INTEGER NOT NULL DEFAULT 0,
    quarantined          INTEGER NOT NULL DEFAULT 0,
    quarantine_full      INTEGER NOT NULL DEFAULT 0,
    partial              INTEGER NOT NULL DEFAULT 0,
    partial_lost         INTEGER NOT NULL DEFAULT 0,
    readings_stored      INTEGER NOT NULL DEFAULT 0,
    readings_duplicate   INTEGER NOT NULL DEFAULT 0,
    readings_conflicting INTEGER NOT NULL DEFAULT 0,
    received             INTEGER NOT NULL DEFAULT 0,
    dropped              INTEGER NOT NULL DEFAULT 0,
    report               BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE quarantine (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    received  INTEGER NOT NULL,
    topic     TEXT NOT NULL,
    qos       INTEGER NOT NULL,
    device_id TEXT,
    kind      INTEGER,
    reason    TEXT NOT NULL,
    field     TEXT NOT NULL,
    detail    TEXT NOT NULL,
    partial   INTEGER NOT NULL,
    payload   BLOB NOT NULL
) STRICT;

ALTER TABLE devices ADD COLUMN clock_skew_us INTEGER;

-- The lowest uptime seen of a boot: below it there is nothing that could have come again.
ALTER TABLE device_boots ADD COLUMN first_uptime_ms INTEGER NOT NULL DEFAULT 0;
