#!/bin/sh
# Who may use a database of our own: run once, by the entrypoint of the image timescaledb, when it
# makes the database. The store owns the tables and is no superuser; the reader, for dashboards and
# people, may only read. Passwords come from variables, or from the files that *_FILE name.
set -eu
store=${STORE_DATABASE_PASSWORD:-$(cat "$STORE_DATABASE_PASSWORD_FILE")}
reader=${READER_DATABASE_PASSWORD:-$(cat "$READER_DATABASE_PASSWORD_FILE")}
psql -qX -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
    -v store="$store" -v reader="$reader" <<'END'
CREATE ROLE telemetry LOGIN PASSWORD :'store';
ALTER DATABASE :"DBNAME" OWNER TO telemetry;
REVOKE ALL ON DATABASE :"DBNAME" FROM public;
CREATE ROLE telemetry_reader LOGIN PASSWORD :'reader';
GRANT CONNECT ON DATABASE :"DBNAME" TO telemetry_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE telemetry GRANT SELECT ON TABLES TO telemetry_reader;
ALTER ROLE telemetry_reader SET statement_timeout = '60s';
END
