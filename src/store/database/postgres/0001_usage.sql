-- One row for each request that an upstream may have worked for. Times are milliseconds since 1970; a count that is
-- not known is NULL. The id grows with each row.
CREATE TABLE usage_records (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id TEXT COLLATE "C" NOT NULL,
    gateway TEXT COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C",
    model TEXT COLLATE "C" NOT NULL,
    upstream TEXT COLLATE "C" NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    end_kind TEXT COLLATE "C" NOT NULL,
    client_address TEXT COLLATE "C",
    first_byte_ms BIGINT,
    duration_ms BIGINT NOT NULL,
    bytes_in BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    input_tokens BIGINT,
    input_cached_tokens BIGINT,
    output_tokens BIGINT,
    output_reasoning_tokens BIGINT,
    audio_microseconds BIGINT,
    images BIGINT,
    certainty TEXT COLLATE "C" NOT NULL,
    cost BIGINT
);
CREATE INDEX usage_records_by_key ON usage_records (key_id);

-- Sums over an hour or a day (width in seconds) that starts at start (seconds since 1970).
-- scope 2: of one key (subject is its id); 1: of one account (subject is the account, or ''); 0: of all (subject is '').
-- The wider scopes are kept so that questions about months need not read a row for each key.
CREATE TABLE usage_sums (
    scope BIGINT NOT NULL,
    width BIGINT NOT NULL,
    start BIGINT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    upstream TEXT COLLATE "C" NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    at_least BIGINT NOT NULL,
    unknown BIGINT NOT NULL,
    input_tokens BIGINT,
    input_cached_tokens BIGINT,
    output_tokens BIGINT,
    output_reasoning_tokens BIGINT,
    audio_microseconds BIGINT,
    images BIGINT,
    cost BIGINT,
    PRIMARY KEY (scope, width, start, subject, account, model, upstream)
);
CREATE INDEX usage_sums_by_subject ON usage_sums (subject, width, start);

-- When a key was last used (seconds since 1970), and how often in all.
CREATE TABLE key_uses (
    key_id TEXT COLLATE "C" PRIMARY KEY,
    last_used_at BIGINT NOT NULL,
    requests BIGINT NOT NULL
);

-- The last batch of each writer that was applied. A batch that is sent again is recognised by its number.
CREATE TABLE writers (
    writer TEXT COLLATE "C" PRIMARY KEY,
    gateway TEXT COLLATE "C" NOT NULL,
    batch BIGINT NOT NULL,
    applied_at BIGINT NOT NULL
);
