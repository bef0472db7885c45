-- What gateways share of the limits of keys and accounts. `holder` is "key/ID" or "account/ID", `kind` the limit. `state` is a
-- JSON object: what was used, and what each gateway holds. `version` grows by one with each change, so that a gateway changes
-- only what it has read.
CREATE TABLE limit_leases (
    holder TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    -- From here on nothing of it matters any more. In milliseconds since 1970, by the database's clock.
    ends_at BIGINT NOT NULL,
    PRIMARY KEY (holder, kind)
);
CREATE INDEX limit_leases_by_end ON limit_leases (ends_at);
