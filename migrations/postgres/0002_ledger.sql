-- What became of every message: an account per process that sends, and the quarantine.

-- Counted in the transactions that store the readings.
CREATE TABLE ledger (
    process_id           text PRIMARY KEY,
    client_id            text NOT NULL,
    started              timestamptz NOT NULL,
    updated              timestamptz NOT NULL,
    ended_at             timestamptz,
    settled_before       bigint NOT NULL DEFAULT 0,
    settled_through      bigint NOT NULL DEFAULT 0,
    stored               bigint NOT NULL DEFAULT 0,
    duplicate            bigint NOT NULL DEFAULT 0,
    quarantined          bigint NOT NULL DEFAULT 0,
    quarantine_full      bigint NOT NULL DEFAULT 0,
    partial              bigint NOT NULL DEFAULT 0,
    partial_lost         bigint NOT NULL DEFAULT 0,
    readings_stored      bigint NOT NULL DEFAULT 0,
    readings_duplicate   bigint NOT NULL DEFAULT 0,
    readings_conflicting bigint NOT NULL DEFAULT 0,
    received             bigint NOT NULL DEFAULT 0,
    dropped              bigint NOT NULL DEFAULT 0,
    report               bytea
) WITH (fillfactor = 50);
COMMENT ON COLUMN ledger.process_id IS 'empty for clients that did not introduce themselves';
COMMENT ON COLUMN ledger.ended_at IS 'when another process took over its client_id';
COMMENT ON COLUMN ledger.settled_before IS 'messages it had settled before this database knew it';
COMMENT ON COLUMN ledger.settled_through IS 'the number of its last message that is settled';
COMMENT ON COLUMN ledger.received IS 'messages the broker handed to it, as it told last';
COMMENT ON COLUMN ledger.dropped IS 'those of them that it let go, as it told last';
COMMENT ON COLUMN ledger.report IS 'all that it told last: an encoded telemetry.v1.BridgeReport';

-- Messages that could not be understood or stored, or not all of them.
CREATE TABLE quarantine (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received  timestamptz NOT NULL,
    topic     text NOT NULL,
    qos       smallint NOT NULL,
    device_id text,
    kind      smallint,
    reason    text NOT NULL,
    field     text NOT NULL,
    detail    text NOT NULL,
    partial   boolean NOT NULL,
    payload   bytea NOT NULL
);
COMMENT ON COLUMN quarantine.device_id IS 'as the topic names it, if it does';
COMMENT ON COLUMN quarantine.kind IS '1: telemetry, 2: heartbeat, null: the topic does not tell';
COMMENT ON COLUMN quarantine.partial IS 'whether the rest of the message was stored';

-- How far a device's wall clock was ahead of ours when it last told one.
ALTER TABLE devices ADD COLUMN clock_skew_us bigint;

-- The lowest uptime seen of a boot: below it there is nothing that could have come again.
ALTER TABLE device_boots ADD COLUMN first_uptime_ms bigint NOT NULL DEFAULT 0;
