-- Two groups with the least that somebody needs, for the logins of others than the owner of the
-- tables, who migrates: GRANT telemetry_writer TO the login of the store, GRANT telemetry_reader TO
-- the logins of people and dashboards. Groups belong to the whole server, so they may be there
-- already, and who migrates may not be allowed to make them: then make them and run the grants below.
DO $$
DECLARE
    made text;
BEGIN
    FOREACH made IN ARRAY ARRAY['telemetry_writer', 'telemetry_reader'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', made);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'may not create the role %, which nobody needs but for least privilege', made;
        END;
    END LOOP;
END
$$;

-- Only the owner of a table may drop its chunks; the writer may have it done to these two.
CREATE FUNCTION drop_telemetry_chunks(hypertable text, older_than timestamptz, newer_than timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF hypertable NOT IN ('readings', 'device_log') THEN
        RAISE EXCEPTION 'no table of ours: %', hypertable;
    END IF;
    PERFORM drop_chunks(hypertable::regclass, older_than => older_than, newer_than => newer_than);
END
$$;
REVOKE ALL ON FUNCTION drop_telemetry_chunks(text, timestamptz, timestamptz) FROM PUBLIC;

DO $$
DECLARE
    home text := current_schema();
BEGIN
    IF to_regrole('telemetry_writer') IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO telemetry_writer', home);
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO telemetry_writer', home);
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES IN SCHEMA %I
             GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO telemetry_writer', home);
        EXECUTE format(
            'REVOKE INSERT, UPDATE, DELETE ON %I._sqlx_migrations FROM telemetry_writer', home);
        GRANT EXECUTE ON FUNCTION drop_telemetry_chunks(text, timestamptz, timestamptz)
            TO telemetry_writer;
    END IF;
    IF to_regrole('telemetry_reader') IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO telemetry_reader', home);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO telemetry_reader', home);
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO telemetry_reader', home);
    END IF;
END
$$;
