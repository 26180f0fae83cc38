-- The log by partition, as in TimescaleDB.
CREATE INDEX device_log_partition ON device_log (log_partition, position);
