-- Registry, policy, audit.

CREATE TABLE revision (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    number  INTEGER NOT NULL
);
INSERT INTO revision VALUES (1, 0);

CREATE TABLE relay_instances (
    id                TEXT PRIMARY KEY,
    holder            TEXT NOT NULL,     -- URI of the certificate that holds the id; '' for none
    region            TEXT NOT NULL,
    endpoint          TEXT NOT NULL,
    forward_endpoint  TEXT NOT NULL,
    tcp_endpoint      TEXT NOT NULL,
    intra_endpoint    TEXT NOT NULL,
    load              INTEGER NOT NULL,
    draining          INTEGER NOT NULL,
    beating           INTEGER NOT NULL,  -- repeats its UpsertRelay, so that silence is death
    alive             INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE services (
    tenant      TEXT NOT NULL,
    name        TEXT NOT NULL,
    agent_uri   TEXT NOT NULL,
    relay_id    TEXT NOT NULL REFERENCES relay_instances (id),
    local_addr  TEXT NOT NULL,
    weight      INTEGER NOT NULL,
    priority    INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    PRIMARY KEY (tenant, name, agent_uri)
) WITHOUT ROWID;
CREATE INDEX services_by_relay ON services (relay_id);
CREATE INDEX services_by_agent ON services (agent_uri);

CREATE TABLE policies (
    tenant          TEXT NOT NULL,
    id              TEXT NOT NULL,
    caller_pattern  TEXT NOT NULL,
    target_pattern  TEXT NOT NULL,
    method_pattern  TEXT NOT NULL,
    decision        INTEGER NOT NULL,
    expires_ms      INTEGER NOT NULL,    -- 0: never
    created_ms      INTEGER NOT NULL,
    p2p_mode        INTEGER NOT NULL,
    relay_mode      INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX policies_by_expiry ON policies (expires_ms) WHERE expires_ms > 0;

CREATE TABLE audit_events (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id     TEXT NOT NULL UNIQUE,
    ts_unix_ms   INTEGER NOT NULL,
    tenant       TEXT NOT NULL,
    caller       TEXT NOT NULL,
    target       TEXT NOT NULL,
    method       TEXT NOT NULL,
    decision     INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    stream_id    TEXT NOT NULL,
    event        TEXT NOT NULL,
    relay_id     TEXT NOT NULL,
    provider     TEXT NOT NULL,
    bytes_up     INTEGER NOT NULL,
    bytes_down   INTEGER NOT NULL,
    duration_ms  INTEGER NOT NULL
);
CREATE INDEX audit_by_time ON audit_events (tenant, ts_unix_ms, seq);
CREATE INDEX audit_by_stream ON audit_events (tenant, stream_id);
CREATE INDEX audit_by_age ON audit_events (ts_unix_ms);
