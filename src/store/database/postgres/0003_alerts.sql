-- What the operator is told. One row for each subject, so that nothing is told twice. Times are seconds since 1970.
CREATE TABLE alerts (
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    about TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL UNIQUE,
    body TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    -- When it is tried next; NULL once it was delivered or given up.
    next_at BIGINT,
    ended_at BIGINT,
    is_delivered BIGINT NOT NULL,
    error TEXT COLLATE "C"
);
CREATE INDEX alerts_by_next ON alerts (next_at) WHERE next_at IS NOT NULL;
