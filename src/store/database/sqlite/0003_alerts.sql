-- What the operator is told. One row for each subject, so that nothing is told twice. Times are seconds since 1970.
CREATE TABLE alerts (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    about TEXT NOT NULL,
    subject TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- When it is tried next; NULL once it was delivered or given up.
    next_at INTEGER,
    ended_at INTEGER,
    is_delivered INTEGER NOT NULL,
    error TEXT
) STRICT;
CREATE INDEX alerts_by_next ON alerts (next_at) WHERE next_at IS NOT NULL;
