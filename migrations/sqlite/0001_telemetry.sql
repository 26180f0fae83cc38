-- The first schema, as in TimescaleDB. Times are microseconds since 1970.

CREATE TABLE devices (
    id             INTEGER PRIMARY KEY,
    device_id      TEXT NOT NULL UNIQUE,
    first_seen     INTEGER NOT NULL,
    last_seen      INTEGER NOT NULL,
    last_heartbeat INTEGER
) STRICT;

CREATE TABLE metrics (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE device_metrics (
    device_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    PRIMARY KEY (device_id, metric_id)
) STRICT, WITHOUT ROWID;

-- Exactly one of the last four columns is set. The primary key is the identity of a reading.
CREATE TABLE readings (
    time        INTEGER NOT NULL,
    device_id   INTEGER NOT NULL,
    metric_id   INTEGER NOT NULL,
    time_source INTEGER NOT NULL,
    number      REAL,
    integer     INTEGER,
    flag        INTEGER,
    text        TEXT,
    PRIMARY KEY (device_id, metric_id, time)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_log (
    device_id     INTEGER NOT NULL,
    position      INTEGER NOT NULL,
    log_partition INTEGER NOT NULL,
    received      INTEGER NOT NULL,
    event         BLOB NOT NULL,
    PRIMARY KEY (device_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE log_heads (
    log_partition INTEGER PRIMARY KEY,
    head          INTEGER NOT NULL DEFAULT 0,
    horizon       INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO log_heads (log_partition)
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 31)
SELECT n FROM numbers;

CREATE TABLE device_boots (
    device_id      INTEGER NOT NULL,
    boot           INTEGER NOT NULL,
    booted         INTEGER NOT NULL,
    last_uptime_ms INTEGER NOT NULL,
    PRIMARY KEY (device_id, boot)
) STRICT, WITHOUT ROWID;
