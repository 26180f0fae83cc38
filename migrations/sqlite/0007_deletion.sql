-- Devices are deleted with all that is theirs, as in TimescaleDB.

ALTER TABLE log_heads ADD COLUMN deletions INTEGER NOT NULL DEFAULT 0;

CREATE TABLE audit (
    at          INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    subject     TEXT NOT NULL,
    number      INTEGER NOT NULL,
    readings    INTEGER NOT NULL,
    events      INTEGER NOT NULL,
    quarantined INTEGER NOT NULL
) STRICT;
-- The number of a dead device is not given again: registering looks for the highest here too.
CREATE INDEX audit_number ON audit (number);
