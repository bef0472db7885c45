-- One row for each change, in the order of the changes. n counts from 1 without gaps. at is in milliseconds since 1970;
-- before and after are JSON objects. hash covers the whole row and previous_hash, the hash of the row before.
CREATE TABLE audit (
    n INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    via TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT,
    before TEXT,
    after TEXT,
    address TEXT,
    request_id TEXT,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_target ON audit (target, n);
CREATE INDEX audit_by_action ON audit (action, n);
