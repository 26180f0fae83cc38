-- Names for people who ask in SQL, as in TimescaleDB. One process has the database, so no leases.

-- All readings, by name; fast if device, metric and time are limited. Times are ISO 8601 as text;
-- time_us is the same as microseconds since 1970.
CREATE VIEW telemetry AS
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', r.time / 1000000.0, 'unixepoch') AS time,
       d.device_id AS device,
       m.name AS metric,
       coalesce(r.number, CAST(r.integer AS REAL)) AS value,
       r.flag,
       r.text,
       CASE r.time_source WHEN 1 THEN 'device' WHEN 2 THEN 'uptime' ELSE 'received' END AS time_source,
       r.time AS time_us
FROM readings r
JOIN devices d ON d.id = r.device_id
JOIN metrics m ON m.id = r.metric_id;

-- Every device that was ever heard of; written every few seconds.
CREATE VIEW device_overview AS
SELECT d.device_id AS device,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.first_seen / 1000000.0, 'unixepoch') AS first_seen,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.last_seen / 1000000.0, 'unixepoch') AS last_seen,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.last_heartbeat / 1000000.0, 'unixepoch') AS last_heartbeat,
       d.clock_skew_us / 1000000.0 AS clock_ahead_s,
       (SELECT count(*) FROM device_metrics dm WHERE dm.device_id = d.id) AS metrics
FROM devices d;
