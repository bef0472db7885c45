-- Budgets that were begun anew within their periods: what was spent by then (in the unit of the budget; costs and seconds in
-- millionths), and when (seconds since 1970).
CREATE TABLE budget_resets (
    key_id TEXT COLLATE "C" NOT NULL,
    unit TEXT COLLATE "C" NOT NULL,
    period TEXT COLLATE "C" NOT NULL,
    reset_at BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    PRIMARY KEY (key_id, unit, period)
);
