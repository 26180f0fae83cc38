-- Whether devices are there, and what their messages tell besides readings.

ALTER TABLE devices
    ADD COLUMN presence        smallint NOT NULL DEFAULT 1,
    ADD COLUMN presence_since  timestamptz,
    ADD COLUMN presence_reason smallint,
    ADD COLUMN firmware        text,
    ADD COLUMN rssi_dbm        bigint,
    ADD COLUMN uptime_s        bigint,
    ADD COLUMN uptime_told     timestamptz,
    ADD COLUMN reboots         bigint NOT NULL DEFAULT 0,
    ADD COLUMN time_source     smallint,
    ADD COLUMN last_kind       smallint,
    ADD COLUMN last_topic      text,
    ADD COLUMN messages        bigint NOT NULL DEFAULT 0,
    ADD COLUMN readings        bigint NOT NULL DEFAULT 0,
    ADD COLUMN duplicates      bigint NOT NULL DEFAULT 0,
    ADD COLUMN quarantined     bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN devices.presence IS
    '1: nobody can say, 2: online, 3: offline; each change is in device_log';
COMMENT ON COLUMN devices.presence_reason IS
    '1: heard, 2: silent while we listened, 3: its status topic says so, 4: we did not listen';
COMMENT ON COLUMN devices.uptime_told IS 'when uptime_s was received';
COMMENT ON COLUMN devices.reboots IS 'how often uptime_s was seen to begin anew';
COMMENT ON COLUMN devices.time_source IS 'of its newest message, as in readings';
COMMENT ON COLUMN devices.last_kind IS '1: telemetry, 2: heartbeat, 3: status';
COMMENT ON COLUMN devices.messages IS 'this and the counts below are written every few seconds';

-- How long each bridge has heard every message that the broker had for it, by its clock. Written
-- together with what it heard, so that a device silent in that time was silent indeed.
CREATE TABLE listening (
    client_id text PRIMARY KEY,
    since     timestamptz NOT NULL,
    through   timestamptz NOT NULL,
    told      timestamptz NOT NULL
);
COMMENT ON COLUMN listening.told IS 'when `through` last moved on, by our clock';
