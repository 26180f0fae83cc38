-- The first schema: names, readings, and the log that watches read.
CREATE EXTENSION IF NOT EXISTS timescaledb;

-- A row per device that was ever heard of. Other tables refer to it by the small `id`, without a
-- foreign key: TimescaleDB's retention cannot drop chunks that have one.
CREATE TABLE devices (
    id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id      text NOT NULL UNIQUE,
    first_seen     timestamptz NOT NULL,
    last_seen      timestamptz NOT NULL,
    last_heartbeat timestamptz
);
COMMENT ON COLUMN devices.device_id IS 'what the device calls itself in its MQTT topic';
COMMENT ON COLUMN devices.last_seen IS 'when its newest message was received; written every few seconds';

-- A row per name of a measured quantity. A new metric is a new row, never a new column.
CREATE TABLE metrics (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- Which metrics a device has ever sent.
CREATE TABLE device_metrics (
    device_id integer NOT NULL,
    metric_id integer NOT NULL,
    PRIMARY KEY (device_id, metric_id)
);

-- One value of one metric of one device at one time. Exactly one of the last four columns is set.
CREATE TABLE readings (
    time        timestamptz NOT NULL,
    device_id   integer NOT NULL,
    metric_id   integer NOT NULL,
    number      double precision,
    integer     bigint,
    time_source smallint NOT NULL,
    flag        boolean,
    text        text
);
COMMENT ON COLUMN readings.device_id IS 'devices.id';
COMMENT ON COLUMN readings.metric_id IS 'metrics.id';
COMMENT ON COLUMN readings.time_source IS
    '1: the device''s clock, 2: its uptime and the instant it booted, 3: time of receipt';
SELECT create_hypertable('readings', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
-- The identity of a reading, and the only index: queries name a device and mostly a metric.
CREATE UNIQUE INDEX readings_identity ON readings (device_id, metric_id, time);

-- One row per accepted message, kept for the watch horizon.
CREATE TABLE device_log (
    received      timestamptz NOT NULL,
    position      bigint NOT NULL,
    device_id     integer NOT NULL,
    log_partition smallint NOT NULL,
    event         bytea NOT NULL
);
COMMENT ON COLUMN device_log.position IS 'counts up within its partition, in the order of commits';
COMMENT ON COLUMN device_log.event IS 'an encoded telemetry.v1.Event';
SELECT create_hypertable('device_log', by_range('received', INTERVAL '3 hours'), create_default_indexes => false);
CREATE INDEX device_log_position ON device_log (device_id, position);

-- Where each partition of the log begins and ends. An append locks the rows of the partitions it
-- adds to, which makes positions visible in the order in which they were given.
CREATE TABLE log_heads (
    log_partition smallint PRIMARY KEY,
    head          bigint NOT NULL DEFAULT 0,
    horizon       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON COLUMN log_heads.head IS 'the newest position';
COMMENT ON COLUMN log_heads.horizon IS 'the newest position that was deleted';
INSERT INTO log_heads (log_partition) SELECT generate_series(0, 31);

-- The runs of devices whose clock is an uptime counter. `booted` is decided once.
CREATE TABLE device_boots (
    device_id      integer NOT NULL,
    boot           integer NOT NULL,
    booted         timestamptz NOT NULL,
    last_uptime_ms bigint NOT NULL,
    PRIMARY KEY (device_id, boot)
);
