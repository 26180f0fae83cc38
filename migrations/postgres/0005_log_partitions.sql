-- The log by partition: what a watch of several devices reads, and where a time lies in it.
CREATE INDEX device_log_partition ON device_log (log_partition, position);
