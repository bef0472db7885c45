-- Programs that know the schema up to this number work with it, although it may have more since.
CREATE TABLE schema_compatibility (
    oldest BIGINT NOT NULL
);
INSERT INTO schema_compatibility (oldest) VALUES (7);
-- Keys that several gateways share (`keys.source = "database"`). `line` is the key as a line of the key file.
CREATE TABLE keys (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- Lists are in this order.
    position BIGINT NOT NULL,
    -- The revision that changed the key last.
    revision BIGINT NOT NULL,
    -- In milliseconds since 1970. The row of a deleted key stays until every gateway has read it.
    deleted_at BIGINT,
    line TEXT COLLATE "C" NOT NULL
);
CREATE INDEX keys_by_revision ON keys (revision);
CREATE INDEX deleted_keys_by_revision ON keys (revision) WHERE deleted_at IS NOT NULL;
-- One row for each change of keys, whose `n` grows by one without gaps, in the order of the commits. `change_id` is random:
-- a database that has another one at the same `n` went another way, such as one restored from a backup.
CREATE TABLE key_revisions (
    n BIGINT NOT NULL PRIMARY KEY,
    change_id TEXT COLLATE "C" NOT NULL,
    gateway TEXT COLLATE "C" NOT NULL,
    committed_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- Not null: from here on gateways follow the database, although it lacks revisions that they have seen.
    accepts_rollback_from BIGINT
);
CREATE INDEX accepted_rollbacks ON key_revisions (accepts_rollback_from) WHERE accepts_rollback_from IS NOT NULL;
CREATE INDEX key_revisions_by_time ON key_revisions (committed_at);
INSERT INTO revisions (name, value) VALUES ('keys', 0);
-- The gateways that share the database, each by a text that no other start of a gateway has.
CREATE TABLE gateways (
    instance TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    -- In milliseconds since 1970, by the gateway's clock.
    started_at BIGINT NOT NULL,
    -- By the database's clock.
    seen_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- The revision of the keys that is in force there; null where keys come from a file.
    seen_revision BIGINT,
    -- 1: it has seen changes that the database lacks, so that its revision is one of another history. Else 0.
    database_behind BIGINT NOT NULL DEFAULT 0,
    -- How long the last change of another gateway took from its commit until it was in force, in milliseconds.
    lag_ms BIGINT,
    in_flight BIGINT NOT NULL
);
