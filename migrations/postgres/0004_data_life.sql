-- Who does the housekeeping, and names for people who ask in SQL.

-- What only one process may do at a time: it holds the lease, until it gives it back or it runs out.
CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    held_until timestamptz NOT NULL
);

CREATE VIEW telemetry AS
SELECT r.time,
       d.device_id AS device,
       m.name AS metric,
       coalesce(r.number, r.integer::double precision) AS value,
       r.flag,
       r.text,
       CASE r.time_source WHEN 1 THEN 'device' WHEN 2 THEN 'uptime' ELSE 'received' END AS time_source
FROM readings r
JOIN devices d ON d.id = r.device_id
JOIN metrics m ON m.id = r.metric_id;
COMMENT ON VIEW telemetry IS 'all readings, by name; fast if device, metric and time are limited';
COMMENT ON COLUMN telemetry.value IS 'null if the reading is a flag or a text';
COMMENT ON COLUMN telemetry.time_source IS
    'device: its clock, uptime: its uptime and the instant it booted, received: time of receipt';

CREATE VIEW device_overview AS
SELECT d.device_id AS device,
       d.first_seen,
       d.last_seen,
       d.last_heartbeat,
       d.clock_skew_us / 1000000.0::double precision AS clock_ahead_s,
       (SELECT count(*) FROM device_metrics dm WHERE dm.device_id = d.id) AS metrics
FROM devices d;
COMMENT ON VIEW device_overview IS 'every device that was ever heard of; written every few seconds';
COMMENT ON COLUMN device_overview.clock_ahead_s IS 'seconds its wall clock was ahead of ours';
COMMENT ON COLUMN device_overview.metrics IS 'how many metrics it has ever sent';
