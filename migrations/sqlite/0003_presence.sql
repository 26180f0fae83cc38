-- Whether devices are there, and what their messages tell besides readings, as in TimescaleDB.

ALTER TABLE devices ADD COLUMN presence        INTEGER NOT NULL DEFAULT 1;
ALTER TABLE devices ADD COLUMN presence_since  INTEGER;
ALTER TABLE devices ADD COLUMN presence_reason INTEGER;
ALTER TABLE devices ADD COLUMN firmware        TEXT;
ALTER TABLE devices ADD COLUMN rssi_dbm        INTEGER;
ALTER TABLE devices ADD COLUMN uptime_s        INTEGER;
ALTER TABLE devices ADD COLUMN uptime_told     INTEGER;
ALTER TABLE devices ADD COLUMN reboots         INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN time_source     INTEGER;
ALTER TABLE devices ADD COLUMN last_kind       INTEGER;
ALTER TABLE devices ADD COLUMN last_topic      TEXT;
ALTER TABLE devices ADD COLUMN messages        INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN readings        INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN duplicates      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN quarantined     INTEGER NOT NULL DEFAULT 0;

CREATE TABLE listening (
    client_id TEXT PRIMARY KEY,
    since     INTEGER NOT NULL,
    through   INTEGER NOT NULL,
    told      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
