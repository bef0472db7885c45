-- One row for each change, in the order of the changes. n counts from 1 without gaps. at is in milliseconds since 1970;
-- before and after are JSON objects. hash covers the whole row and previous_hash, the hash of the row before.
CREATE TABLE audit (
    n BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    via TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C",
    before TEXT COLLATE "C",
    after TEXT COLLATE "C",
    address TEXT COLLATE "C",
    request_id TEXT COLLATE "C",
    previous_hash TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_by_target ON audit (target, n);
CREATE INDEX audit_by_action ON audit (action, n);
