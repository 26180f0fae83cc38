-- Devices are deleted with all that is theirs, and what was done by whom is written down.

ALTER TABLE log_heads ADD COLUMN deletions bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN log_heads.deletions IS
    'how many of its devices were deleted: by it, who remembers their numbers learns that one is dead';

CREATE TABLE audit (
    at          timestamptz NOT NULL,
    actor       text NOT NULL,
    action      text NOT NULL,
    subject     text NOT NULL,
    number      integer NOT NULL,
    readings    bigint NOT NULL,
    events      bigint NOT NULL,
    quarantined bigint NOT NULL
);
COMMENT ON TABLE audit IS 'what administrators did; never deleted';
COMMENT ON COLUMN audit.actor IS 'the name of the identity that called';
COMMENT ON COLUMN audit.subject IS 'the device, as it called itself';
COMMENT ON COLUMN audit.number IS 'the id it had in devices, which is not given again';
COMMENT ON COLUMN audit.readings IS 'this and the counts below: how much of it was deleted';

-- Rollups outlive the readings, and only their owner may change what they hold.
CREATE FUNCTION delete_from_rollups(device integer)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    held text;
BEGIN
    FOR held IN
        SELECT format('%I.%I', h.schema_name, h.table_name)
        FROM _timescaledb_catalog.continuous_agg AS agg
        JOIN _timescaledb_catalog.hypertable AS h ON h.id = agg.mat_hypertable_id
        JOIN _timescaledb_catalog.hypertable AS raw ON raw.id = agg.raw_hypertable_id
        WHERE raw.schema_name = current_schema() AND raw.table_name = 'readings'
          AND agg.user_view_name IN ('readings_1m', 'readings_1h', 'readings_1d')
    LOOP
        EXECUTE format('DELETE FROM %s WHERE device_id = $1', held) USING device;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION delete_from_rollups(integer) FROM PUBLIC;
DO $$
BEGIN
    IF to_regrole('telemetry_writer') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION delete_from_rollups(integer) TO telemetry_writer;
    END IF;
END
$$;
