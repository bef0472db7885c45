-- One row for each request that an upstream may have worked for. Times are milliseconds since 1970; a count that is
-- not known is NULL. The id grows with each row.
CREATE TABLE usage_records (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    gateway TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    account TEXT,
    model TEXT NOT NULL,
    upstream TEXT NOT NULL,
    route TEXT NOT NULL,
    status INTEGER NOT NULL,
    end_kind TEXT NOT NULL,
    client_address TEXT,
    first_byte_ms INTEGER,
    duration_ms INTEGER NOT NULL,
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    input_tokens INTEGER,
    input_cached_tokens INTEGER,
    output_tokens INTEGER,
    output_reasoning_tokens INTEGER,
    audio_microseconds INTEGER,
    images INTEGER,
    certainty TEXT NOT NULL,
    cost INTEGER
) STRICT;
CREATE INDEX usage_records_by_key ON usage_records (key_id);

-- Sums over an hour or a day (width in seconds) that starts at start (seconds since 1970).
-- scope 2: of one key (subject is its id); 1: of one account (subject is the account, or ''); 0: of all (subject is '').
-- The wider scopes are kept so that questions about months need not read a row for each key.
CREATE TABLE usage_sums (
    scope INTEGER NOT NULL,
    width INTEGER NOT NULL,
    start INTEGER NOT NULL,
    subject TEXT NOT NULL,
    account TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    at_least INTEGER NOT NULL,
    unknown INTEGER NOT NULL,
    input_tokens INTEGER,
    input_cached_tokens INTEGER,
    output_tokens INTEGER,
    output_reasoning_tokens INTEGER,
    audio_microseconds INTEGER,
    images INTEGER,
    cost INTEGER,
    PRIMARY KEY (scope, width, start, subject, account, model, upstream)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_sums_by_subject ON usage_sums (subject, width, start);

-- When a key was last used (seconds since 1970), and how often in all.
CREATE TABLE key_uses (
    key_id TEXT PRIMARY KEY,
    last_used_at INTEGER NOT NULL,
    requests INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The last batch of each writer that was applied. A batch that is sent again is recognised by its number.
CREATE TABLE writers (
    writer TEXT PRIMARY KEY,
    gateway TEXT NOT NULL,
    batch INTEGER NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
