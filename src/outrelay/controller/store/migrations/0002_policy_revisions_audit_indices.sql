-- The revision of each tenant's rule set, and what queries of the audit trail look for.

CREATE TABLE policy_revisions (
    tenant  TEXT PRIMARY KEY,
    number  INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO policy_revisions SELECT tenant, MAX(revision) FROM policies GROUP BY tenant;

DROP INDEX audit_by_stream; -- passed over: it had no order
CREATE INDEX audit_by_stream ON audit_events (tenant, stream_id, ts_unix_ms, seq);
CREATE INDEX audit_by_caller ON audit_events (tenant, caller, ts_unix_ms, seq);
CREATE INDEX audit_by_target ON audit_events (tenant, target, ts_unix_ms, seq);
CREATE INDEX audit_of_denials ON audit_events (tenant, ts_unix_ms, seq) WHERE decision = 2;
