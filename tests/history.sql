-- Fills an empty, migrated database with history, for tests/bench and for trials by hand:
--
--   psql -v devices=1000 -v days=30 -f tests/history.sql postgres://…/telemetry
--
-- A reading a minute of four metrics of each device `history-…`, up to the last midnight (UTC). A day
-- is a transaction, and what is there already is left out: interrupted, it goes on where it was. Made
-- inside the server, past the services, because 1,000 devices and 30 days are 172 million readings.
\set ON_ERROR_STOP on
SET TIME ZONE 'UTC';
SET synchronous_commit = off;

INSERT INTO metrics (name)
SELECT unnest(ARRAY['soil_moisture', 'temperature', 'humidity', 'light_level'])
ON CONFLICT DO NOTHING;

INSERT INTO devices (device_id, first_seen, last_seen)
SELECT 'history-' || lpad(n::text, 6, '0'), date_trunc('day', now()) - :days * INTERVAL '1 day',
       date_trunc('day', now())
FROM generate_series(1, :devices) n
ON CONFLICT DO NOTHING;

CREATE TEMPORARY TABLE series AS
SELECT d.id AS device_id, m.id AS metric_id
FROM devices d, metrics m
WHERE d.device_id LIKE 'history-%'
  AND m.name IN ('soil_moisture', 'temperature', 'humidity', 'light_level');

INSERT INTO device_metrics (device_id, metric_id) SELECT device_id, metric_id FROM series
ON CONFLICT DO NOTHING;

-- In the order of time, as it would have come.
SELECT format($$
    INSERT INTO readings (time, device_id, metric_id, number, time_source)
    SELECT t, device_id, metric_id,
           round((50 + 40 * sin(extract(epoch FROM t) / 13751 + device_id + metric_id))::numeric, 1), 1
    FROM generate_series(%1$L::timestamptz, %1$L::timestamptz + INTERVAL '1439 minutes', '1 minute') t,
         series s
    WHERE NOT EXISTS (SELECT FROM readings r WHERE r.device_id = s.device_id
                      AND r.metric_id = s.metric_id AND r.time = %1$L::timestamptz)
    $$, day)
FROM generate_series(date_trunc('day', now()) - :days * INTERVAL '1 day',
                     date_trunc('day', now()) - INTERVAL '1 day', INTERVAL '1 day') day
\gexec

VACUUM (ANALYZE) readings;
